"""The log-in: one for all that wait, renewed when etcd says so, and never shown."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.scripted_etcd import HEADER, HOST, ScriptedEtcd, closed_port, until_cancelled
from tests.secrets_made import password_made, token_made
from webhook.etcd import rpc_pb2 as rpc
from webhook.etcd.client import EtcdClient
from webhook.etcd.credentials import EtcdLogin
from webhook.etcd.errors import (
    CredentialFileError,
    EtcdError,
    LoginRefusedError,
    NoAnswerError,
    NotSentError,
    RefusedError,
)

PASSWORD = "correct-Xq7Vn2Lb9Rk4"
OTHER_PASSWORD = "another-Wm5Zt8Hc3Pd6"
LONG = 20.0
INVALID = grpc.StatusCode.INVALID_ARGUMENT
RENEWED = [
    (grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token"),
    (INVALID, "etcdserver: user name is empty"),
    (INVALID, "etcdserver: revision of auth store is old"),
]


class Auth(ScriptedEtcd):
    """Accepts one password, and the newest of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.password = PASSWORD
        self.tokens = 0
        self.refusal = RENEWED[0]
        self.on |= {
            "Authenticate": self.authenticate,
            "Range": lambda _request, context: self.need(context, rpc.RangeResponse(header=HEADER)),
            "Txn": lambda _request, context: self.need(context, rpc.TxnResponse(header=HEADER)),
        }

    @property
    def token(self) -> str:
        return f"token-of-etcd-Jr6Tb1Ys{self.tokens:02}"

    def authenticate(
        self, request: rpc.AuthenticateRequest, context: grpc.ServicerContext
    ) -> rpc.AuthenticateResponse:
        if (request.name, request.password) != ("leeway", self.password):
            context.abort(INVALID, "etcdserver: authentication failed, invalid user ID or password")
        self.tokens += 1
        token_made(self.token)
        return rpc.AuthenticateResponse(header=HEADER, token=self.token)

    def need(
        self, context: grpc.ServicerContext, answer: rpc.RangeResponse | rpc.TxnResponse
    ) -> rpc.RangeResponse | rpc.TxnResponse:
        metadata = dict(context.invocation_metadata())
        if metadata.get("token") != self.token:
            context.abort(*self.refusal)
        return answer


@pytest.fixture
def etcd() -> Iterator[Auth]:
    password_made(PASSWORD)
    password_made(OTHER_PASSWORD)
    with Auth() as etcd:
        yield etcd


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "password"
    write(path, f"{PASSWORD}\n")
    yield path
    # The suite is searched for passwords that it left.
    path.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.touch(0o600)
    new.write_text(text)
    new.replace(path)


@pytest.fixture
def client(etcd: Auth, file: Path) -> Iterator[EtcdClient]:
    client = EtcdClient([etcd.url], login=EtcdLogin("leeway", str(file)))
    yield client
    client.close()


def test_the_first_call_logs_in(etcd: Auth, client: EtcdClient) -> None:
    for _ in range(3):
        client.range(b"k", timeout=LONG)
    client.txn([], [], timeout=LONG)
    assert etcd.names() == ["Authenticate", "Range", "Range", "Range", "Txn"]
    login = etcd.calls[0]
    assert login.request == rpc.AuthenticateRequest(name="leeway", password=PASSWORD)
    assert "token" not in login.metadata
    assert etcd.calls[1].metadata["token"] == etcd.token


def test_the_probe_before_a_write_needs_no_token(etcd: Auth, client: EtcdClient) -> None:
    client.txn([], [], timeout=LONG)
    assert etcd.names() == ["Status", "Authenticate", "Txn"]
    assert "token" not in etcd.calls[0].metadata


@pytest.mark.parametrize("refusal", RENEWED, ids=[text for _, text in RENEWED])
@pytest.mark.parametrize("name", ["Range", "Range, hedged", "Txn"])
def test_a_token_that_is_refused_is_renewed_once(
    refusal: tuple[grpc.StatusCode, str], name: str, etcd: Auth, client: EtcdClient, file: Path
) -> None:
    client = EtcdClient(
        [etcd.url, f"http://{HOST}:{closed_port()}"], login=EtcdLogin("leeway", str(file))
    )
    client.range(b"k", timeout=LONG)
    etcd.refusal = refusal
    etcd.tokens += 1  # The one that the client has is not valid any more.
    etcd.calls.clear()
    if name == "Txn":
        client.txn([], [], timeout=LONG)
    else:
        client.range(b"k", timeout=LONG, hedge=LONG if "hedged" in name else None)
    sent = name.partition(",")[0]
    # A hedged read begins again in the ordinary way.
    expected = [sent, "Authenticate", sent]
    assert etcd.names()[-3:] == expected
    assert len(etcd.of("Authenticate")) == 1
    client.close()


@pytest.mark.parametrize("refusal", RENEWED, ids=[text for _, text in RENEWED])
def test_a_token_that_is_refused_again_is_an_error(
    refusal: tuple[grpc.StatusCode, str], etcd: Auth, client: EtcdClient
) -> None:
    etcd.refuse("Txn", *refusal)
    with pytest.raises(RefusedError, match=refusal[1]) as caught:
        client.txn([], [], timeout=LONG)
    assert caught.value.is_definite
    assert caught.value.is_auth
    assert etcd.names() == ["Status", *["Authenticate", "Txn"] * 3]


def test_a_write_is_not_repeated_for_another_error(etcd: Auth, client: EtcdClient) -> None:
    etcd.refuse("Txn", grpc.StatusCode.UNAUTHENTICATED, "etcdserver: something else")
    with pytest.raises(RefusedError):
        client.txn([], [], timeout=LONG)
    assert len(etcd.of("Txn")) == 1


def test_one_log_in_for_all_that_wait(etcd: Auth, client: EtcdClient) -> None:
    waiting = threading.Barrier(9)
    go_on = threading.Event()
    works = etcd.authenticate

    def slow(
        request: rpc.AuthenticateRequest, context: grpc.ServicerContext
    ) -> rpc.AuthenticateResponse:
        go_on.wait(LONG)
        return works(request, context)

    etcd.on["Authenticate"] = slow
    found: list[object] = []

    def call() -> None:
        waiting.wait(LONG)
        found.append(client.range(b"k", timeout=LONG).header)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    waiting.wait(LONG)
    go_on.set()
    for thread in threads:
        thread.join(LONG)
    assert len(found) == 8
    assert len(etcd.of("Authenticate")) == 1


def test_a_log_in_goes_on_when_the_call_that_began_it_gives_up(
    etcd: Auth, client: EtcdClient
) -> None:
    """Otherwise a read with a short timeout would never see the end of a slow log-in."""
    go_on = threading.Event()
    works = etcd.authenticate

    def slow(
        request: rpc.AuthenticateRequest, context: grpc.ServicerContext
    ) -> rpc.AuthenticateResponse:
        go_on.wait(LONG)
        return works(request, context)

    etcd.on["Authenticate"] = slow
    with pytest.raises(NotSentError, match="the log-in took too long") as caught:
        client.range(b"k", timeout=0.1)
    assert caught.value.is_definite
    go_on.set()
    client.range(b"k", timeout=LONG)
    assert len(etcd.of("Authenticate")) == 1


def test_a_wrong_password(etcd: Auth, client: EtcdClient, file: Path) -> None:
    etcd.password = OTHER_PASSWORD
    for _ in range(3):
        with pytest.raises(LoginRefusedError) as caught:
            client.txn([], [], timeout=LONG)
        assert caught.value.is_definite
        assert str(caught.value) == (
            f"etcd at {etcd.url} refused the user name or the password of its configured user"
        )
    # The same password is not tried again at once; another one is.
    assert len(etcd.of("Authenticate")) == 1
    write(file, OTHER_PASSWORD)
    client.txn([], [], timeout=LONG)
    assert len(etcd.of("Authenticate")) == 2


def test_a_new_password_counts_with_the_next_log_in(
    etcd: Auth, client: EtcdClient, file: Path
) -> None:
    client.range(b"k", timeout=LONG)
    etcd.password = OTHER_PASSWORD
    write(file, f"{OTHER_PASSWORD}\r\n")
    etcd.tokens += 1
    client.range(b"k", timeout=LONG)
    assert etcd.of("Authenticate")[-1].request.password == OTHER_PASSWORD


def test_auth_can_be_disabled_and_enabled(etcd: Auth, client: EtcdClient) -> None:
    works = dict(etcd.on)
    etcd.refuse(
        "Authenticate",
        grpc.StatusCode.FAILED_PRECONDITION,
        "etcdserver: authentication is not enabled",
    )
    etcd.on["Range"] = lambda *_: rpc.RangeResponse(header=HEADER)
    client.range(b"k", timeout=LONG)
    client.range(b"k", timeout=LONG, hedge=0.1)
    assert etcd.names() == ["Authenticate", "Range", "Range"]
    assert "token" not in etcd.calls[1].metadata
    etcd.on |= works
    etcd.refusal = RENEWED[1]
    client.range(b"k", timeout=LONG)
    assert etcd.calls[-1].metadata["token"] == etcd.token


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (None, 0o600, "is missing"),
        ("", 0o600, "is empty"),
        (PASSWORD, 0o644, "can be read by group or others"),
        ("\udcff", 0o600, "is not UTF-8"),
    ],
    ids=["missing", "empty", "open", "not text"],
)
def test_files_that_are_no_passwords(
    text: str | None, mode: int, why: str, etcd: Auth, client: EtcdClient, file: Path
) -> None:
    file.unlink()
    if text is not None:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        file.chmod(mode)
    for _ in range(2):
        with pytest.raises(CredentialFileError, match=why) as caught:
            client.txn([], [], timeout=LONG)
        assert caught.value.is_definite
    assert etcd.of("Txn") == etcd.of("Authenticate") == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"\xff", "no answer that can be read"),
        (rpc.AuthenticateResponse(), "a token that cannot be used"),
        (rpc.AuthenticateResponse(token="two\nlines"), "a token that cannot be used"),
        (rpc.AuthenticateResponse(token="ü"), "a token that cannot be used"),
    ],
    ids=["not a message", "none", "lines", "not ASCII"],
)
def test_answers_that_are_no_tokens(
    answer: bytes | rpc.AuthenticateResponse, why: str, etcd: Auth, client: EtcdClient
) -> None:
    etcd.on["Authenticate"] = lambda *_: answer
    with pytest.raises(NotSentError, match=why) as caught:
        client.txn([], [], timeout=LONG)
    assert caught.value.is_definite
    assert etcd.of("Txn") == []


def test_the_text_of_a_server_is_one_short_line(etcd: Auth, client: EtcdClient) -> None:
    etcd.refuse("Authenticate", grpc.StatusCode.UNKNOWN, "two\nlines " + "x" * 1000)
    with pytest.raises(NotSentError, match="log-in: two lines x") as caught:
        client.range(b"k", timeout=LONG)
    assert len(str(caught.value)) < 500


def test_an_endpoint_that_nobody_can_log_in_at_is_left(etcd: Auth, file: Path) -> None:
    with ScriptedEtcd() as broken:
        broken.refuse("Authenticate", grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
        client = EtcdClient([broken.url, etcd.url], login=EtcdLogin("leeway", str(file)))
        assert client.range(b"k", timeout=LONG).endpoint == etcd.url
        assert client.txn([], [], timeout=LONG).endpoint == etcd.url
        client.close()
    client = EtcdClient([f"http://{HOST}:{closed_port()}"], login=EtcdLogin("leeway", str(file)))
    with pytest.raises(NotSentError, match="Connection refused"):
        client.range(b"k", timeout=LONG)
    client.close()


def test_a_hedged_read_can_be_the_first_call(etcd: Auth, file: Path) -> None:
    dead = f"http://{HOST}:{closed_port()}"
    client = EtcdClient([dead, etcd.url], login=EtcdLogin("leeway", str(file)))
    assert client.range(b"k", timeout=LONG, hedge=LONG).endpoint == etcd.url
    assert etcd.names() == ["Authenticate", "Range"]
    client.close()


def test_a_client_that_is_closed_during_its_log_in(etcd: Auth, file: Path) -> None:
    client = EtcdClient([etcd.url], login=EtcdLogin("leeway", str(file)))
    with client._channels.connection(etcd.url) as connection:
        connection.close()
    with pytest.raises(NotSentError, match="closed"):
        client.range(b"k", timeout=LONG)
    client.close()


def test_authenticate_logs_in_now(etcd: Auth, client: EtcdClient) -> None:
    client.authenticate(timeout=LONG)
    client.authenticate(timeout=LONG)
    assert etcd.names() == ["Authenticate", "Authenticate"]


def test_the_token_lives_at_the_endpoint_of_the_log_in(etcd: Auth, file: Path) -> None:
    """A member that was restarted has forgotten the tokens of the others."""
    with Auth() as other:
        client = EtcdClient([etcd.url, other.url], login=EtcdLogin("leeway", str(file)))
        client.range(b"k", timeout=LONG)
        other.tokens = 40
        client.range(b"k", timeout=LONG, endpoint=other.url)
        assert other.names() == ["Range", "Authenticate", "Range"]
        client.close()


@pytest.mark.parametrize("name", ["Authenticate", "Range"])
def test_no_secret_is_shown_whatever_etcd_answers(
    name: str, etcd: Auth, client: EtcdClient, file: Path
) -> None:
    if name == "Range":
        client.range(b"k", timeout=LONG)
    etcd.refuse(name, grpc.StatusCode.UNKNOWN, f"echo: {PASSWORD} and {etcd.token} of {'leeway'}")
    with pytest.raises(EtcdError, match="echo") as caught:
        client.range(b"k", timeout=LONG)
    assert isinstance(caught.value, NoAnswerError | NotSentError)
    shown = f"{caught.value!r} {caught.value.text} {caught.value.__cause__!r}"
    assert PASSWORD not in shown
    if name == "Range":
        assert etcd.token not in shown
    assert PASSWORD not in repr(EtcdLogin("leeway", str(file)))


def test_a_call_that_hangs_in_the_log_in_does_not_hold_others_up(etcd: Auth, file: Path) -> None:
    """One log-in at a time is for one endpoint: another one may work."""
    with ScriptedEtcd() as silent:

        def hang(_request: object, context: grpc.ServicerContext) -> rpc.AuthenticateResponse:
            until_cancelled(context)
            return rpc.AuthenticateResponse()

        silent.on["Authenticate"] = hang
        client = EtcdClient([silent.url, etcd.url], login=EtcdLogin("leeway", str(file)))
        assert client.range(b"k", timeout=2.0).endpoint == etcd.url
        assert client.range(b"k", timeout=LONG).endpoint == etcd.url
        client.close()
