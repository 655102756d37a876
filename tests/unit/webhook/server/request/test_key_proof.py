"""A keyring is used for as long as it is known to be the newest one, and 300 s longer."""

from math import inf

import pytest

from webhook.server.request.key_proof import KEYS_SECONDS, requirement_of_keys
from webhook.server.request.message import RequestError


@pytest.mark.parametrize(
    ("proof", "now", "good"),
    [
        pytest.param(inf, 5.0, True, id="folder"),
        # A store without proofs that age has no clock either.
        pytest.param(inf, inf, True, id="folder-without-clock"),
        pytest.param(1000.0, 1000.0, True, id="now"),
        pytest.param(1000.0, 1000.0 + KEYS_SECONDS, True, id="just-young-enough"),
        pytest.param(1000.0, 1001.0 + KEYS_SECONDS, False, id="too-old"),
        pytest.param(-inf, 1000.0, False, id="never"),
        pytest.param(-inf, inf, False, id="never-without-clock"),
    ],
)
def test_how_old_a_proof_may_be(proof: float, now: float, good: bool) -> None:
    require = requirement_of_keys(lambda: proof, lambda: now)
    if good:
        require()
        return
    with pytest.raises(RequestError, match="may not be the newest ones") as caught:
        require()
    assert (caught.value.code, caught.value.headers) == (503, ((b"retry-after", b"1"),))
