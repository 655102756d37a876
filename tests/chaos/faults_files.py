"""Rows 48 and 55: keys, certificates and settings that change, and a change that is killed."""

import asyncio
import json
import os
import re
import signal
import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime

from keys import jws, pki
from keys.files import replace_file
from keys.folder import load_keyring, read_folder
from keys.folder_changes import rotate
from keys.keyring import KeyState
from tests.e2e.harness import HOST, REVIEWS
from webhook.assembly import rotation_policy_of
from webhook.config.load import load_configuration
from webhook.config.paths import read_pair

from .contention import Spent
from .load import Load
from .run import NEW_SECONDS, Run, helper
from .tokens import LEEWAY_SECONDS, NAMESPACE, Token
from .window import Window

_TOKEN_PATH = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/plain/token"
_LONGEST_STEP = 0.03


async def rotation_killed(run: Run, window: Window) -> None:
    policy = rotation_policy_of(load_configuration(run.machine.data_dir, {}, {}))
    keys = run.machine.data_dir / "keys"
    async with helper("rotator", keys, policy.token_seconds) as rotator:
        for _ in range(run.times(8, 60)):
            await rotator.tell()
            pid = int(await rotator.hear())
            await asyncio.sleep(run.rng.uniform(0, _LONGEST_STEP))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            window.injected += await rotator.hear() == str(int(signal.SIGKILL))
            found = read_folder(keys).keyring
            active = [key for key in found.keys if key.state is KeyState.ACTIVE]
            if len(active) != 1:
                window.is_lost(f"{len(active)} keys are active")
            run.load.signer.take_new_keys()
            # At once, in any worker: tokens that another process signs must verify.
            await asyncio.gather(*(run.load.review(_signed_now(run.load)) for _ in range(4)))
    seconds = await _new_key_signs(run)
    window.measure("a new key signs after all", seconds, NEW_SECONDS)
    await run.load.settle()


def _signed_now(load: Load) -> Token:
    return load.signer.sign("by the newest key", "plain")


async def everything_replaced(run: Run, window: Window) -> None:
    try:
        for _ in range(run.times(3, 30)):
            window.measure("a new key signs", await _new_key_signs(run), NEW_SECONDS)
            seconds = await _new_certificate_is_shown(run)
            window.measure("a new certificate is shown", seconds, NEW_SECONDS)
            leeway = run.rng.randrange(100, 300)
            seconds = await _leeway_counts(run, leeway)
            window.measure("a new configuration counts", seconds, NEW_SECONDS)
            window.injected += 3
    finally:
        _set_leeway(run, LEEWAY_SECONDS)
    beyond = run.load.signer.sign("beyond the leeway", "plain", ahead=LEEWAY_SECONDS + 20)
    seconds = await run.wait_for(lambda: _everywhere(run, beyond.review(), False), NEW_SECONDS)
    window.measure("the old configuration counts again", seconds, NEW_SECONDS)
    await run.load.settle()


async def _new_key_signs(run: Run) -> Spent:
    """Make a new key the active one at once; return the seconds until the server signs with it."""
    keys = run.machine.data_dir / "keys"
    policy = rotation_policy_of(load_configuration(run.machine.data_dir, {}, {}))

    def rotate_twice() -> str:
        # One step makes a key and publishes it, the other makes it the active one.
        for _ in range(2):
            rotate(keys, policy, int(time.time()), force=True)
        return load_keyring(keys).signing_key().verification_key.kid

    kid = await asyncio.to_thread(rotate_twice)
    run.load.signer.take_new_keys()

    async def is_used() -> bool:
        return {await _kid_of_a_new_token(run) for _ in range(3)} == {kid}

    return await run.wait_for(is_used, NEW_SECONDS)


async def _kid_of_a_new_token(run: Run) -> str:
    client = run.new_client("root")
    try:
        reply = await client.post(_TOKEN_PATH, b'{"spec": {}}')
    finally:
        client.forget()
    if reply.status != 201:
        return f"{reply.status}"
    return jws.header(jws.parse(json.loads(reply.body)["status"]["token"])).kid or ""


async def _new_certificate_is_shown(run: Run) -> Spent:
    folder = run.machine.data_dir / "tls"
    ca = read_pair(folder, "ca")
    pair = pki.make_server_certificate(ca, "leeway", [HOST, "localhost"], datetime.now(UTC))
    # The key first: a reader in between tries again.
    replace_file(folder / "server.key", pair.private_key)
    replace_file(folder / "server.crt", pair.certificate, 0o644)
    wanted = ssl.PEM_cert_to_DER_cert(pair.certificate.decode("ascii"))

    async def is_shown() -> bool:
        return {await asyncio.to_thread(_shown, run) for _ in range(4)} == {wanted}

    return await run.wait_for(is_shown, NEW_SECONDS)


def _shown(run: Run) -> bytes:
    with run.machine.server.connect() as connection:
        return connection.getpeercert(binary_form=True) or b""


async def _leeway_counts(run: Run, seconds: int) -> Spent:
    within = run.load.signer.sign("within the new leeway", "plain", ahead=seconds - 10)
    _set_leeway(run, seconds)
    return await run.wait_for(lambda: _everywhere(run, within.review(), True), NEW_SECONDS)


async def _everywhere(run: Run, review: bytes, accepted: bool) -> bool:
    """Ask over some new connections, which both workers have, whether a token is accepted."""
    for _ in range(4):
        client = run.new_client()
        try:
            reply = await client.post(REVIEWS, review)
        finally:
            client.forget()
        if json.loads(reply.body)["status"].get("authenticated", False) is not accepted:
            return False
    return True


def _set_leeway(run: Run, seconds: int) -> None:
    path = run.machine.data_dir / "leeway.yaml"
    kept = re.sub(r"(?m)^leeway: .*\n", "", path.read_text())
    text = f"{kept}leeway: {{notBefore: {seconds}s, issuedAt: {seconds}s}}\n"
    replace_file(path, text.encode())
