"""``leeway keys``: signing keys and their rotation."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Final

import click
import msgspec

from keys.jwk import jwks_document
from keys.keyring import Keyring, KeyState, ScheduledKey
from keys.messages import utc
from keys.pem import ALGORITHMS
from keys.rotation import KeyChange, RotationPolicy, StepKind, next_step, require_allowed
from webhook.assembly import rotation_policy_of
from webhook.cli.audit import audit
from webhook.cli.options import data_dir_option, example, output_option
from webhook.cli.output import say, show, table
from webhook.cli.store_keys import accept, encryption_key, move, reencrypt
from webhook.config.load import FILE_NAME, load_configuration
from webhook.config.model import Configuration
from webhook.config.paths import KEYS_FOLDER
from webhook.errors import DataDirectoryError
from webhook.signing_keys import keyring_for, opened_signing_keys

_DASHED_KID: Final = re.compile(r"-[A-Za-z0-9_-]{42}")
_force_option = click.option("--force", is_flag=True, help="Do it even if it is not safe yet.")


@click.group(epilog=example("leeway keys list"))
def keys() -> None:
    """Show, create and rotate signing keys."""


@keys.command("list", epilog=example("leeway keys list -o yaml"))
@data_dir_option
@output_option
def list_keys(data_dir: Path, output: str) -> None:
    """Show each key, its state and its next step.

    SINCE is when the key entered its state. NEXT STEP says when the next state is safe.
    """
    configuration = _configured(data_dir)
    with opened_signing_keys(data_dir, configuration) as opened:
        keyring = opened.keyring()
    policy, now = rotation_policy_of(configuration), int(time())
    rows = [_row(keyring, key, policy, now) for key in keyring.keys]
    cells = [
        (str(r["kid"]), str(r["algorithm"]), str(r["state"]), str(r["since"]), _step_text(r))
        for r in rows
    ]
    if keyring.refusal:
        say(f"leeway: warning: {keyring.refusal}", err=True)
    show(rows, table(("KID", "ALGORITHM", "STATE", "SINCE", "NEXT STEP"), cells), output)


@keys.command(
    "generate", short_help="Create a key.", epilog=example("leeway keys generate --algorithm ES256")
)
@data_dir_option
@click.option("--algorithm", type=click.Choice(ALGORITHMS), default="RS256", show_default=True)
@click.option("--force", is_flag=True, help="Do it even if this clock may be wrong.")
def generate(data_dir: Path, algorithm: str, force: bool) -> None:
    """Create a key. The first key is active; any other is pending: published, but not used yet.

    With a section signer in leeway.yaml, only the algorithms that kube-apiserver accepts.
    """
    configuration = _configured(data_dir)
    require_allowed(algorithm, rotation_policy_of(configuration))
    with opened_signing_keys(data_dir, configuration) as opened:
        key = opened.generate(algorithm, int(time()), force=force)
    audit(data_dir, "keys.generate", kid=key.kid, algorithm=algorithm, state=key.state.value)
    say(f"key {key.kid} created, it is {key.state.value}")


@keys.command(
    "rotate",
    short_help="Take the next step to a new signing key.",
    epilog=example("leeway keys rotate"),
)
@data_dir_option
@_force_option
def rotate_keys(data_dir: Path, force: bool) -> None:
    """Take the next step to a new signing key. Exit 1 if that is not safe yet.

    The first step creates a key and publishes it. The second, some time later, makes it the active
    key, and the old key verify-only. The third retires the old key, once the last token that it
    signed has expired.
    """
    configuration, now = _configured(data_dir), int(time())
    with opened_signing_keys(data_dir, configuration) as opened:
        changed = opened.rotate(now, force=force)
    _audit(data_dir, "keys.rotate", changed, force=force)
    _print_steps(changed, rotation_policy_of(configuration), now)


class _KidCommand(click.Command):
    """Accepts a KID that begins with a dash, as one in 64 does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse a command line with the KID moved behind all options."""
        kids = [argument for argument in args if _DASHED_KID.fullmatch(argument)]
        rest = [argument for argument in args if argument not in kids]
        return super().parse_args(ctx, [*rest, "--", *kids] if kids else rest)


@keys.command(
    "retire",
    cls=_KidCommand,
    short_help="Retire a key.",
    epilog=example("leeway keys retire CptunQNEqPbZlxXbZOIjtY2jAHwcAfA8fF8TeKyQBkk"),
)
@click.argument("kid", metavar="KID")
@data_dir_option
@_force_option
def retire_key(data_dir: Path, kid: str, force: bool) -> None:
    """Retire the key KID: the tokens that it signed are refused from now on.

    Exit 1 while such a token could still be valid. The active key is never retired.
    """
    configuration, now = _configured(data_dir), int(time())
    with opened_signing_keys(data_dir, configuration) as opened:
        changed = opened.retire(kid, now, force=force)
    _audit(data_dir, "keys.retire", changed, force=force)
    if not changed.steps:
        say(f"key {kid} is already retired")
    _print_steps(changed, rotation_policy_of(configuration), now)


@keys.command("jwks", epilog=example("leeway keys jwks -o json"))
@data_dir_option
@output_option
def jwks(data_dir: Path, output: str) -> None:
    """Show the published JSON Web Key Set."""
    document = jwks_document(keyring_for(data_dir, _configured(data_dir)).published_keys())
    show(msgspec.json.decode(document), msgspec.json.format(document, indent=2).decode(), output)


def _audit(data_dir: Path, action: str, changed: KeyChange, *, force: bool) -> None:
    for step in changed.steps:
        audit(data_dir, action, kid=step.kid, step=step.kind.value, force=force)


def _print_steps(changed: KeyChange, policy: RotationPolicy, now: int) -> None:
    if changed.broken:
        say(f"leeway: warning: {changed.broken}", err=True)
    for step in changed.steps:
        if step.kind is StepKind.PUBLISH:
            say(f"key {step.kid} created, it is {changed.keyring.key(step.kid).state}")
        elif step.kind is StepKind.ACTIVATE:
            say(f"key {step.kid} is active")
        else:
            say(f"key {step.kid} is retired")
    if changed.steps:
        for key in changed.keyring.keys:
            if key.state in (KeyState.PENDING, KeyState.VERIFY_ONLY):
                row = _row(changed.keyring, key, policy, now)
                say(f"next: key {key.kid} {_step_text(row)}")


def _row(
    keyring: Keyring, key: ScheduledKey, policy: RotationPolicy, now: int
) -> dict[str, str | bool | None]:
    step = next_step(keyring, key, policy)
    from_ = step.safe_from
    return {
        "kid": key.kid,
        "algorithm": key.verification_key.algorithm,
        "state": key.state.value,
        "since": utc(key.since),
        "next": step.state.value if step.state else None,
        "safeFrom": utc(from_) if from_ is not None else None,
        "safe": from_ is not None and from_ <= now,
    }


def _step_text(row: Mapping[str, str | bool | None]) -> str:
    if row["next"] is None:
        return "-"
    if row["safe"]:
        return f"{row['next']}, safe now"
    if row["safeFrom"] is not None:
        return f"{row['next']}, safe from {row['safeFrom']} on"
    if row["next"] == KeyState.VERIFY_ONLY:
        return f"{row['next']}, once another key is pending long enough"
    return f"{row['next']}, only by force"


def _configured(data_dir: Path) -> Configuration:
    if not ((data_dir / KEYS_FOLDER).is_dir() or (data_dir / FILE_NAME).exists()):
        raise DataDirectoryError.none_at(data_dir)
    return load_configuration(data_dir, os.environ, {})


for _command in (encryption_key, move, reencrypt, accept):
    keys.add_command(_command)
