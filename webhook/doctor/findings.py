"""Runs checks that depend on each other, and collects what they find.

Invariants:

1. A check that raises is a failure of its own and stops no other.
2. A check whose prerequisite has failed is skipped and listed as such: one fault is one finding.
3. Only the type of an unexpected exception is shown, since its text may contain a secret.

>>> exam = Examination()
>>> port = exam.load("port", lambda: 8443, lambda found: ok(f"port {found}"), "leeway init")
>>> exam.check("server", port.check_with(lambda found: failure("down", "leeway serve")), "")
>>> [(result.name, result.finding) for result in exam.report("leeway-data", "").checks]
[('port', 'port 8443'), ('server', 'down')]
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
    """The result of a check: one sentence with the value, and the fix unless it is ok."""

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
    """A check that was skipped, and why."""

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
    """A prerequisite of a check is missing: its own check has failed."""


class Prerequisite(Generic[_T]):
    """A value that one check has loaded for later ones."""

    def __init__(self, name: str, value: _T | None = None) -> None:
        self._name = name
        self._value = value

    def get(self) -> _T:
        """Return the value. Raises MissingError if its own check has failed."""
        if self._value is None:
            raise MissingError(f"it needs {self._name} to be in order")
        return self._value

    def check_with(self, check: Callable[[_T], Verdict]) -> Callable[[], Verdict]:
        """Return a check that calls ``check`` with the value."""
        return lambda: check(self.get())


def ok(finding: str) -> Verdict:
    """Return the verdict on what is as it should be."""
    return Verdict(Status.OK, finding)


def warning(finding: str, fix: str) -> Verdict:
    """Return the verdict on what works, but not for much longer or not as it should."""
    return Verdict(Status.WARNING, finding, fix)


def failure(finding: str, fix: str) -> Verdict:
    """Return the verdict on what does not work or is not safe."""
    return Verdict(Status.FAILURE, finding, fix)


def command(*words: object) -> str:
    """Return a command line for a shell."""
    return shlex.join(map(str, words))


class Examination:
    """Runs checks one after the other and collects their results."""

    def __init__(self) -> None:
        self._results: list[CheckResult] = []
        self._not_checked: list[NotChecked] = []

    def check(self, name: str, run: Callable[[], Verdict], fix: str) -> None:
        """Run a check; ``fix`` is the fix for an error that it raises."""
        self.load(name, lambda: True, lambda _: run(), fix)

    def load(
        self, name: str, load: Callable[[], _T], judge: Callable[[_T], Verdict], fix: str
    ) -> Prerequisite[_T]:
        """Load and judge a value that other checks need; if that fails, they are skipped."""
        value = None
        try:
            found = load()
            verdict = judge(found)
            value = None if verdict.status is Status.FAILURE else found
        except MissingError as error:
            self.skip(name, str(error))  # invariant 2
            return Prerequisite(name)
        except OSError as error:
            verdict = failure(describe_os_error(error), fix)
        except (LeewayError, KeysError) as error:
            verdict = failure(" ".join(str(error).split()), fix)
        except Exception as error:  # invariants 1 and 3
            verdict = failure(f"the check itself failed with {type(error).__name__}", fix)
        self._results.append(CheckResult(name, *verdict))
        return Prerequisite(name, value)

    def skip(self, name: str, why: str) -> None:
        """Record a check that is not made."""
        self._not_checked.append(NotChecked(name, why))

    def report(self, data_dir: str, examined_at: str) -> Report:
        """Return the results so far."""
        found = {result.status for result in self._results}
        worst = next((s for s in (Status.FAILURE, Status.WARNING) if s in found), Status.OK)
        results, left_out = tuple(self._results), tuple(self._not_checked)
        return Report(data_dir, examined_at, worst, results, left_out)
