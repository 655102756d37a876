import pytest

from webhook.config.groups import find_group


@pytest.mark.parametrize(
    ("group", "number"),
    [
        pytest.param("root", 0, id="name"),
        pytest.param("12345", 12345, id="number"),
        pytest.param(str(2**32 - 2), 2**32 - 2, id="largest"),
        pytest.param(str(2**32 - 1), None, id="no-change"),
        pytest.param("9" * 5000, None, id="not-converted"),
        pytest.param("nobodys", None, id="unknown"),
    ],
)
def test_find_group(group: str, number: int | None) -> None:
    assert find_group(group) == number
