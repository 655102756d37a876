"""What an examination finds, and how checks that build on each other are run.

Invariants:

1. A check that raises is a failure of its own and ends no other.
2. What builds on something that is not in order is not checked, and listed as such: one fault is
   one finding.
3. An exception that no check expects is shown by its type alone: its text may hold anything.
"""

import shlex
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

import msgspec

from keys.errors import KeysError
from keys.messages import describe_os_error
from webhook.errors import LeewayError

_T = TypeVar("_T")


class Status(StrEnum):
    """How a check ended; the values are those of the JSON."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


class Verdict(NamedTuple):
    """What a check says: one sentence with the value, and the fix unless all is well."""

    status: Status
    finding: str
    fix: str = ""


class CheckResult(msgspec.Struct, frozen=True):
    """One line of a report."""

    name: str
    status: Status
    finding: str
    fix: str


class NotChecked(msgspec.Struct, frozen=True):
    """A check that was not made, and why."""

    name: str
    why: str


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """An examination: ``status`` is the worst of its checks, ``examined_at`` RFC 3339."""

    data_dir: str
    examined_at: str
    status: Status
    checks: tuple[CheckResult, ...]
    not_checked: tuple[NotChecked, ...]


class MissingError(LeewayError):
    """A check needs what another one has found not to be in order."""


class Loaded(Generic[_T]):
    """What a check has loaded for those after it."""

    def __init__(self, name: str, value: _T | None = None) -> None:
        self._name = name
        self._value = value

    def get(self) -> _T:
        """Return it. Raises MissingError where its own check has failed."""
        if self._value is None:
            raise MissingError(f"it needs {self._name} to be in order")
        return self._value

    def judged_by(self, check: Callable[[_T], Verdict]) -> Callable[[], Verdict]:
        """Return a check of it that has yet to be run."""
        return lambda: check(self.get())


def ok(finding: str) -> Verdict:
    """Return the verdict that all is well."""
    return Verdict(Status.OK, finding)


def warning(finding: str, fix: str) -> Verdict:
    """Return the verdict on what works, but not for long or not as it should."""
    return Verdict(Status.WARNING, finding, fix)


def failure(finding: str, fix: str) -> Verdict:
    """Return the verdict on what does not work, or is not safe."""
    return Verdict(Status.FAILURE, finding, fix)


def command(*words: object) -> str:
    """Write a command as a shell takes it."""
    return shlex.join(map(str, words))


class Examination:
    """Runs checks one after the other and keeps what they find."""

    def __init__(self) -> None:
        self._results: list[CheckResult] = []
        self._not_checked: list[NotChecked] = []

    def check(self, name: str, run: Callable[[], Verdict], fix: str) -> None:
        """Run a check; ``fix`` is for an error that it raises."""
        self.load(name, lambda: True, lambda _: run(), fix)

    def load(
        self, name: str, load: Callable[[], _T], judge: Callable[[_T], Verdict], fix: str
    ) -> Loaded[_T]:
        """Load something that other checks need, and judge it; a failure keeps it from them."""
        value = None
        try:
            found = load()
            verdict = judge(found)
            value = None if verdict.status is Status.FAILURE else found
        except MissingError as error:
            self.leave_out(name, str(error))
            return Loaded(name)
        except OSError as error:
            verdict = failure(describe_os_error(error), fix)
        except (LeewayError, KeysError) as error:
            verdict = failure(" ".join(str(error).split()), fix)
        except Exception as error:  # invariants 1 and 3
            verdict = failure(f"the check itself failed with {type(error).__name__}", fix)
        self._results.append(CheckResult(name, *verdict))
        return Loaded(name, value)

    def leave_out(self, name: str, why: str) -> None:
        """Note a check that is not made."""
        self._not_checked.append(NotChecked(name, why))

    def report(self, data_dir: str, examined_at: str) -> Report:
        """Return what has been found so far."""
        found = {result.status for result in self._results}
        worst = next((s for s in (Status.FAILURE, Status.WARNING) if s in found), Status.OK)
        results, left_out = tuple(self._results), tuple(self._not_checked)
        return Report(data_dir, examined_at, worst, results, left_out)
