"""``leeway revoke``: revoked tokens."""

from math import ceil, isinf
from pathlib import Path
from time import time
from typing import Final

import click

from keys.messages import shown, utc
from webhook.assembly import lifetimes_of
from webhook.cli.audit import audit
from webhook.cli.options import data_dir_option, example, output_option
from webhook.cli.output import printable, say, show, table
from webhook.cli.store_access import opened_store
from webhook.cli.token_argument import is_jwt, without_wrapping
from webhook.rbac import revocations
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreUnavailableError
from webhook.rbac.records import Revocation
from webhook.rbac.revocations import CLOCK_SECONDS
from webhook.token.claims import USERNAME_PREFIX, is_dns_label, is_dns_subdomain

_MAX_JTI_LENGTH: Final = 256
_CREDENTIAL_PREFIX: Final = "JTI="
_MOST_AHEAD_SECONDS: Final = 24 * 3600
"""A revocation up to a later time than that is refused: nothing would be issued until then."""


@click.group(epilog=example("leeway revoke list"))
def revoke() -> None:
    """Revoke tokens. Every worker refuses them from its next request on.

    Client certificates stay valid; `leeway cert revoke` revokes them.
    """


@revoke.command("jti", epilog=example("leeway revoke jti 23c4d832-c540-422a-9e85-304452db3136"))
@click.argument("jti", metavar="JTI")
@data_dir_option
def revoke_jti(data_dir: Path, jti: str) -> None:
    """Revoke one token by its jti.

    `leeway token inspect` shows the jti of a token. The credential-id of an audit log, JTI=..., is
    accepted too.
    """
    jti = jti.removeprefix(_CREDENTIAL_PREFIX)
    if is_jwt(without_wrapping(jti)):
        raise click.UsageError(
            "this is a token, not its jti; `leeway token inspect` shows the jti of a token"
        )
    if not (0 < len(jti) <= _MAX_JTI_LENGTH and jti.isascii() and jti.isprintable()):
        # It could be a token, so it is not shown.
        raise click.UsageError(
            f"this is not a jti (it has {len(jti)} characters); give 1 to {_MAX_JTI_LENGTH} of "
            "printable ASCII, from `leeway token inspect`"
        )
    with opened_store(data_dir) as (store, configuration):
        store.change(revocations.revoke_jti, jti, lifetimes_of(configuration), time())
        audit(data_dir, "revoke.jti", jti=jti, revision=store.own_revision)
    say(f"Token with jti {jti} revoked")


@revoke.command("serviceaccount", epilog=example("leeway revoke serviceaccount argo-run/loofah"))
@click.argument("account", metavar="NAMESPACE/NAME")
@data_dir_option
def revoke_account(data_dir: Path, account: str) -> None:
    """Revoke every token of a service account issued up to now."""
    namespace, _, name = account.partition("/")
    if not _is_account(namespace, name):
        raise click.UsageError(
            f"{shown(account, 320)} is not a service account; write NAMESPACE/NAME, like "
            "default/build"
        )
    until = _revoke_subject(data_dir, f"{USERNAME_PREFIX}{namespace}:{name}", is_account=True)
    say(f"Tokens of service account {account} issued up to {until} revoked")


@revoke.command("user", epilog=example("leeway revoke user alice"))
@click.argument("name")
@data_dir_option
def revoke_user(data_dir: Path, name: str) -> None:
    """Revoke every token of a user issued up to now.

    For a user of `leeway user`, these are its auth tokens; for a NAME like
    system:serviceaccount:NAMESPACE:NAME, the tokens of that service account.
    """
    namespace, _, account = name.removeprefix(USERNAME_PREFIX).partition(":")
    is_account = name.startswith(USERNAME_PREFIX) and _is_account(namespace, account)
    until = _revoke_subject(data_dir, name, is_account=is_account)
    say(f"Tokens of user {name} issued up to {until} revoked")


@revoke.command("list", epilog=example("leeway revoke list -o json"))
@data_dir_option
@output_option
def list_revocations(data_dir: Path, output: str) -> None:
    """Show what is revoked: the tokens issued up to BEFORE.

    An entry is dropped at UNTIL, when the last of its tokens has expired.
    """
    now = time()
    with opened_store(data_dir) as (store, _):
        found = [
            *(("jti", jti, revocation) for jti, revocation in store.state.revoked_jtis.items()),
            *(
                ("serviceaccount", subject.removeprefix(USERNAME_PREFIX).replace(":", "/"), entry)
                for subject, entry in store.state.revoked_subjects.items()
            ),
        ]
    rows = [_row(*entry) for entry in sorted(found) if now <= entry[2].until]
    cells = [
        (printable(f"{r['what']} {r['name']}"), str(r["before"]), r["until"] or "never dropped")
        for r in rows
    ]
    show(rows, table(("WHAT", "BEFORE", "UNTIL"), cells), output)


def _row(what: str, name: str, revocation: Revocation) -> dict[str, str | None]:
    until = None if isinf(revocation.until) else utc(revocation.until)
    return {"what": what, "name": name, "before": utc(revocation.before), "until": until}


def _is_account(namespace: str, name: str) -> bool:
    return is_dns_label(namespace) and is_dns_subdomain(name)


def _latest_time(store: AuthStore) -> float:
    """Return the present time, by the clock of another writer of the store if that is ahead.

    Tokens are signed by those clocks. Raises StoreUnavailableError if they differ by too much.
    """
    now, ahead = time(), store.clock_difference
    if ahead <= CLOCK_SECONDS:
        return now
    if ahead > _MOST_AHEAD_SECONDS:
        raise StoreUnavailableError(
            f"it is {utc(now)} here, and the store was changed last at {utc(now + ahead)}, so "
            "nothing was revoked: tokens are revoked by the time; correct the clock that is wrong"
        )
    say(
        f"leeway: warning: this clock is {ahead:.0f}s behind that of the last change of the store, "
        "which counts; correct the one that is wrong",
        err=True,
    )
    return now + ahead


def _revoke_subject(data_dir: Path, subject: str, *, is_account: bool) -> str:
    """Revoke the tokens of a subject, and return the last time of issue that is revoked."""
    with opened_store(data_dir) as (store, configuration):
        now = _latest_time(store) if is_account else time()
        lifetimes = lifetimes_of(configuration)
        store.change(revocations.revoke_subject, subject, lifetimes, now, is_account=is_account)
        action = "revoke.serviceaccount" if is_account else "revoke.user"
        audit(data_dir, action, subject=subject, revision=store.own_revision)
    if is_account and lifetimes.ahead:
        until = utc(ceil(now + lifetimes.ahead))
        return f"{until} (now, and {lifetimes.ahead:g}s for clocks that are ahead)"
    return utc(now)
