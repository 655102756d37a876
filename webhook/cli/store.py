"""``leeway store``: what the store contains, and its export to a document and import from one."""

import sys
from collections.abc import Callable, Iterable, Iterator
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
from webhook.errors import ConfigurationError
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.document import Document, document_of
from webhook.rbac.document_reading import StoreContent, read_document
from webhook.rbac.errors import DocumentError, StoreChangedError
from webhook.rbac.importing import ImportPlan, plan_import
from webhook.rbac.model import Permission, Role
from webhook.rbac.records import Record
from webhook.rbac.state import AuthState

try:
    # Five times as fast; PyYAML has it where it was built with libyaml.
    from yaml import CSafeDumper as _Dumper
except ImportError:  # pragma: no cover
    from yaml import SafeDumper as _Dumper  # type: ignore[assignment]

_STDIO: Final = "-"
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
        document = document_of(opened.state)
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
def import_document(
    data_dir: Path,
    file: str,
    *,
    dry_run: bool,
    at: int | None,
    prune: bool,
    prune_revocations: bool,
) -> None:
    """Make the store equal to an exported document.

    Every difference is printed before anything is changed. Then either exactly these changes are
    made, in one transaction, or none: if somebody has changed the store meanwhile so that the
    differences are not those printed, the exit code is 1.
    """
    name = "standard input" if file == _STDIO else file
    content = _read(file, name)
    with opened_store(data_dir) as (opened, _):

        def plan(state: AuthState) -> ImportPlan:
            if at is not None and state.revision != at:
                raise StoreChangedError(
                    f"the store is at revision {state.revision}, not {at}, so nothing was changed; "
                    "look at the differences again with --dry-run"
                )
            try:
                return plan_import(state, content, prune=prune, prune_revocations=prune_revocations)
            except DocumentError as error:
                raise _refused(name, error) from error

        printed = plan(opened.state)
        _print_plan(printed)
        for permission in _new_permissions(opened.state, content):
            warn_of_every_object(permission)
        if dry_run or not printed.differences:
            _print_outcome(printed, opened.state.revision, is_dry_run=dry_run)
            return
        applied = _apply(opened, plan, printed)
        revision = opened.state.revision
        for difference, auth_revision in zip(applied.differences, applied.revisions, strict=True):
            audit(data_dir, difference.action, **difference.fields, revision=auth_revision)
        audit(
            data_dir,
            "store.import",
            changes=len(applied.differences),
            revision=opened.own_revision,
            storeRevision=revision,
        )
    say(f"{counted(len(printed.differences), 'change')} made; the store is at revision {revision}")


def _apply(
    opened: AuthStore, plan: Callable[[AuthState], ImportPlan], printed: ImportPlan
) -> ImportPlan:
    """Write the records of a plan. Raises StoreChangedError if they are no longer as printed."""
    applied = printed

    def decide(state: AuthState) -> Iterable[Record]:
        nonlocal applied
        applied = plan(state)
        if applied.differences != printed.differences:
            raise StoreChangedError(
                f"the store was changed meanwhile and is at revision {state.revision}, where the "
                "differences are not those printed, so nothing was changed; run the command again"
            )
        return applied.records

    opened.change(decide)
    return applied


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
        data = sys.stdin.buffer.read() if file == _STDIO else Path(file).read_bytes()
        return read_document(parsed(data.decode("utf-8"), name))
    except UnicodeError as error:
        raise DocumentError(f"{name} is not UTF-8; nothing was changed") from error
    except (EncodingError, DocumentError) as error:
        raise _refused(name, error) from error
    except ConfigurationError as error:
        raise DocumentError(f"{error}; nothing was changed") from error


def parsed(text: str, name: str) -> object:
    """Parse a document: JSON if it begins with a brace, else YAML.

    Raises EncodingError or ConfigurationError, also for a duplicate member.
    """
    if text.lstrip().startswith("{"):
        return decode_json(text.encode("utf-8"))
    return parse_single_document(text, name)
