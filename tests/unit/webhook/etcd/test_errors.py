"""What an error says: whether the request can have been executed, and which endpoint it was."""

import pytest

from webhook.etcd.errors import (
    AUTH_OLD_REVISION,
    COMPACTED,
    INVALID_AUTH_TOKEN,
    PERMISSION_DENIED,
    USER_EMPTY,
    Code,
    CompactedError,
    CredentialFileError,
    EtcdError,
    NoAnswerError,
    NotSentError,
    PermissionDeniedError,
    RefusedError,
    WatchCanceledError,
    combine,
    error_of_cancel,
    error_of_status,
    shorten,
)

HERE = "https://10.0.0.1:2379"
THERE = "https://10.0.0.2:2379"


def of(code: Code, text: str) -> EtcdError:
    return error_of_status(code, text, HERE, "Txn")


@pytest.mark.parametrize(
    ("code", "text", "is_auth"),
    [
        (Code.INVALID_ARGUMENT, USER_EMPTY, True),
        (Code.INVALID_ARGUMENT, AUTH_OLD_REVISION, True),
        (Code.UNAUTHENTICATED, INVALID_AUTH_TOKEN, True),
        (Code.INVALID_ARGUMENT, "etcdserver: key is not provided", False),
        (Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", False),
        (Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", False),
        (Code.INVALID_ARGUMENT, "etcdserver: request is too large", False),
        (Code.PERMISSION_DENIED, PERMISSION_DENIED, False),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", False),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_definite_errors(code: Code, text: str, is_auth: bool) -> None:
    error = of(code, text)
    assert isinstance(error, RefusedError)
    assert (error.is_definite, error.is_auth) == (True, is_auth)
    assert (error.code, error.text, error.endpoint) == (code, text, HERE)
    assert str(error) == f"etcd at {HERE} refused Txn: {text}"


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        # A known code with another text, and a known text with another code.
        (Code.INVALID_ARGUMENT, "etcdserver: something else", RefusedError),
        (Code.UNAUTHENTICATED, USER_EMPTY, RefusedError),
        (Code.UNKNOWN, PERMISSION_DENIED, NoAnswerError),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", RefusedError),
        # Of gRPC, and not of etcd: the answer was there, and was too large.
        (Code.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", NoAnswerError),
        (Code.PERMISSION_DENIED, "of a proxy", NoAnswerError),
        (Code.NOT_FOUND, "etcdserver: requested lease not found", RefusedError),
        (Code.OUT_OF_RANGE, COMPACTED, CompactedError),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", NoAnswerError),
        (Code.UNAVAILABLE, "etcdserver: no leader", NoAnswerError),
        (Code.UNAVAILABLE, "etcdserver: request timed out", NoAnswerError),
        (Code.UNAVAILABLE, "etcdserver: leader changed", NoAnswerError),
        (Code.UNAVAILABLE, "Socket closed", NoAnswerError),
        (Code.UNAVAILABLE, "it says: failed to connect to all addresses", NoAnswerError),
        (Code.UNKNOWN, "failed to connect to all addresses", NoAnswerError),
        (Code.CANCELLED, "CANCELLED", NoAnswerError),
        (Code.INTERNAL, "Received RST_STREAM", NoAnswerError),
        (Code.ABORTED, "", NoAnswerError),
        (Code.DATA_LOSS, "etcdserver: corrupt cluster", NoAnswerError),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_everything_else_may_have_been_executed(
    code: Code, text: str, kind: type[EtcdError]
) -> None:
    error = of(code, text)
    assert type(error) is kind
    assert (error.is_definite, error.is_auth) == (False, False)
    assert HERE in str(error)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:2379: "
            "Failed to connect to remote host: Connection refused",
            "ipv4:10.0.0.1:2379: Failed to connect to remote host: Connection refused",
        ),
        ("DNS resolution failed for a:1", "DNS resolution failed for a:1"),
        (
            "failed to connect to all addresses; last error: UNKNOWN: CERTIFICATE_VERIFY_FAILED",
            "CERTIFICATE_VERIFY_FAILED; check the CA file, and the server certificate of this "
            "member",
        ),
    ],
    ids=["refused", "no such host", "not trusted"],
)
def test_what_was_not_sent(text: str, why: str) -> None:
    error = of(Code.UNAVAILABLE, text)
    assert isinstance(error, NotSentError)
    assert error.is_definite
    assert str(error) == f"etcd at {HERE} cannot be reached: {why}"


def test_a_timeout_has_no_text_of_grpc() -> None:
    error = of(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
    assert str(error) == f"etcd at {HERE} did not answer Txn: it took too long"


def test_an_error_without_a_text_names_the_code() -> None:
    assert str(of(Code.ABORTED, "")).endswith("did not answer Txn: ABORTED")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\tc  d", "a b c d"),
        ("\x1b[31mred\x00", "[31mred"),
        ("x" * 1000, "x" * 300),
        (" \n" * 100_000, ""),
    ],
    ids=["lines", "control characters", "long", "long and empty"],
)
def test_the_text_of_a_server_is_one_short_line(text: str, line: str) -> None:
    assert shorten(text) == line


@pytest.mark.parametrize(
    ("reason", "compacted", "kind", "code", "text"),
    [
        ("", 7, CompactedError, Code.OUT_OF_RANGE, COMPACTED),
        (COMPACTED, 0, CompactedError, Code.OUT_OF_RANGE, COMPACTED),
        (
            PERMISSION_DENIED,
            0,
            PermissionDeniedError,
            Code.PERMISSION_DENIED,
            PERMISSION_DENIED,
        ),
        (
            f"rpc error: code = Unauthenticated desc = {INVALID_AUTH_TOKEN}",
            0,
            WatchCanceledError,
            Code.UNAUTHENTICATED,
            INVALID_AUTH_TOKEN,
        ),
        (
            "etcdserver: no leader",
            0,
            WatchCanceledError,
            Code.UNAVAILABLE,
            "etcdserver: no leader",
        ),
        ("of its own\nmaking", 0, WatchCanceledError, Code.UNKNOWN, "of its own making"),
        ("", 0, WatchCanceledError, Code.UNKNOWN, "no reason given"),
    ],
    ids=["compacted", "compacted, by text", "denied", "as Go prints it", "leader", "other", "none"],
)
def test_cancelled_watches(
    reason: str, compacted: int, kind: type[RefusedError], code: Code, text: str
) -> None:
    error = error_of_cancel(reason, compacted, HERE)
    assert type(error) is kind
    assert (error.code, error.text) == (code, text)
    assert error.is_auth is (text == INVALID_AUTH_TOKEN)
    assert str(error) == f"etcd at {HERE} cancelled a watch: {text}"
    if isinstance(error, CompactedError):
        assert error.compact_revision == compacted


def test_one_error_for_several_endpoints() -> None:
    refused = NotSentError.at(HERE, "Connection refused")
    silent = error_of_status(Code.DEADLINE_EXCEEDED, "", THERE, "Range")
    nowhere = combine([refused, NotSentError.at(THERE, "no route")])
    assert isinstance(nowhere, NotSentError)
    assert nowhere.is_definite
    assert str(nowhere) == (
        f"no endpoint of etcd can be reached: {HERE}: Connection refused; {THERE}: no route"
    )
    somewhere = combine([refused, silent])
    assert isinstance(somewhere, NoAnswerError)
    assert not somewhere.is_definite
    assert somewhere.code is Code.DEADLINE_EXCEEDED
    assert somewhere.endpoint == f"{HERE},{THERE}"
    assert combine([refused]) is refused


def test_a_file_that_cannot_be_used_is_definite() -> None:
    assert CredentialFileError("no").is_definite
