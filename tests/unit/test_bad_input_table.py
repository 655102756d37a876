"""Every row of docs/bad-input.md has a test, and every test that names a row is there."""

from pathlib import Path

import pytest

from tests.bad_input_table import (
    PAGE,
    PARTS,
    ROOT,
    ROWS,
    by_row,
    collected_tests,
    render,
    rows_named,
)

TESTS = by_row(collected_tests(ROOT / "tests"))


def test_the_page_is_what_the_generator_makes() -> None:
    assert PAGE.read_text("utf-8") == render(TESTS), "run `make docs-tables`"


def test_the_rows_are_numbered_from_1_on() -> None:
    assert list(ROWS) == list(range(1, len(ROWS) + 1))
    assert set(PARTS) <= set(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_a_test(row: int) -> None:
    assert TESTS.get(row), f"no test names bad_input_{row:02}: {ROWS[row]}"


def test_no_test_names_a_row_that_is_not_there() -> None:
    unknown = {row: names for row, names in TESTS.items() if row not in ROWS}
    assert unknown == {}


def test_names_and_ids_of_parameters_count(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "TABLE = {'bad_input_05': 1, 'none': 2}\n"
        "def test_bad_input_07_member_twice(): ...\n"
        "def test_bad_input_27_to_29_and_43_in_30_seconds(): ...\n"
        "def test_bad_input_32_10000_audiences(): ...\n"
        "@pytest.mark.parametrize('a', [1], ids=['bad_input_99_unknown'])\n"
        "def test_with_an_id(a): ...\n"
        "@pytest.mark.parametrize('a', TABLE)\n"
        "def test_with_a_table(a): ...\n"
        "def test_of_bad_input_11(): ...\n"
        "def helper_of_bad_input_12(): ...\n"
    )
    assert by_row(collected_tests(tmp_path)) == {
        5: ["test_it.py::test_with_a_table"],
        7: ["test_it.py::test_bad_input_07_member_twice"],
        **{n: ["test_it.py::test_bad_input_27_to_29_and_43_in_30_seconds"] for n in (27, 28, 29)},
        32: ["test_it.py::test_bad_input_32_10000_audiences"],
        43: ["test_it.py::test_bad_input_27_to_29_and_43_in_30_seconds"],
        99: ["test_it.py::test_with_an_id"],
    }
    assert rows_named("bad_input_27_to_31") == {27, 28, 29, 30, 31}
