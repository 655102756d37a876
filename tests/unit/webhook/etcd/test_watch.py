"""A watch stream: how it opens, how it ends, and that nothing of it stays."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.scripted_etcd import HEADER, HOST, ScriptedEtcd, closed_port, until_cancelled
from webhook.etcd import rpc_pb2 as rpc
from webhook.etcd.client import EtcdClient
from webhook.etcd.credentials import EtcdLogin
from webhook.etcd.errors import (
    Code,
    CompactedError,
    EtcdError,
    NoAnswerError,
    NotSentError,
    PermissionDeniedError,
    RefusedError,
)

LONG = 20.0
CREATED = rpc.WatchResponse(header=HEADER, created=True)


def put(revision: int) -> rpc.WatchResponse:
    event = rpc.Event(kv=rpc.KeyValue(key=b"k", value=b"v", mod_revision=revision))
    return rpc.WatchResponse(header=HEADER, events=[event])


@pytest.fixture
def etcd() -> Iterator[ScriptedEtcd]:
    with ScriptedEtcd() as etcd:
        yield etcd


@pytest.fixture
def client(etcd: ScriptedEtcd) -> Iterator[EtcdClient]:
    client = EtcdClient([etcd.url])
    yield client
    client.close()


def sends(etcd: ScriptedEtcd, *messages: rpc.WatchResponse, stays: bool = True) -> None:
    """Answer a watch with messages, then wait, or end the stream."""

    def watch(_request: object, context: grpc.ServicerContext) -> Iterator[rpc.WatchResponse]:
        yield from messages
        if stays:
            until_cancelled(context)

    etcd.on["Watch"] = watch


def test_what_is_sent(etcd: ScriptedEtcd, client: EtcdClient) -> None:
    sends(etcd, CREATED)
    with client.watch(b"a", b"b", start_revision=5, prev_kv=True, timeout=LONG) as watch:
        assert watch.endpoint == etcd.url
        assert watch.created.revision == 10
        assert watch.next_revision == 5
    (call,) = etcd.of("Watch")
    assert call.path == "/etcdserverpb.Watch/Watch"
    assert call.metadata["hasleader"] == "true"
    assert call.request == rpc.WatchRequest(
        create_request=rpc.WatchCreateRequest(
            key=b"a",
            range_end=b"b",
            start_revision=5,
            progress_notify=True,
            prev_kv=True,
            fragment=True,
        )
    )


def test_events_then_the_end(etcd: ScriptedEtcd, client: EtcdClient) -> None:
    sends(etcd, CREATED, put(11), put(12), stays=False)
    watch = client.watch(b"k", timeout=LONG)
    assert [next(watch).events[0].kv.mod_revision for _ in range(2)] == [11, 12]
    assert watch.next_revision == 13
    with pytest.raises(NoAnswerError, match="ended a watch") as caught:
        next(watch)
    assert caught.value.code is Code.UNAVAILABLE
    # It has ended for good, and closing it again does nothing.
    assert list(watch) == []
    watch.close()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader"),
        (grpc.StatusCode.CANCELLED, "context canceled"),
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: server stopped"),
    ],
    ids=["no leader", "cancelled", "stopped"],
)
def test_a_stream_that_fails(
    code: grpc.StatusCode, text: str, etcd: ScriptedEtcd, client: EtcdClient
) -> None:
    def watch(_request: object, context: grpc.ServicerContext) -> Iterator[rpc.WatchResponse]:
        yield CREATED
        yield put(11)
        context.abort(code, text)

    etcd.on["Watch"] = watch
    watching = client.watch(b"k", timeout=LONG)
    next(watching)
    with pytest.raises(NoAnswerError, match=text):
        next(watching)
    assert watching.next_revision == 12
    etcd.wait_for_streams(0)


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (rpc.WatchResponse(header=HEADER, canceled=True, compact_revision=9), CompactedError),
        (
            rpc.WatchResponse(
                header=HEADER, canceled=True, cancel_reason="etcdserver: permission denied"
            ),
            PermissionDeniedError,
        ),
        (rpc.WatchResponse(header=HEADER, canceled=True, cancel_reason="why not"), RefusedError),
        (put(10), NoAnswerError),
    ],
    ids=["compacted", "denied", "other", "out of order"],
)
def test_a_watch_that_is_cancelled(
    end: rpc.WatchResponse, kind: type[EtcdError], etcd: ScriptedEtcd, client: EtcdClient
) -> None:
    sends(etcd, CREATED, put(11), end)
    watch = client.watch(b"k", timeout=LONG)
    next(watch)
    with pytest.raises(kind):
        next(watch)
    etcd.wait_for_streams(0)
    assert list(watch) == []


def test_a_message_that_cannot_be_read(etcd: ScriptedEtcd, client: EtcdClient) -> None:
    def watch(_request: object, _context: object) -> Iterator[rpc.WatchResponse]:
        yield CREATED
        yield b"\xff"  # type: ignore[misc]

    etcd.on["Watch"] = watch
    with pytest.raises(NoAnswerError, match="cannot be read"):
        next(client.watch(b"k", timeout=LONG))


@pytest.mark.parametrize("watch_id", [-1, 0])
def test_a_create_that_is_refused(watch_id: int, etcd: ScriptedEtcd, client: EtcdClient) -> None:
    refusal = rpc.WatchResponse(
        header=HEADER,
        watch_id=watch_id,
        created=True,
        canceled=True,
        cancel_reason="etcdserver: permission denied",
    )
    sends(etcd, refusal)
    with pytest.raises(PermissionDeniedError):
        client.watch(b"k", timeout=LONG)
    etcd.wait_for_streams(0)


def test_a_watch_is_opened_at_the_next_endpoint(etcd: ScriptedEtcd) -> None:
    sends(etcd, CREATED)
    with ScriptedEtcd() as other:
        other.refuse("Watch", grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
        dead = f"http://{HOST}:{closed_port()}"
        client = EtcdClient([dead, other.url, etcd.url])
        with client.watch(b"k", timeout=LONG) as watch:
            assert watch.endpoint == etcd.url == client.endpoint
        with pytest.raises(NotSentError):
            client.watch(b"k", timeout=LONG, endpoint=dead)
        client.close()


def test_a_member_that_does_not_confirm_a_watch(etcd: ScriptedEtcd, client: EtcdClient) -> None:
    sends(etcd)
    with pytest.raises(NoAnswerError, match="it took too long") as caught:
        client.watch(b"k", timeout=0.2)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    etcd.wait_for_streams(0)


def test_close_ends_the_iteration_in_another_thread(etcd: ScriptedEtcd, client: EtcdClient) -> None:
    sends(etcd, CREATED, put(11))
    before = set(threading.enumerate())
    watch = client.watch(b"k", timeout=LONG)
    first = threading.Event()
    seen: list[int] = []

    def follow() -> None:
        for batch in watch:
            seen.append(batch.events[0].kv.mod_revision)
            first.set()
        seen.append(-1)

    thread = threading.Thread(target=follow)
    thread.start()
    assert first.wait(LONG)
    watch.close()
    thread.join(LONG)
    assert seen == [11, -1]
    etcd.wait_for_streams(0)
    client.close()
    for left in set(threading.enumerate()) - before:
        if not left.name.startswith("scripted-etcd"):
            left.join(LONG)
            assert not left.is_alive(), left


def test_closing_the_client_ends_a_watch_with_an_error(
    etcd: ScriptedEtcd, client: EtcdClient
) -> None:
    """Whoever follows a watch has to know that it did not end by its own close."""
    sends(etcd, CREATED)
    watch = client.watch(b"k", timeout=LONG)
    client.close()
    with pytest.raises(NoAnswerError):
        next(watch)
    watch.close()


@pytest.mark.parametrize(
    "reason",
    [
        "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
        "etcdserver: revision of auth store is old",
        "etcdserver: user name is empty",
    ],
)
def test_a_watch_with_an_old_token_is_opened_again(
    reason: str, etcd: ScriptedEtcd, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.touch(0o600)
    file.write_text("password-Yb4Ks9Qe2Nw7")
    tokens = 0

    def authenticate(*_: object) -> rpc.AuthenticateResponse:
        nonlocal tokens
        tokens += 1
        return rpc.AuthenticateResponse(token=f"t{tokens}")

    def watch(_request: object, context: grpc.ServicerContext) -> Iterator[rpc.WatchResponse]:
        metadata = dict(context.invocation_metadata())
        if metadata["token"] == "t1":
            yield rpc.WatchResponse(
                header=HEADER, watch_id=-1, created=True, canceled=True, cancel_reason=reason
            )
        else:
            yield CREATED
        until_cancelled(context)

    etcd.on |= {"Authenticate": authenticate, "Watch": watch}
    client = EtcdClient([etcd.url], login=EtcdLogin("u", str(file)))
    with client.watch(b"k", timeout=LONG):
        etcd.wait_for_streams(1)
    assert etcd.names() == ["Authenticate", "Watch", "Authenticate", "Watch"]
    client.close()


def test_a_watch_does_not_hold_up_calls(etcd: ScriptedEtcd, client: EtcdClient) -> None:
    sends(etcd, CREATED)
    etcd.on["Range"] = lambda *_: rpc.RangeResponse(header=HEADER)
    with client.watch(b"k", timeout=LONG):
        assert client.range(b"k", timeout=LONG).header.revision == 10
