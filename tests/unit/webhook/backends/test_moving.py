"""Moving a store to another kind of store and back, as `leeway store export` and `import` do."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.fake_etcd import FakeEtcd
from tests.unit.webhook.rbac.store_contents import stores
from webhook.backends.etcd import EtcdBackend
from webhook.backends.sqlite import SQLiteBackend
from webhook.cli.store import parsed, rendered
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.document import document_of
from webhook.rbac.document_reading import StoreContent, read_document
from webhook.rbac.errors import DocumentError
from webhook.rbac.import_plan import ImportPlan
from webhook.rbac.import_run import ImportRun
from webhook.rbac.importing import plan_import
from webhook.rbac.records import AuthMeta, meta_record
from webhook.rbac.state import AuthState

_numbers = count()


@contextmanager
def sqlite(folder: Path) -> Iterator[AuthStore]:
    """Open a new database."""
    store = AuthStore.loaded(SQLiteBackend(folder / f"{next(_numbers)}.db"))
    try:
        yield store
    finally:
        store.close()


@contextmanager
def etcd() -> Iterator[AuthStore]:
    """Open a new store in an etcd of its own, for a command."""
    backend = EtcdBackend(FakeEtcd().client(), "/leeway", follow=False, writer="test")
    assert backend.initialise([meta_record(AuthMeta())])
    store = AuthStore.loaded(backend)
    try:
        yield store
    finally:
        store.close()


def export(store: AuthStore, output: str) -> str:
    return rendered(document_of(store.state, store.position), output)


def move(text: str, store: AuthStore) -> None:
    """Import a document, with everything that is not in it deleted."""
    content: StoreContent = read_document(parsed(text, "the document"))

    def make_plan(state: AuthState, *, is_first: bool) -> ImportPlan:
        assert is_first
        return plan_import(
            state, content, prune=True, prune_revocations=True, max_records=store.max_records
        )

    try:
        run = ImportRun(store, make_plan)
    except DocumentError:
        # A store that no command can lead to: it names roles that do not exist.
        assume(False)
        raise
    assert len(list(run.apply())) <= 1


def content(text: str) -> Any:
    members: Any = parsed(text, "the document")
    assert members.pop("metadata")["position"]
    # The role root always exists, with or without a record.
    members["roles"] = [role for role in members["roles"] if role["name"] != "root"]
    return members


@settings(max_examples=40, deadline=None)
@given(stores(), st.sampled_from(("yaml", "json")))
def test_from_sqlite_to_etcd_and_back(
    tmp_path_factory: Any, source: AuthStore, output: str
) -> None:
    folder: Path = tmp_path_factory.getbasetemp()
    with sqlite(folder) as first, etcd() as second, sqlite(folder) as third:
        move(export(source, output), first)
        moved = export(first, output)
        assert content(moved) == content(export(source, output))
        move(moved, second)
        assert content(export(second, output)) == content(moved)
        move(export(second, output), third)
        assert content(export(third, output)) == content(moved)
        for store in (second, third):
            # No auth token of the store before is accepted, whatever its revision.
            assert store.revision > first.revision or not first.state.users
