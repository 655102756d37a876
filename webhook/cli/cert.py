"""``leeway cert``: certificates signed by the CA of the data directory."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import hexdigits
from typing import Any, Final

import click

from keys.crl import LIST_LIFETIME, MAX_SERIAL, RevocationLists
from keys.errors import KeysError
from keys.messages import utc
from keys.pki import LEAF_LIFETIME
from webhook.cli.audit import audit
from webhook.cli.options import data_dir_option, example, output_option
from webhook.cli.output import printable, say, show, table
from webhook.config.load import load_configuration
from webhook.config.paths import TLS_FOLDER, server_url
from webhook.setup.certificates import (
    REVOCATION_LIST,
    SERVER,
    CertificateEntry,
    create_client,
    list_certificates,
    renew,
    revocation_list,
    revoke,
    serial_text,
)

_MAX_DAYS: Final = 3650
_days = click.IntRange(1, _MAX_DAYS)


class _Serial(click.ParamType[int]):
    name = "hex"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        text = str(value).removeprefix("serial=").replace(":", "")
        is_hex = 0 < len(text) <= 40 and set(text) <= set(hexdigits)
        serial = int(text, 16) if is_hex else 0
        if not 0 < serial <= MAX_SERIAL:
            self.fail(
                "a serial number has 1 to 40 hexadecimal digits, is not 0, and with 40 digits the "
                "first is 0 to 7",
                param,
                ctx,
            )
        return serial


@click.group(epilog=example("leeway cert list"))
def cert() -> None:
    """Create, renew, revoke and show certificates.

    They are signed with tls/ca.key in the data directory. A running server uses every change within
    a few seconds, for new connections.
    """


@cert.command(
    short_help="Create a client certificate and a kubeconfig.",
    epilog=example("leeway cert create lead --days 90"),
)
@click.argument("name", metavar="NAME")
@data_dir_option
@click.option(
    "--days",
    type=_days,
    default=LEAF_LIFETIME.days,
    show_default=True,
    help="For how many days it is valid, at most as long as the CA.",
)
def create(name: str, data_dir: Path, days: int) -> None:
    """Create a client certificate for the user NAME, its key, and a kubeconfig with both.

    NAME is the common name of the certificate. `leeway user get NAME` shows the roles of the user;
    `leeway user add NAME --no-password` adds a user without a password.
    """
    url = server_url(data_dir, load_configuration(data_dir, os.environ, {}))
    made = create_client(data_dir, name, timedelta(days=days), _now(), url)
    audit(data_dir, "cert.create", user=name, expiresAt=utc(made.not_after))
    for path in made.paths:
        say(f"created {path}")
    say(f"good until {utc(made.not_after)}")


@cert.command(
    "renew",
    short_help="Replace certificates before they expire.",
    epilog=example("leeway cert renew root", "leeway cert renew --due   # once a day, from cron"),
)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@data_dir_option
@click.option("--days", type=_days, help="For how many days. [default: as before]")
@click.option("--due", is_flag=True, help="Only those past two thirds of their lifetime.")
@click.option("--host", "hosts", multiple=True, help="The server's name or IP, repeatable.")
def renew_certificates(
    names: tuple[str, ...], data_dir: Path, days: int | None, hosts: tuple[str, ...], *, due: bool
) -> None:
    """Replace certificates and their keys, and the kubeconfigs that contain them.

    NAME is server, kube-apiserver, root, another user from `leeway cert list`, or ca.crl for the
    list of revoked certificates. Without a NAME, everything that is not revoked is renewed. The old
    certificates stay valid until they expire; `leeway cert revoke` ends them sooner.
    """
    if hosts and names != (SERVER,):
        raise click.UsageError("--host is for the server's certificate; write `cert renew server`")
    lifetime = timedelta(days=days) if days else None
    done = renew(data_dir, names, _now(), lifetime, hosts, only_due=due)
    for renewed in done:
        expires = utc(renewed.not_after)
        audit(data_dir, "cert.renew", name=renewed.name, expiresAt=expires)
        for path in renewed.paths:
            say(f"replaced {path}")
        say(f"{printable(renewed.name)} is good until {utc(renewed.not_after)}")
    if not done:
        click.echo("nothing is due")
    if any(path.suffix == ".yaml" for renewed in done for path in renewed.paths):
        click.echo("next: copy the kubeconfigs to where they are used", err=True)


@cert.command(
    "revoke",
    short_help="Revoke client certificates before they expire.",
    epilog=example("leeway cert revoke lead", "leeway cert revoke --serial 191AA31632A3D81626BF"),
)
@click.argument("name", metavar="[NAME]", required=False, default="")
@data_dir_option
@click.option(
    "--serial",
    "serials",
    type=_Serial(),
    multiple=True,
    help="The serial number of a certificate that was made elsewhere, repeatable.",
)
@click.option(
    "--days",
    type=_days,
    default=LIST_LIFETIME.days,
    show_default=True,
    help="For how many days the list is valid.",
)
def revoke_certificates(name: str, data_dir: Path, serials: tuple[int, ...], days: int) -> None:
    """Add every certificate of the user NAME to the list of revoked certificates, tls/ca.crl.

    Renew the list in time: once it has expired, no client certificate is accepted.
    """
    if not name and not serials:
        raise click.UsageError("there is nothing to revoke; give a NAME or a --serial")
    new, made = revoke(data_dir, name, serials, _now(), timedelta(days=days))
    for serial in new:
        audit(data_dir, "cert.revoke", user=name or None, serial=serial_text(serial))
        say(f"certificate {serial_text(serial)} revoked")
    if not new:
        click.echo("already revoked; the list was renewed")
    say(
        f"{made.paths[0]} is good until {utc(made.not_after)}: renew it before then with "
        f"`leeway cert renew {REVOCATION_LIST}`, or no client certificate is accepted"
    )


@cert.command(
    "list",
    short_help="Show certificates, when they expire, and what is revoked.",
    epilog=example("leeway cert list"),
)
@data_dir_option
@output_option
def list_all(data_dir: Path, output: str) -> None:
    """Show every certificate of the data directory with its state, and the revocation list.

    The state is valid, due (renew it now), expired or revoked. A certificate without a file has
    been replaced, and is still accepted.
    """
    now = _now()
    entries = list_certificates(data_dir, now)
    try:
        found, problem = revocation_list(data_dir, now), ""
    except KeysError as error:
        found, problem = None, str(error)
    value = {
        "certificates": [_value(entry) for entry in entries],
        "revocationList": _list_value(found, problem),
    }
    show(value, _table(entries, data_dir, found, problem), output)


def _value(entry: CertificateEntry) -> dict[str, object]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "state": entry.state,
        "expires": utc(entry.facts.not_after),
        "serial": entry.serial,
        "file": str(entry.path) if entry.path else None,
    }


def _list_value(found: RevocationLists | None, problem: str) -> dict[str, object] | None:
    if found is None:
        return {"problem": problem} if problem else None
    return {"revoked": found.revoked, "renewBefore": utc(found.next_update)}


def _table(
    entries: list[CertificateEntry], data_dir: Path, found: RevocationLists | None, problem: str
) -> str:
    rows = []
    for entry in entries:
        path = entry.path.relative_to(data_dir) if entry.path else "-"
        name, expires = printable(entry.name), utc(entry.facts.not_after)
        rows.append((name, entry.kind, entry.state, expires, entry.serial, printable(str(path))))
    lines = [table(("NAME", "KIND", "STATE", "EXPIRES", "SERIAL", "FILE"), rows)]
    path = printable(str(data_dir / TLS_FOLDER / REVOCATION_LIST))
    if problem:
        lines += ["", f"{printable(problem)}; until then no client certificate is accepted"]
    elif found is not None:
        lines += ["", f"{path}: {found.revoked} revoked; renew it before {utc(found.next_update)}"]
    return "\n".join(lines)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
