"""Every row of docs/bad-input.md has a test, and the page names every test that is marked."""

from pathlib import Path

import pytest

from tests.bad_input_table import COLLECTED, PAGE, PARTS, ROOT, ROWS, render


@pytest.fixture
def tests(pytestconfig: pytest.Config) -> dict[int, list[str]]:
    """Return the tests of each row, in a run that has collected all."""
    places = {Path(pytestconfig.invocation_params.dir, arg) for arg in pytestconfig.args}
    if places != {ROOT / "tests"}:
        pytest.skip("all tests have to be collected: run pytest without a path")
    return pytestconfig.stash[COLLECTED]


def test_every_row_has_a_test_and_every_mark_a_row(tests: dict[int, list[str]]) -> None:
    assert list(tests) == list(ROWS) == sorted(ROWS)
    assert set(PARTS) <= set(ROWS)


def test_the_page_is_what_the_generator_makes(tests: dict[int, list[str]]) -> None:
    assert PAGE.read_text("utf-8") == render(tests), "run `make docs-tables`"
