"""``leeway store``: what the store contains, and its export to a document and import from one."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click
import msgspec
import yaml

from keys.encoding import decode_json
from keys.errors import EncodingError
from keys.files import write_own_file
from keys.messages import counted
from webhook.cli.audit import audit
from webhook.cli.options import data_dir_option, example
from webhook.cli.output import json_text, say
from webhook.cli.role import warn_of_every_object
from webhook.cli.store_access import opened_store
from webhook.cli.store_status import repair, status
from webhook.config.yaml_text import parse_single_document
from webhook.errors import ConfigurationError, LeewayError
from webhook.rbac.document import Document, document_of
from webhook.rbac.document_reading import StoreContent, read_document
from webhook.rbac.errors import DocumentError, StoreChangedError
from webhook.rbac.import_plan import ImportPlan
from webhook.rbac.import_run import ImportRun
from webhook.rbac.importing import plan_import
from webhook.rbac.model import Permission, Role
from webhook.rbac.state import AuthState

try:
    # Five times as fast; PyYAML has it where it was built with libyaml.
    from yaml import CSafeDumper as _Dumper
except ImportError:  # pragma: no cover
    from yaml import SafeDumper as _Dumper  # type: ignore[assignment]

_STDIO: Final = "-"
_MAX_BYTES: Final = 128 << 20
"""Of a document that is imported: one of 100,000 users and as many revocations has 30 MiB."""
_ONE_LINE: Final = (1 << 31) - 1
_file_type = click.Path(dir_okay=False, allow_dash=True)


@click.group(epilog=example("leeway store status"))
def store() -> None:
    """Show, export, import and repair users, roles and revocations."""


store.add_command(status)
store.add_command(repair)


@store.command(epilog=example("leeway store export backup.yaml", "leeway store export -o json"))
@click.argument("file", metavar="[FILE|-]", type=_file_type, default=_STDIO)
@data_dir_option
@click.option(
    "-o",
    "--output",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="The output format.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def export(data_dir: Path, file: str, output: str, *, force: bool) -> None:
    """Write the content of the store to a file.

    Without FILE it goes to standard output. The document has the users with the hashes of their
    passwords, roles, groups and revocations, but no auth tokens and no keys. FILE gets mode 0600.
    """
    with opened_store(data_dir) as (opened, _):
        document = document_of(opened.state, opened.position)
    data = rendered(document, output).encode("utf-8")
    if file == _STDIO:
        click.echo(data, nl=False)
        return
    _write(Path(file), data, force=force)
    say(f"Revision {opened.state.revision} of the store written to {file}")


@store.command(
    "import",
    epilog=example(
        "leeway store import backup.yaml --dry-run", "leeway store import backup.yaml --at 12"
    ),
)
@click.argument("file", metavar="FILE|-", type=_file_type)
@data_dir_option
@click.option("--dry-run", is_flag=True, help="Only print the differences.")
@click.option(
    "--at",
    metavar="REVISION",
    type=click.IntRange(min=0),
    help="Change nothing unless the store is at this revision, which --dry-run prints.",
)
@click.option(
    "--prune",
    is_flag=True,
    help="Delete users, roles and groups that FILE does not list, and disable auth if it says so.",
)
@click.option(
    "--prune-revocations", is_flag=True, help="Delete revocations that FILE does not list."
)
@click.option(
    "--restored",
    is_flag=True,
    help="End all auth tokens: the store was restored from a backup or snapshot of itself.",
)
def import_document(
    data_dir: Path,
    file: str,
    *,
    dry_run: bool,
    at: int | None,
    prune: bool,
    prune_revocations: bool,
    restored: bool,
) -> None:
    """Make the store equal to an exported document.

    Every difference is printed before anything is changed. Then exactly these changes are made, in
    one transaction where they fit into one. If somebody has changed the store meanwhile so that the
    differences are not those printed, it stops, prints those, and the exit code is 1. An import in
    several transactions that was interrupted can be repeated.
    """
    name = "standard input" if file == _STDIO else file
    content = _read(file, name)
    with opened_store(data_dir) as (opened, _):

        def make_plan(state: AuthState, *, is_first: bool) -> ImportPlan:
            try:
                return plan_import(
                    state,
                    content,
                    prune=prune,
                    prune_revocations=prune_revocations,
                    restored=restored and is_first,
                    max_records=opened.max_records,
                )
            except DocumentError as error:
                raise _refused(name, error) from error

        run = ImportRun(opened, make_plan, at)
        _print_plan(run.plan)
        for permission in _new_permissions(opened.state, content):
            warn_of_every_object(permission)
        if len(run.transactions) > 1:
            say(f"{len(run.transactions)} transactions are needed; if it is interrupted, repeat it")
        if dry_run or not run.plan.differences:
            _print_outcome(run.plan, opened.state.revision, is_dry_run=dry_run)
            return
        _apply(run, data_dir)
        revision = opened.state.revision
        audit(
            data_dir,
            "store.import",
            changes=run.removed,
            revision=opened.own_revision,
            storeRevision=revision,
        )
    say(f"{counted(run.removed, 'change')} made; the store is at revision {revision}")


def _apply(run: ImportRun, data_dir: Path) -> None:
    try:
        for removed in run.apply():
            for difference, auth_revision in removed:
                audit(data_dir, difference.action, **difference.fields, revision=auth_revision)
    except StoreChangedError:
        if run.now is not None:
            say("The differences are now:")
            _print_plan(run.now)
        raise
    except LeewayError:
        if run.removed:
            count = len(run.plan.differences)
            say(f"leeway: the first {run.removed} of {count} changes were made", err=True)
        raise


def _print_plan(plan: ImportPlan) -> None:
    for difference in plan.differences:
        say(difference.text)
    for option in dict.fromkeys(option for option, _ in plan.kept):
        kept = ", ".join(text for by, text in plan.kept if by == option)
        say(f"kept without {option}: {kept}")


def _new_permissions(state: AuthState, content: StoreContent) -> Iterator[Permission]:
    for name, role in (content.roles or {}).items():
        held = state.roles.get(name, Role(name)).permissions
        yield from (permission for permission in role.permissions if permission not in held)


def _print_outcome(plan: ImportPlan, revision: int, *, is_dry_run: bool) -> None:
    if not plan.differences:
        say(f"No differences; the store is at revision {revision}")
    elif is_dry_run:
        count = counted(len(plan.differences), "difference")
        say(
            f"{count}, nothing was changed; --at {revision} in place of --dry-run makes exactly "
            "these changes"
        )


def rendered(document: Document, output: str) -> str:
    """Write a document as JSON or YAML."""
    if output == "json":
        return json_text(document) + "\n"
    # Flow style for the innermost collections: a line for each permission and each revocation.
    return yaml.dump(
        msgspec.to_builtins(document),
        Dumper=_Dumper,
        default_flow_style=None,
        sort_keys=False,
        width=_ONE_LINE,
    )


def _write(path: Path, data: bytes, *, force: bool) -> None:
    if not path.name:
        raise click.UsageError("the name of FILE is empty; give one, or - for standard output")
    if path.exists() and not path.is_file():
        # Renaming over it would replace /dev/null or /dev/stdout for everybody.
        raise click.UsageError(f"{path} is not a file; use - for standard output")
    try:
        if not write_own_file(path, data, replace=force):
            raise click.UsageError(f"{path} exists; give another name, or replace it with --force")
    except OSError as error:
        # The error names a temporary file beside it.
        raise OSError(error.errno, error.strerror, str(path)) from error


def _refused(name: str, error: Exception) -> DocumentError:
    return DocumentError(f"{name}: {error}; nothing was changed")


def _read(file: str, name: str) -> StoreContent:
    try:
        # In UTF-8 whatever the locale is.
        return read_document(parsed(_read_bytes(file).decode("utf-8"), name))
    except UnicodeError as error:
        raise DocumentError(f"{name} is not UTF-8; nothing was changed") from error
    except (EncodingError, DocumentError) as error:
        raise _refused(name, error) from error
    except ConfigurationError as error:
        raise DocumentError(f"{error}; nothing was changed") from error


def _read_bytes(file: str) -> bytes:
    """Return the bytes of a file, which may be a device without an end. Raises DocumentError."""
    with ExitStack() as stack:
        stream = sys.stdin.buffer if file == _STDIO else stack.enter_context(Path(file).open("rb"))
        data = stream.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise DocumentError(f"it has more than {_MAX_BYTES >> 20} MiB, which is too long")
    return data


def parsed(text: str, name: str) -> object:
    """Parse a document: JSON if it begins with a brace, else YAML.

    Raises EncodingError or ConfigurationError, also for a duplicate member.
    """
    if text.lstrip().startswith("{"):
        return decode_json(text.encode("utf-8"))
    return parse_single_document(text, name)
