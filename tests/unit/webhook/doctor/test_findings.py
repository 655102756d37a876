"""How checks are run: one fault is one finding, also if a check fails."""

import pytest

from keys.errors import KeyFileError
from webhook.doctor.findings import Examination, Status, Verdict, failure, ok, warning
from webhook.errors import ConfigurationError


def raising(error: Exception) -> Verdict:
    raise error


def test_a_check_that_raises_stops_no_other_and_shows_no_secret() -> None:
    exam = Examination()
    exam.check("typed", lambda: raising(KeyFileError("k.pem is\nempty")), "restore it")
    exam.check("wild", lambda: raising(ValueError("secret")), "report it")
    exam.check("after", lambda: ok("fine"), "")
    report = exam.report("d", "now")
    assert [(c.name, c.status, c.finding, c.fix) for c in report.checks] == [
        ("typed", Status.FAILURE, "k.pem is empty", "restore it"),
        ("wild", Status.FAILURE, "the check itself failed with ValueError", "report it"),
        ("after", Status.OK, "fine", ""),
    ]
    assert report.status is Status.FAILURE


@pytest.mark.parametrize("error", [None, ConfigurationError("no"), OSError("no"), KeyError("no")])
def test_a_check_that_depends_on_a_failure_is_skipped(error: Exception | None) -> None:
    exam = Examination()

    def load() -> int:
        if error is not None:
            raise error
        return 1

    loaded = exam.load("first", load, lambda _: failure("bad", "fix it"), "fix it")
    second = exam.load("second", lambda: loaded.get() + 1, lambda _: ok("fine"), "")
    exam.check("third", lambda: ok(str(second.get())), "")
    report = exam.report("d", "now")
    assert [c.name for c in report.checks] == ["first"]
    assert [(n.name, n.why) for n in report.not_checked] == [
        ("second", "it needs first to be in order"),
        ("third", "it needs second to be in order"),
    ]


def test_a_warning_skips_no_check() -> None:
    exam = Examination()
    loaded = exam.load("first", lambda: 41, lambda _: warning("old", "renew"), "")
    exam.check("second", loaded.check_with(lambda value: ok(str(value))), "")
    report = exam.report("d", "now")
    assert [(c.name, c.finding) for c in report.checks] == [("first", "old"), ("second", "41")]
    assert report.status is Status.WARNING
