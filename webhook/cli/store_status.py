"""``leeway store status`` and ``leeway store repair``: what is stored, and whether it fits."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from webhook.assembly import etcd_backend_of, store_of
from webhook.backends.etcd import boottime
from webhook.cli.options import data_dir_option, example, output_option
from webhook.cli.output import printable, say, show, table
from webhook.cli.store_access import configuration_in
from webhook.config.paths import sqlite_file
from webhook.config.store import EtcdSection
from webhook.errors import LeewayError
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.state import AuthState

if TYPE_CHECKING:
    from webhook.backends.etcd_status import EndpointStatus, StoreStatus

_MIB: Final = 1024 * 1024


@click.command(
    short_help="Show the kind, revision and size of the store.",
    epilog=example("leeway store status -o json"),
)
@data_dir_option
@output_option
def status(data_dir: Path, output: str) -> None:
    """Show the kind, the revision and the size of the store, and for etcd each endpoint.

    Exit 3 if it cannot be used; the endpoints are shown then too.
    """
    configuration = configuration_in(data_dir)
    if configuration.store.etcd is not None:
        _show_etcd(data_dir, configuration.store.etcd, output)
        return
    with closing(store_of(data_dir, configuration)) as store:
        value, rows = _contents(store.state)
    path = str(sqlite_file(data_dir, configuration))
    value = {"kind": "sqlite", "path": path, **value}
    show(value, _lines({"Kind": "sqlite", "Path": path, **rows}), output)


@click.command(
    short_help="Accept what is in etcd as the store.", epilog=example("leeway store repair")
)
@data_dir_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def repair(data_dir: Path, yes: bool) -> None:
    """Accept what is in etcd as the store, if it is not what the store's head says.

    For a store that no replica loads any more because something else has written below its prefix.
    Shows what is wrong, and asks. Look at the records first: what was deleted is gone, and what was
    added counts. Exit 1 if nothing is repaired.
    """
    section = configuration_in(data_dir).store.etcd
    if section is None:
        raise click.UsageError("only a store in etcd can be repaired; restore SQLite from a backup")
    with closing(etcd_backend_of(data_dir, section)) as backend:
        plan = backend.repair_plan()
        for problem in plan.problems:
            say(problem)
        if not plan.is_needed:
            say(f"The store at {backend.place} is intact: {plan.records} records")
            return
        question = f"Accept the {plan.records} records that are there as the store?"
        if not (yes or click.confirm(question)):
            say("Nothing was changed")
            raise click.exceptions.Exit(1)
        say(f"Repaired; the store is at revision {backend.repair(plan)}")


def _show_etcd(data_dir: Path, section: EtcdSection, output: str) -> None:
    backend = etcd_backend_of(data_dir, section)
    problem = None
    value: dict[str, Any] = {"kind": "etcd", "prefix": section.prefix}
    rows: dict[str, Any] = {"Kind": "etcd", "Prefix": section.prefix}
    with closing(AuthStore(backend, boottime)) as store:
        try:
            store.load()
        except LeewayError as error:
            problem = error
        else:
            age = backend.age(boottime())
            contents, more_rows = _contents(store.state)
            value |= {"storeID": backend.store_id, "ageSeconds": round(age, 3), **contents}
            rows |= {"Store": backend.store_id, "Age": f"{age:.3f}s", **more_rows}
        found = backend.status()
    value |= _cluster(found)
    alarms = f"\nAlarms: {printable(', '.join(found.alarms))}" if found.alarms else ""
    show(value, f"{_lines(rows)}\n\n{_endpoint_table(found)}{alarms}", output)
    if problem is not None:
        raise problem


def _contents(state: AuthState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is in a store, for JSON and for people."""
    records = {
        "users": len(state.users),
        "roles": len(state.roles),
        "permissions": sum(len(role.permissions) for role in state.roles.values()),
        "groups": len(state.groups),
        "revocations": len(state.revoked_jtis) + len(state.revoked_subjects),
        "tokens": len(state.tokens),
    }
    value = {
        "revision": state.revision,
        "authRevision": state.meta.revision,
        "authEnabled": state.meta.enabled,
        "records": records,
    }
    rows = {
        "Revision": state.revision,
        "AuthRevision": state.meta.revision,
        "Authentication Status": str(state.meta.enabled).lower(),
        **{name.capitalize(): count for name, count in records.items()},
    }
    return value, rows


def _lines(rows: dict[str, Any]) -> str:
    return "\n".join(printable(f"{name}: {entry}") for name, entry in rows.items())


def _cluster(found: "StoreStatus") -> dict[str, Any]:
    return {
        "endpoints": [
            {
                "endpoint": entry.endpoint,
                "healthy": not entry.error,
                "version": entry.version,
                "leader": entry.is_leader,
                "databaseBytes": entry.db_size,
                "quotaBytes": entry.db_quota,
                "seconds": round(entry.seconds, 4),
                "error": entry.error,
            }
            for entry in found.endpoints
        ],
        "alarms": list(found.alarms),
    }


def _endpoint_table(found: "StoreStatus") -> str:
    head = ("ENDPOINT", "VERSION", "HEALTH", "ROLE", "DATABASE", "TIME")
    errors = [f"\n{printable(entry.error)}" for entry in found.endpoints if entry.error]
    return table(head, [_row(entry) for entry in found.endpoints]) + "".join(errors)


def _row(entry: "EndpointStatus") -> tuple[str, ...]:
    if entry.error:
        return (entry.endpoint, "", "no answer", "", "", "")
    follower = "follower" if entry.has_leader else "no leader"
    role = "leader" if entry.is_leader else follower
    size = f"{entry.db_size / _MIB:.1f} MiB"
    return (entry.endpoint, entry.version, "ok", role, size, f"{1000 * entry.seconds:.1f}ms")
