import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.duration import format_duration, parse_duration, rounded_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("0s", 0), ("60s", 60), ("1m", 60), ("1h30m", 5400), ("1h", 3600),
        ("30d", 2592000), ("250ms", 0.25), ("1.5h", 5400), ("1m0.5s", 60.5), ("24h", 86400),
        ("3607s", 3607),
    ],
)  # fmt: skip
def test_parse(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "60", "-1s", "+1s", "s", "1", "1 s", " 1s", "1s ", "1x", "1sx", "x1s", "1.s", ".5s",
     "1e3s", "1h-1m", "\u0661s", "1s\n", "inf", "nan", "1µs", "0x1s", "1S", "1H"],
)  # fmt: skip
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (1, "1s"), (60, "1m"), (90, "1m30s"), (3600, "1h"), (3607, "1h7s"), (86400, "24h"),
     (5400, "1h30m"), (0.25, "0.25s"), (60.5, "1m0.5s")],
)  # fmt: skip
def test_format(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 1 << 40))
def test_round_trip(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.text(max_size=20))
def test_parse_never_crashes(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert seconds >= 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (86400, "24h"), (172800, "2 days"), (31536000, "365 days")],
)
def test_in_words(seconds: float, text: str) -> None:
    assert rounded_duration(seconds) == text
