"""Objects of a cluster: the real client against a fake API server."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fake_kube import PLURALS, FakeKube, Request, fake_kube
from tests.support import assert_within, wait_until
from webhook.objects.api_server import LOOKUP_SECONDS
from webhook.objects.kubernetes import KubernetesObjects
from webhook.token.bound_objects import Absence, Kind, Lookup, ObjectKey, ObjectState

SA = ObjectKey(Kind.SERVICE_ACCOUNT, "argo-run", "loofah")
POD = ObjectKey(Kind.POD, "argo-run", "loofah-0")
SECRET = ObjectKey(Kind.SECRET, "argo-run", "loofah-token")
NODE = ObjectKey(Kind.NODE, "", "node-1")
KEYS = (SA, POD, SECRET, NODE)
PARAMETERS = [pytest.param(key, id=str(key.kind)) for key in KEYS]
SPEC = {"serviceAccountName": "loofah", "nodeName": "node-1"}
PODS = "/api/v1/pods"
NESTED = b"[" * 100_000
MAX_SILENCE = 300.0
SHORT_SILENCE = 3.0
# The requirement: a deletion counts within a second.
DELETED_WITHIN_SECONDS = 1.0


@pytest.fixture
def kube() -> Iterator[FakeKube]:
    with fake_kube() as running:
        for key in KEYS:
            running.put(key, f"u-{key.kind}", spec=SPEC if key is POD else {})
        yield running


@contextmanager
def source_of(
    kube: FakeKube, folder: Path, max_silence: float = MAX_SILENCE, *, start: bool = True
) -> Iterator[KubernetesObjects]:
    path = folder / "kubeconfig"
    path.write_bytes(kube.kubeconfig())
    path.chmod(0o600)
    objects = KubernetesObjects(path, "", max_silence)
    if start:
        objects.start()
    try:
        yield objects
    finally:
        objects.close()


@pytest.fixture
def objects(kube: FakeKube, tmp_path: Path) -> Iterator[KubernetesObjects]:
    with source_of(kube, tmp_path) as started:
        wait_until(lambda: started.problem() == "" and watching(kube))
        yield started


def watching(kube: FakeKube) -> bool:
    return all(kube.asked(f"/api/v1/{plural}", watch="1") for plural in PLURALS.values())


def uid_of(key: ObjectKey) -> str:
    return f"u-{key.kind}"


def found(objects: KubernetesObjects, key: ObjectKey, uid: str = "") -> Lookup:
    return objects.find(key, uid or uid_of(key))


def lists(kube: FakeKube, path: str = PODS) -> list[Request]:
    return [request for request in kube.asked(path) if not request.is_watch]


# What is known ---------------------------------------------------------------------------------


def test_listed(objects: KubernetesObjects, kube: FakeKube) -> None:
    assert found(objects, POD) == ObjectState("u-Pod", None, "loofah", "node-1")
    for key in (SA, SECRET, NODE):
        assert found(objects, key) == ObjectState(uid_of(key))
    assert kube.look_ups() == []


@pytest.mark.fault(6)
def test_a_secret_that_is_marked_invalid(
    objects: KubernetesObjects, kube: FakeKube, tmp_path: Path
) -> None:
    marked = ObjectState(uid_of(SECRET), is_marked_invalid=True)
    labels = {"app": "x", "kubernetes.io/legacy-token-invalid-since": "2026-01-01"}
    # Reported by a watch, found by a look-up, and in a list.
    kube.put(SECRET, uid_of(SECRET), labels=labels)
    wait_until(lambda: found(objects, SECRET) == marked)
    assert objects.look_up(SECRET) == marked
    with source_of(kube, tmp_path) as another:
        wait_until(lambda: another.problem() == "")
        assert found(another, SECRET) == marked
    # On other kinds the label means nothing, and removing it makes the token valid again.
    kube.put(SA, uid_of(SA), labels=labels)
    assert objects.look_up(SA) == ObjectState(uid_of(SA))
    kube.put(SECRET, uid_of(SECRET), labels={"app": "x"})
    wait_until(lambda: found(objects, SECRET) == ObjectState(uid_of(SECRET)))


def test_pages(tmp_path: Path) -> None:
    keys = [ObjectKey(Kind.POD, "argo-run", f"p-{number}") for number in range(7)]
    with fake_kube(page_size=3) as kube:
        for key in keys:
            kube.put(key, key.name)
        with source_of(kube, tmp_path) as objects:
            wait_until(lambda: objects.problem() == "")
            assert all(
                objects.find(key, key.name) == ObjectState(key.name, None, "default", "")
                for key in keys
            )
        assert len(lists(kube)) == 3
        assert len({request.query["limit"] for request in lists(kube)}) == 1


def test_a_list_whose_next_page_is_too_old_starts_again(tmp_path: Path) -> None:
    with fake_kube(page_size=1) as kube:
        kube.put(POD, "u-Pod")
        kube.put(ObjectKey(Kind.POD, "argo-run", "another"), "u")

        def forget_once(request: Request) -> None:
            if "continue" in request.query:
                kube.before = lambda _: None
                kube.lists.clear()

        kube.before = forget_once
        with source_of(kube, tmp_path) as objects:
            wait_until(lambda: found(objects, POD) == ObjectState("u-Pod", None, "default", ""))
        assert ["continue" in request.query for request in lists(kube)] == [
            False,
            True,
            False,
            True,
        ]


def test_objects_are_read_as_metadata_only(objects: KubernetesObjects, kube: FakeKube) -> None:
    for key in KEYS:
        assert objects.look_up(key) == found(objects, key)
    for request in kube.requests:
        is_pod = "/pods" in request.path
        assert ("as=PartialObjectMetadata" in request.accept) is not is_pod, request


def test_metadata_alone_or_nothing(tmp_path: Path) -> None:
    """A server that sends complete Secrets nevertheless is not believed."""
    with fake_kube(ignores_accept=True) as kube:
        for key in KEYS:
            kube.put(key, uid_of(key))
        with source_of(kube, tmp_path) as objects:
            # The items of its list of Pods have no kind, as with a real one.
            wait_until(lambda: "PartialObjectMetadataList" in objects.problem())
            wait_until(lambda: "Pods have" not in objects.problem())
            assert isinstance(found(objects, POD), ObjectState)
            for key in (SA, SECRET, NODE):
                assert found(objects, key) is Absence.UNSEEN
                assert objects.look_up(key) is Absence.UNAVAILABLE


@pytest.mark.bad_input(25)
@pytest.mark.parametrize("key", PARAMETERS)
def test_deleted(objects: KubernetesObjects, kube: FakeKube, key: ObjectKey) -> None:
    kube.delete(key)
    wait_until(lambda: found(objects, key) is Absence.GONE, DELETED_WITHIN_SECONDS)
    assert objects.look_up(key) is Absence.GONE


@pytest.mark.bad_input(25)
@pytest.mark.parametrize("key", PARAMETERS)
def test_recreated(objects: KubernetesObjects, kube: FakeKube, key: ObjectKey) -> None:
    kube.put(key, "new")
    # A token of the new one never waits for the watch.
    answer = found(objects, key, "new")
    if answer is Absence.UNSEEN:
        answer = objects.look_up(key, "new")
    assert isinstance(answer, ObjectState)
    assert answer.uid == "new"
    # A token of the old one is refused once the watch has reported it.
    wait_until(lambda: found(objects, key) == found(objects, key, "new"), DELETED_WITHIN_SECONDS)
    assert found(objects, key).uid == "new"  # type: ignore[union-attr]


@pytest.mark.bad_input(25)
@pytest.mark.parametrize("key", PARAMETERS)
def test_being_deleted(objects: KubernetesObjects, kube: FakeKube, key: ObjectKey) -> None:
    kube.put(key, uid_of(key), deleted_at=90.0)
    wait_until(lambda: getattr(found(objects, key), "deleted_at", None) == 90.0)
    assert objects.look_up(key).deleted_at == 90.0  # type: ignore[union-attr]


# Watches that go on ----------------------------------------------------------------------------


def test_nothing_runs_before_start(kube: FakeKube, tmp_path: Path) -> None:
    before = threading.active_count()
    with source_of(kube, tmp_path, start=False) as objects:
        assert threading.active_count() == before
        assert kube.requests == []
        assert "Pods have not been listed since" in objects.problem()
        assert found(objects, POD) is Absence.UNSEEN
        assert objects.look_up(POD) == ObjectState("u-Pod", None, "loofah", "node-1")


def test_close_ends_what_runs(kube: FakeKube, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with source_of(kube, tmp_path) as objects:
        wait_until(lambda: objects.problem() == "" and watching(kube))
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not [name for name in left if name.startswith("leeway")]


def test_a_broken_watch_resumes(objects: KubernetesObjects, kube: FakeKube) -> None:
    kube.put(ObjectKey(Kind.POD, "argo-run", "another"), "u")
    wait_until(
        lambda: isinstance(
            found(objects, ObjectKey(Kind.POD, "argo-run", "another"), "u"), ObjectState
        )
    )
    version = str(kube.version)
    watches = len(kube.asked(PODS, watch="1"))
    kube.break_off()
    wait_until(lambda: len(kube.asked(PODS, watch="1")) > watches)
    assert kube.asked(PODS, watch="1")[-1].query["resourceVersion"] == version
    assert len(lists(kube)) == 1
    kube.delete(POD)
    wait_until(lambda: found(objects, POD) is Absence.GONE)


def test_changes_during_a_broken_watch_are_seen(objects: KubernetesObjects, kube: FakeKube) -> None:
    kube.down()
    kube.delete(POD)
    kube.put(SA, "new")
    kube.up()
    wait_until(lambda: found(objects, POD) is Absence.GONE)
    wait_until(lambda: found(objects, SA) == ObjectState("new"))
    assert len(lists(kube)) == 1


def test_bookmarks_advance_a_watch(objects: KubernetesObjects, kube: FakeKube) -> None:
    """Otherwise an unchanged kind would be listed again after every compaction."""
    kube.bookmark()
    version = str(kube.version)
    wait_until(lambda: objects._watches[0]._version == version)
    kube.compact()
    kube.oldest = int(version)
    watches = len(kube.asked(PODS, watch="1"))
    kube.break_off()
    wait_until(lambda: len(kube.asked(PODS, watch="1")) > watches)
    assert kube.asked(PODS, watch="1")[-1].query["resourceVersion"] == version
    assert len(lists(kube)) == 1


@pytest.mark.parametrize("as_status", [False, True], ids=["as-event", "as-status"])
def test_too_old(objects: KubernetesObjects, kube: FakeKube, as_status: bool) -> None:
    kube.gone_as_status = as_status
    kube.down()
    kube.delete(POD)
    kube.put(SA, "new")
    kube.compact()
    kube.up()
    wait_until(lambda: found(objects, POD) is Absence.GONE)
    wait_until(lambda: found(objects, SA) == ObjectState("new"))
    wait_until(lambda: len(kube.asked(PODS, watch="1")) >= 3)
    assert len(lists(kube)) == 2
    kube.delete(NODE)
    wait_until(lambda: found(objects, NODE) is Absence.GONE)


def test_a_watch_that_ends_is_resumed(kube: FakeKube, tmp_path: Path) -> None:
    with source_of(kube, tmp_path, SHORT_SILENCE) as objects:
        wait_until(lambda: len(kube.asked(PODS, watch="1")) >= 4)
        assert objects.problem() == ""
        assert len(lists(kube)) == 1


def test_watches_that_end_at_once_are_retried_slowly(kube: FakeKube, tmp_path: Path) -> None:
    with source_of(kube, tmp_path) as objects:
        wait_until(lambda: objects.problem() == "" and watching(kube))
        kube.answers[PODS] = (200, b"")
        kube.break_off()
        time.sleep(2.5)
        # 0.1 s, 0.2, 0.4, 0.8 and so on at the least.
        assert 2 <= len(kube.asked(PODS, watch="1")) <= 8
        del kube.answers[PODS]
        kube.delete(POD)
        wait_until(lambda: found(objects, POD) is Absence.GONE)


def test_empty_watches_do_not_count_as_contact(kube: FakeKube, tmp_path: Path) -> None:
    """As from a proxy that answers with nothing: old knowledge must not count for ever."""
    with source_of(kube, tmp_path, SHORT_SILENCE) as objects:
        wait_until(lambda: objects.problem() == "" and watching(kube))
        kube.before = lambda request: (200, b"") if request.is_watch else None
        kube.break_off()
        kube.delete(POD)
        wait_until(lambda: found(objects, POD) is Absence.GONE)
        wait_until(lambda: isinstance(found(objects, SA), ObjectState))


REFUSALS = [
    pytest.param((403, b'{"kind":"Status","reason":"Forbidden"}'), "HTTP 403 Forbidden", id="403"),
    pytest.param((500, b"broken"), "HTTP 500", id="500"),
    pytest.param((500, b'{"x":' + NESTED), "HTTP 500", id="500-nested"),
    pytest.param((200, b"{"), "its list of Pods cannot be read", id="not-json"),
    pytest.param((200, b'{"x":' + NESTED), "its list of Pods cannot be read", id="nested"),
    pytest.param(
        (200, b'{"kind":"PodList","metadata":{},"items":[]}'), "no resourceVersion", id="no-version"
    ),
    pytest.param(
        (200, b'{"kind":"NodeList","metadata":{"resourceVersion":"1"}}'),
        "answered with 'NodeList'",
        id="kind",
    ),
    pytest.param(
        (
            200,
            b'{"kind":"PodList","metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"x","namespace":"y"}}]}',
        ),
        "no name, namespace or uid",
        id="no-uid",
    ),
    pytest.param(
        (
            200,
            b'{"kind":"PodList","metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"x","namespace":"y","uid":"z","deletionTimestamp":"now"}}]}',
        ),
        "deletionTimestamp",
        id="timestamp",
    ),
]


@pytest.mark.parametrize(("answer", "why"), REFUSALS)
def test_a_refused_or_invalid_list(
    kube: FakeKube, tmp_path: Path, answer: tuple[int, bytes], why: str
) -> None:
    kube.answers[PODS] = answer
    with source_of(kube, tmp_path) as objects:
        wait_until(lambda: why in objects.problem() and "; " not in objects.problem())
        assert objects.problem().startswith("Pods have not been listed since 20")
        assert found(objects, SA) == ObjectState("u-ServiceAccount")
        del kube.answers[PODS]
        wait_until(lambda: objects.problem() == "")
        assert isinstance(found(objects, POD), ObjectState)


EVENTS = [
    pytest.param(b'{"type":"ERROR","object":{"kind":"Status","code":500}}\n', id="error"),
    pytest.param(b'{"type":"ERROR","object":{"kind":"Status","code":429}}\n', id="too-many"),
    pytest.param(b'{"type":"ERROR","object":{}}\n', id="error-without-code"),
    pytest.param(b'{"type":"MOVED","object":{"kind":"Pod"}}\n', id="type"),
    pytest.param(b'{"type":"ADDED","object":{"kind":"Node","metadata":{}}}\n', id="kind"),
    pytest.param(b'{"type":"ADDED"}\n', id="no-object"),
    pytest.param(b"not json\n", id="not-json"),
    pytest.param(b'{"x":' + NESTED + b"\n", id="nested"),
    pytest.param(b'{"type":"ERROR","object":{"x":' + NESTED + b"\n", id="error-nested"),
]


@pytest.mark.parametrize("line", EVENTS)
def test_an_invalid_event(objects: KubernetesObjects, kube: FakeKube, line: bytes) -> None:
    wrong = threading.Event()

    def answer_once(request: Request) -> tuple[int, bytes] | None:
        if request.path != PODS or not request.is_watch or wrong.is_set():
            return None
        wrong.set()
        return 200, line

    watches = len(kube.asked(PODS, watch="1"))
    kube.before = answer_once
    kube.break_off()
    wait_until(lambda: len(kube.asked(PODS, watch="1")) >= watches + 2)
    # It may have been the resourceVersion, except where it says what it was.
    assert len(lists(kube)) == (1 if b"429" in line else 2)
    kube.delete(POD)
    wait_until(lambda: found(objects, POD) is Absence.GONE)
    assert objects.problem() == ""


# Away -------------------------------------------------------------------------------------------


@pytest.mark.bad_input(25)
def test_away_for_less_than_max_silence(objects: KubernetesObjects, kube: FakeKube) -> None:
    kube.down()
    for _ in range(20):
        for key in KEYS:
            assert isinstance(found(objects, key), ObjectState)
        assert objects.problem() == ""
        time.sleep(0.05)
    # Nothing can be said about an unknown object.
    started = time.monotonic()
    for _ in range(100):
        assert objects.look_up(ObjectKey(Kind.POD, "argo-run", "other"), "u") is Absence.UNAVAILABLE
    assert_within(time.monotonic() - started, LOOKUP_SECONDS)


@pytest.mark.bad_input(25)
def test_away_for_longer(kube: FakeKube, tmp_path: Path) -> None:
    with source_of(kube, tmp_path, SHORT_SILENCE) as objects:
        wait_until(lambda: objects.problem() == "")
        kube.delete(SA)
        wait_until(lambda: found(objects, SA) is Absence.GONE)
        kube.down()
        wait_until(lambda: objects.problem().count("nothing was heard of") == 4)
        assert (
            "for longer than maxSilence 3s: it cannot be reached: Connection refused"
            in objects.problem()
        )
        for key in KEYS:
            assert found(objects, key) is Absence.UNAVAILABLE
        kube.delete(POD)
        before = len(kube.requests)
        kube.up()
        wait_until(lambda: objects.problem() == "")
        assert found(objects, POD) is Absence.GONE
        assert found(objects, NODE) == ObjectState("u-Node")
        # What is known from before counts only after a list.
        first = next(request for request in kube.requests[before:] if request.path == PODS)
        assert not first.is_watch


def test_a_connection_that_is_half_open_is_noticed(kube: FakeKube, tmp_path: Path) -> None:
    with source_of(kube, tmp_path, SHORT_SILENCE) as objects:
        wait_until(lambda: objects.problem() == "" and watching(kube))
        kube.silent = True
        kube.delete(POD)
        watches = len(kube.asked(PODS, watch="1"))
        wait_until(lambda: len(kube.asked(PODS, watch="1")) >= watches + 2)
        kube.silent = False
        wait_until(lambda: found(objects, POD) is Absence.GONE)


# Look-ups ---------------------------------------------------------------------------------------

OTHER = ObjectKey(Kind.POD, "argo-run", "other")
OTHER_PATH = "/api/v1/namespaces/argo-run/pods/other"


@pytest.mark.parametrize("key", PARAMETERS)
def test_a_missing_object_is_looked_up_once(
    objects: KubernetesObjects, kube: FakeKube, key: ObjectKey
) -> None:
    missing = key._replace(name="missing")
    for _ in range(3):
        answer = objects.find(missing, "u")
        if answer is Absence.UNSEEN:
            answer = objects.look_up(missing, "u")
        assert answer is Absence.GONE
    assert len(kube.look_ups()) == 1


def test_another_uid_is_looked_up_once(objects: KubernetesObjects, kube: FakeKube) -> None:
    assert found(objects, POD, "of-long-ago") is Absence.UNSEEN
    for _ in range(2):
        assert objects.look_up(POD, "of-long-ago") == found(objects, POD)
        assert found(objects, POD, "of-long-ago") == found(objects, POD)
    assert found(objects, POD, "of-tomorrow") is Absence.UNSEEN


def test_an_object_created_after_its_look_up(objects: KubernetesObjects, kube: FakeKube) -> None:
    assert objects.look_up(OTHER) is objects.look_up(OTHER, "u") is Absence.GONE
    kube.put(OTHER, "u")
    assert objects.look_up(OTHER).uid == "u"  # type: ignore[union-attr]
    wait_until(lambda: isinstance(objects.find(OTHER, "u"), ObjectState))


NO_ANSWER = [
    pytest.param((404, b"<html>not found</html>"), id="404-of-a-proxy"),
    pytest.param((403, b'{"kind":"Status","reason":"Forbidden"}'), id="403"),
    pytest.param((500, b""), id="500"),
    pytest.param((503, b'{"kind":"Status","reason":"NotFound"}'), id="503"),
    pytest.param((200, b"{"), id="not-json"),
    pytest.param((200, b'{"x":' + NESTED), id="nested"),
    pytest.param((200, b'{"kind":"Status"}'), id="status"),
    pytest.param(
        (200, b'{"kind":"Pod","metadata":{"name":"x","namespace":"y","uid":"z"}}'), id="another"
    ),
]


@pytest.mark.bad_input(25)
@pytest.mark.parametrize("answer", NO_ANSWER)
def test_the_look_up_fails(
    objects: KubernetesObjects, kube: FakeKube, answer: tuple[int, bytes]
) -> None:
    kube.answers[OTHER_PATH] = answer
    assert objects.look_up(OTHER, "u") is Absence.UNAVAILABLE
    # A failed look-up is not remembered.
    del kube.answers[OTHER_PATH]
    kube.put(OTHER, "u")
    assert objects.look_up(OTHER, "u").uid == "u"  # type: ignore[union-attr]


@pytest.mark.bad_input(25)
def test_the_look_up_is_slow(objects: KubernetesObjects, kube: FakeKube) -> None:
    """The bound is the requirement."""
    go_on = threading.Event()

    def stall(request: Request) -> None:
        if request.is_look_up:
            go_on.wait(30)

    kube.before = stall
    started = time.monotonic()
    assert objects.look_up(OTHER, "u") is Absence.UNAVAILABLE
    assert_within(time.monotonic() - started, LOOKUP_SECONDS + 1)
    # The next ones do not even wait for that, for a second.
    started = time.monotonic()
    assert objects.look_up(OTHER, "u") is Absence.UNAVAILABLE
    assert_within(time.monotonic() - started, 0.5)
    go_on.set()
    time.sleep(1)
    assert objects.look_up(OTHER, "u") is Absence.GONE
    # Known objects are not affected.
    assert isinstance(found(objects, POD), ObjectState)


@pytest.mark.parametrize("answers", [1, 2])
def test_an_answer_from_before_the_deletion(
    objects: KubernetesObjects, kube: FakeKube, answers: int
) -> None:
    """The watch has seen the object deleted while the answer was on its way."""
    alive = b'{"kind":"Pod","metadata":{"name":"loofah-0","namespace":"argo-run","uid":"u-Pod"}}'

    def delete_meanwhile(request: Request) -> tuple[int, bytes] | None:
        if not request.is_look_up or len(kube.look_ups()) > answers:
            return None
        if POD in kube.objects:
            kube.delete(POD)
            wait_until(lambda: found(objects, POD) is Absence.GONE)
        return 200, alive

    kube.before = delete_meanwhile
    assert objects.look_up(POD, "u-Pod") is Absence.GONE
    assert len(kube.look_ups()) == 2


def test_an_answer_from_before_the_creation(objects: KubernetesObjects, kube: FakeKube) -> None:
    def create_meanwhile(request: Request) -> tuple[int, bytes] | None:
        if not request.is_look_up or OTHER in kube.objects:
            return None
        kube.put(OTHER, "u")
        wait_until(lambda: isinstance(objects.find(OTHER, "u"), ObjectState))
        return 404, b'{"kind":"Status","reason":"NotFound"}'

    kube.before = create_meanwhile
    assert objects.look_up(OTHER, "u").uid == "u"  # type: ignore[union-attr]
    assert len(kube.look_ups()) == 2
