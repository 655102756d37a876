import pytest

from webhook.rbac import errors as rbac
from webhook.rbac.errors import StoreUnavailableError
from webhook.server.request.errors import request_error_of

STORE_ERRORS: list[tuple[type[Exception], int, int, bool]] = [
    (rbac.ForeignPositionError, 400, 3, False),
    (rbac.TooLargeError, 400, 3, False),
    (rbac.NotInitialisedError, 503, 14, True),
    # Whoever repeats a change that was made after all makes it twice.
    (rbac.OutcomeUnknownError, 503, 14, False),
    (rbac.StoreError, 503, 14, True),
    (rbac.StoreLockedError, 503, 14, True),
    (rbac.StoreStaleError, 503, 14, True),
    (StoreUnavailableError, 503, 14, True),
]


@pytest.mark.parametrize(
    ("error", "status", "grpc", "invites"), STORE_ERRORS, ids=[e[0].__name__ for e in STORE_ERRORS]
)
def test_the_answer_to_an_error_of_the_store(
    error: type[Exception], status: int, grpc: int, invites: bool
) -> None:
    found = request_error_of(error("what is wrong; what to do"))
    assert (found.code, found.grpc, str(found)) == (status, grpc, "what is wrong; what to do")
    assert ((b"retry-after", b"1") in found.headers) == invites
    assert len(found.headers) == invites
