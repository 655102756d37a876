from collections.abc import Iterator

import pytest

from .pair import Pair, running_pair


@pytest.fixture(scope="module")
def _running_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with running_pair(tmp_path_factory.mktemp("pair")) as running:
        yield running


@pytest.fixture
def pair(_running_pair: Pair) -> Pair:
    """Return an etcd and a Leeway that are both empty, with auth disabled."""
    _running_pair.reset()
    return _running_pair
