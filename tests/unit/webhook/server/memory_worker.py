"""Run as a process of its own: what a worker's application has resident, with much to remember.

``memory_worker.py DATA_DIR TOKENS USERS`` prints a JSON object. The application is a worker's,
the store and the tokens are real; only nobody listens.
"""

import asyncio
import gc
import json
import os
import sys
import time
import uuid
from pathlib import Path

from keys import jws
from webhook.config.load import load_configuration
from webhook.rbac.model import User
from webhook.rbac.records import user_record
from webhook.server.reload.live_application import LiveApplication
from webhook.server.reload.memory_keeper import resident_bytes
from webhook.token.claims import ObjectReference, build_projected
from webhook.token.outcome import Authenticated

LOOK_EVERY = 5_000


def main(data_dir: Path, tokens: int, users: int) -> None:
    app = LiveApplication(data_dir, lambda: load_configuration(data_dir, os.environ, {}))
    gc.collect()
    gc.freeze()
    app.store.change(
        lambda _: [user_record(User(f"user-{n}", b"", ("root",), 1)) for n in range(users)]
    )
    key, parts = app._keys.keyring.signing_key(), app._components
    now, issuer = time.time(), parts.configuration.issuer
    audiences = parts.configuration.audiences
    account = ObjectReference("checkout", str(uuid.uuid4()))
    nodes = [ObjectReference(f"node-{n}", str(uuid.uuid4())) for n in range(16)]
    most = 0
    for number in range(tokens):
        _, payload = build_projected(
            issuer=issuer,
            namespace="shop",
            service_account=account,
            audiences=audiences,
            now=now,
            expiration_seconds=3607,
            warn_after_seconds=3607,
            pod=ObjectReference(f"checkout-5d4f8c7b9-{number:06}", str(uuid.uuid4())),
            node=nodes[number % len(nodes)],
        )
        outcome = parts.authenticator.authenticate(jws.sign(payload, key), audiences, now)
        assert isinstance(outcome, Authenticated)
        if number % LOOK_EVERY == 0:
            asyncio.run(app._memory.check())
            most = max(most, resident_bytes() or 0)
    asyncio.run(app._memory.check())
    found = {
        "bound": parts.configuration.server.max_worker_bytes,
        "cached": len(parts.authenticator.verified),
        "users": len(app.store.user_names()),
        "resident": max(most, resident_bytes() or 0),
    }
    app.store.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
