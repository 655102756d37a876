"""Checks the signer: its socket, who can connect to it, what it answers, and what it may sign."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from keys.keyring import Keyring, KeyState
from keys.messages import counted, describe_os_error
from webhook.config.groups import find_group
from webhook.config.load import FILE_NAME
from webhook.config.model import SIGNER_ALGORITHMS, Configuration, SignerSection
from webhook.doctor.findings import (
    Examination,
    MissingError,
    Prerequisite,
    Verdict,
    command,
    failure,
    ok,
    warning,
)
from webhook.doctor.fixes import Fixes
from webhook.duration import format_duration
from webhook.errors import LeewayError
from webhook.token.issuer import EXTENDABLE_SECONDS, EXTENDED_SECONDS

_SECONDS: Final = 5.0


class SignerError(LeewayError):
    """The signer does not answer."""


@dataclass(frozen=True, slots=True)
class SocketFacts:
    """The mode and owner of the socket, if it ``is_there``, and of its folder."""

    path: Path
    is_socket: bool
    mode: int
    owner: int
    group: int
    folder_mode: int
    folder_owner: int
    folder_group: int
    is_there: bool = False


@dataclass(frozen=True, slots=True)
class SignerAnswer:
    """What kube-apiserver learns from a signer: the kids, and times in seconds."""

    kids: frozenset[str]
    refresh_hint: int
    max_expiration: int


def examine_signer(
    exam: Examination,
    data_dir: Path,
    configuration: Prerequisite[Configuration],
    keyring: Prerequisite[Keyring],
    fixes: Fixes,
) -> None:
    """Check the signer, if leeway.yaml has a section for it, or it signs with these keys."""
    try:
        found = configuration.get()
    except MissingError:
        return  # It is not known whether there is a signer.
    edit = f"edit {data_dir / FILE_NAME}"
    path = Path(found.signer_settings.socket)
    if found.signer is None:
        examine_unmentioned(exam, path, keyring, edit)
        return
    generate = fixes.leeway("keys", "generate", "--algorithm", "ES256")
    start = f"{fixes.leeway('signer')}   # or restart its service; its log says more"
    exam.check("signer keys", lambda: check_keys(keyring.get(), fixes, generate), generate)
    exam.check("signer tokens", lambda: check_lifetime(found, edit), edit)
    facts = exam.load(
        "signer socket",
        lambda: socket_facts(path, data_dir.stat().st_uid),
        lambda facts: check_socket(facts, found.signer_settings, start),
        start,
    )

    def check() -> Verdict:
        return check_answer(ask_signer(facts.get().path), keyring.get(), found, start)

    exam.check("signer", check, start)


def examine_unmentioned(
    exam: Examination, path: Path, keyring: Prerequisite[Keyring], edit: str
) -> None:
    """Look for a signer that leeway.yaml does not mention; one with other keys is not ours."""
    with suppress(LeewayError, OSError):
        own = {key.kid for key in keyring.get().published_keys()}
        if path.exists() and own & ask_signer(path).kids:
            finding = f"the signer at {path} signs with these keys, but {FILE_NAME} has no section"
            exam.check(
                "signer",
                lambda: warning(
                    f"{finding} signer, so the rotation of keys does not consider it",
                    f"{edit}: add `signer: {{}}`",
                ),
                edit,
            )


def socket_facts(path: Path, owner: int) -> SocketFacts:
    """Return the facts of a socket; a missing one is described as owned by ``owner``.

    Raises OSError, or SignerError if there is no folder either.
    """
    try:
        folder = path.parent.stat()
    except FileNotFoundError as error:
        raise SignerError(f"there is no {path}: the signer does not run") from error
    facts = SocketFacts(
        path, False, 0, owner, 0, stat.S_IMODE(folder.st_mode), folder.st_uid, folder.st_gid
    )
    try:
        found = path.lstat()
    except FileNotFoundError:
        return facts
    return replace(
        facts,
        is_there=True,
        is_socket=stat.S_ISSOCK(found.st_mode),
        mode=stat.S_IMODE(found.st_mode),
        owner=found.st_uid,
        group=found.st_gid,
    )


def check_socket(facts: SocketFacts, section: SignerSection, start: str) -> Verdict:
    """Check that only the owner and the configured group can connect to a socket.

    ``start`` is the command that starts the signer.
    """
    for finding, fix in _faults_of_socket(facts, section, start):
        return failure(finding, fix)
    others = [f"user {facts.owner}"] if facts.owner else []
    others += [f"group {section.group}"] if section.group else []
    who = ", ".join([*others, "root"])
    return ok(f"{facts.path}, mode {facts.mode:04o}, for {who}")


def _faults_of_socket(
    facts: SocketFacts, section: SignerSection, start: str
) -> Iterator[tuple[str, str]]:
    """Yield findings with their fixes, the most important first.

    Whoever can connect gets tokens for any service account. (1) Only the socket's owner and root
    can put another one in its place, or else the signer does not start, (2) it is a socket, (3)
    nobody else can connect to it, (4) nor can a group, unless it is configured, and (5) that group
    can.
    """
    path, folder = facts.path, facts.path.parent
    if facts.folder_owner not in (0, facts.owner):  # 1.
        finding = f"{folder} is of user {facts.folder_owner}, and the signer of {facts.owner}"
        yield finding, command("chown", facts.owner, folder)
    if facts.folder_mode & 0o022:  # 1.
        finding = f"group or others can write in {folder} (mode {facts.folder_mode:04o}"
        yield f"{finding}, 0750 is right)", command("chmod", "750", folder)
    if not facts.is_there:  # 2.
        yield f"there is no {path}: the signer does not run", start
    if not facts.is_socket:  # 2.
        yield f"{path} is not a socket", f"{command('rm', path)}, and start the signer"
    right = 0o660 if section.group else 0o600
    chmod = command("chmod", f"{right:o}", path)
    modes = f"mode {facts.mode:04o}, {right:04o} is right"
    if facts.mode & 0o007:  # 3.
        yield f"others can connect to {path} ({modes})", chmod
    if not section.group:
        if facts.mode & 0o070:  # 4.
            finding = f"group {facts.group} can connect to {path} ({modes}), and"
            yield f"{finding} signer.group is not set", chmod
        return
    group = find_group(section.group)
    if group is None:
        finding = f"signer.group is {section.group}, which is not a group of this machine"
        yield finding, command("groupadd", "--system", section.group)
    elif facts.group != group or facts.mode & 0o060 != 0o060:  # 4, 5.
        finding = f"{path} is of group {facts.group} with mode {facts.mode:04o}, instead of group"
        fix = f"{command('chgrp', group, path)} && {chmod}"
        yield f"{finding} {section.group} with mode {right:04o}", fix
    elif not facts.folder_mode & (0o010 if facts.folder_group == group else 0o001):  # 5.
        finding = f"group {section.group} cannot enter {folder} (mode {facts.folder_mode:04o}"
        fix = f"{command('chgrp', group, folder)} && {command('chmod', '750', folder)}"
        yield f"{finding}, group {facts.folder_group})", fix


def check_keys(keyring: Keyring, fixes: Fixes, generate: str) -> Verdict:
    """Check that kube-apiserver accepts the key that signs, and knows each that is published."""
    accepted = ", ".join(SIGNER_ALGORITHMS)
    others = [
        key
        for key in keyring.keys
        if key.state is not KeyState.RETIRED
        and key.verification_key.algorithm not in SIGNER_ALGORITHMS
    ]
    for key in sorted(others, key=lambda key: key.state is not KeyState.ACTIVE):
        named = f"key {key.kid} is {key.state} and for {key.verification_key.algorithm}"
        if key.state is KeyState.ACTIVE:
            finding = f"{named}, while kube-apiserver accepts {accepted}: the signer does not start"
            rotate = fixes.leeway("keys", "rotate")
            return failure(finding, f"{generate}, and when it is safe {rotate}")
        retire = fixes.leeway("keys", "retire", key.kid)
        if key.state is KeyState.PENDING:
            finding = f"{named}, which kube-apiserver does not accept, so it never signs"
            return warning(finding, retire)
        finding = f"{named}, so kube-apiserver refuses the tokens that it signed"
        return warning(finding, f"{retire}   # once those tokens are replaced")
    return ok(f"kube-apiserver accepts the algorithm of each ({accepted})")


def check_lifetime(configuration: Configuration, edit: str) -> Verdict:
    """Check that tokens of Pods can be extended: clients that do not read them again rely on it."""
    seconds = int(configuration.tokens.max_expiration)
    if seconds < EXTENDABLE_SECONDS:
        return warning(
            f"tokens.maxExpiration is {format_duration(seconds)}, below {EXTENDABLE_SECONDS}s, so "
            "kube-apiserver never extends the tokens of Pods, and clients that do not read them "
            "again fail",
            f"{edit}: set tokens.maxExpiration to 24h or more",
        )
    extended = format_duration(min(seconds, EXTENDED_SECONDS))
    return ok(f"kube-apiserver extends the tokens of Pods to {extended} (tokens.maxExpiration)")


def ask_signer(path: Path, seconds: float = _SECONDS) -> SignerAnswer:
    """Call a signer as kube-apiserver does when it starts. Raises SignerError."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(seconds)
        try:
            client.connect(os.fspath(path))
        except ConnectionRefusedError as error:
            raise SignerError(f"no process listens on {path}: the signer has ended") from error
        except PermissionError as error:
            raise SignerError(f"this user cannot connect to {path}; run this as root") from error
        except OSError as error:
            raise SignerError(f"{path}: {describe_os_error(error)}") from error
    # Imported here, since it takes 0.16 s.
    import grpc

    from webhook.signer.external_jwt_pb2 import (
        FetchKeysRequest,
        FetchKeysResponse,
        MetadataRequest,
        MetadataResponse,
    )
    from webhook.signer.grpc_server import SERVICE
    from webhook.signer.service import FETCH_KEYS, METADATA

    options = [("grpc.default_authority", "localhost"), ("grpc.enable_http_proxy", 0)]
    try:
        with grpc.insecure_channel(f"unix:{path}", options) as channel:
            metadata = channel.unary_unary(
                f"/{SERVICE}/{METADATA}",
                MetadataRequest.SerializeToString,
                MetadataResponse.FromString,
            )(MetadataRequest(), timeout=seconds)
            keys = channel.unary_unary(
                f"/{SERVICE}/{FETCH_KEYS}",
                FetchKeysRequest.SerializeToString,
                FetchKeysResponse.FromString,
            )(FetchKeysRequest(), timeout=seconds)
    except grpc.RpcError as error:
        code = error.code().name if isinstance(error, grpc.Call) else "no code"
        raise SignerError(f"what listens on {path} does not answer as a signer: {code}") from error
    return SignerAnswer(
        frozenset(key.key_id for key in keys.keys),
        keys.refresh_hint_seconds,
        metadata.max_token_expiration_seconds,
    )


def check_answer(
    answer: SignerAnswer, keyring: Keyring, configuration: Configuration, restart: str
) -> Verdict:
    """Compare what a signer answers with the keys of the folder and the configuration."""
    published = keyring.published_keys()
    expected = {key.kid for key in published if key.algorithm in SIGNER_ALGORITHMS}
    missing, older = sorted(expected - answer.kids), sorted(answer.kids - expected)
    if expected and not expected & answer.kids:
        return failure("the signer has none of the keys of this data directory", restart)
    if missing:
        return warning(f"kube-apiserver cannot fetch {', '.join(missing)}, which is here", restart)
    if older:
        return warning(f"the signer still has {', '.join(older)[:256]}, gone here", restart)
    hint = int(configuration.signer_settings.refresh_hint)
    most = int(configuration.tokens.max_expiration)
    for name, has, wants in (
        ("signer.refreshHint", answer.refresh_hint, max(hint, 1)),
        ("tokens.maxExpiration", answer.max_expiration, most),
    ):
        if has != wants:
            return warning(
                f"{name} is {format_duration(wants)}, and the signer uses {format_duration(has)}",
                restart,
            )
    every = format_duration(answer.refresh_hint)
    return ok(
        f"{counted(len(answer.kids), 'key')} to fetch every {every}, tokens of up to "
        f"{format_duration(answer.max_expiration)}"
    )
