"""A TokenReview passes through few files."""

from benchmarks.way import MOST_FILES, way_of_a_review


def test_way_of_a_review() -> None:
    way = list(way_of_a_review())
    assert way[0] == "webhook/server/connection/connection.py"
    assert "webhook/token/authenticator.py" in way
    assert len(way) <= MOST_FILES, way
