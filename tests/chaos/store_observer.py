"""An observer that is no replica: follows the prefix in etcd from the beginning, with etcdctl."""

import base64
import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from tests.etcd_cluster import EtcdCluster
from tests.etcd_member import need_program
from webhook.backends.etcd_head import CommitId, decode
from webhook.backends.etcd_layout import Layout, name_of, record_hash
from webhook.backends.etcd_position import format_position
from webhook.rbac.records import Record

from .history import Group, RecordKey

_SECONDS = 60.0


class Observer:
    """Collects the log of a store; ``log`` grows while it runs."""

    def __init__(self, cluster: EtcdCluster, prefix: str, errors: Path) -> None:
        self.log: list[Group] = []
        self.strays: list[str] = []
        """Revisions under the prefix without a head, or that cannot be read."""
        self._cluster = cluster
        self._layout, self._prefix = Layout(prefix), prefix
        self._errors = errors
        self._next = 1
        self._is_closed = False
        self._start()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        command = [str(need_program("etcdctl")), "watch", "--prefix", f"{self._prefix}/"]
        command += [f"--rev={self._next}", "-w", "json"]
        command += ["--endpoints", ",".join(self._cluster.endpoints)]
        with self._errors.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )

    def _run(self) -> None:
        """Follow, and start again from the next revision whenever etcdctl gives up."""
        while not self._is_closed and not self.strays:
            self._follow()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process.wait()
            if not self._is_closed:
                time.sleep(0.2)
                self._start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if answer.get("CompactRevision"):
                self.strays.append(f"the observer was stopped: {line[:300]}")
                return
            self._take(answer.get("Events") or [])

    def _take(self, events: list[dict[str, Any]]) -> None:
        by_revision: dict[int, list[dict[str, Any]]] = {}
        for event in events:
            by_revision.setdefault(event["kv"]["mod_revision"], []).append(event)
        for revision, found in by_revision.items():
            if revision < self._next:
                continue
            self._next = revision + 1
            try:
                self.log.append(self._group(revision, found))
            except Exception as error:  # whatever was written there
                self.strays.append(f"revision {revision}: {error!r}")

    def _group(self, revision: int, events: list[dict[str, Any]]) -> Group:
        head, records = None, []
        for event in events:
            key = base64.b64decode(event["kv"]["key"])
            value = base64.b64decode(event["kv"].get("value", ""))
            if event.get("type") == 1:
                records.append(Record(*self._layout.id_of(key), None))
            elif key == self._layout.head:
                head = decode(value)
            else:
                records.append(self._layout.record_of(key, value)[0])
        if head is None:
            raise ValueError("a group without head")
        earlier = head.previous
        previous = (earlier.revision, earlier.id) if earlier.revision else None
        position = format_position(head.store.hex(), CommitId(revision, head.id))
        return Group(
            revision,
            head.id,
            previous,
            tuple(records),
            head.count,
            int.from_bytes(head.digest, "big"),
            position,
            head.writer,
            head.wall,
        )

    def wait(self, revision: int) -> None:
        """Wait until everything of the prefix up to a revision has been seen."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            if self._next > revision:
                return
            time.sleep(0.02)
        said = self._errors.read_text()[-1000:]
        raise AssertionError(
            f"the observer is at {self._next} and did not reach {revision}; etcdctl: "
            f"{self._process.poll()} {said} {self.strays}"
        )

    def catch_up(self) -> None:
        """Wait until it has seen the present head."""
        text = self._cluster.etcdctl("get", self._layout.head.decode(), "-w", "json")
        self.wait(int(json.loads(text)["kvs"][0]["mod_revision"]))

    def differences(self) -> list[str]:
        """Compare what each member has with the log; call it when all is quiet."""
        self.catch_up()
        wanted: dict[RecordKey, bytes] = {}
        for group in self.log:
            for kind, record_id, value in group.records:
                wanted.pop((kind, record_id), None)
                if value is not None:
                    wanted[kind, record_id] = value
        found = []
        for member in self._cluster.members:
            prefix = self._layout.records.decode()
            words = ("get", "--prefix", prefix, "--consistency=s", "-w", "json")
            deadline = time.monotonic() + _SECONDS
            while True:
                answer = json.loads(self._cluster.etcdctl(*words, endpoints=[member.endpoint]))
                if self._records(answer) == wanted:
                    break
                if time.monotonic() > deadline:
                    found.append(f"{member.name} has other records than the log")
                    break
                time.sleep(0.2)
        return found

    def _records(self, answer: dict[str, Any]) -> dict[RecordKey, bytes]:
        records = {}
        for row in answer.get("kvs", []):
            key = base64.b64decode(row["key"])
            if key != self._layout.head:
                value = base64.b64decode(row.get("value", ""))
                kind, record_id, content = self._layout.record_of(key, value)[0]
                assert content is not None
                records[kind, record_id] = content
        return records

    def close(self) -> None:
        self._is_closed = True
        self._process.kill()
        self._thread.join(5.0)


def digest_in_store(key: RecordKey, value: bytes) -> int:
    """Return what a record adds to the digest in a head."""
    return int.from_bytes(record_hash(name_of(*key), value), "big")
