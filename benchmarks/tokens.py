"""Tokens for measurements: projected and bound to a Pod on a Node, as the kubelet mounts them."""

import json
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from keys.keyring import Keyring
from webhook.assembly import keyring_of, policy_of
from webhook.config.load import load_configuration
from webhook.token.claims import ObjectReference
from webhook.token.issuer import EXTENDABLE_SECONDS, TokenPolicy, TokenSpec, issue_token

_NODES: Final = tuple(ObjectReference(f"node-{i}", str(uuid.uuid4())) for i in range(16))
_SIGNING_PROCESSES: Final = 2


def make_tokens(keyring: Keyring, policy: TokenPolicy, count: int, accounts: int = 1) -> list[str]:
    """Sign tokens for ``count`` different Pods of so many service accounts."""
    now = time.time()
    tokens = []
    for index in range(count):
        request = TokenSpec(
            namespace="shop",
            name=f"checkout-{index % accounts}" if accounts > 1 else "checkout",
            expiration_seconds=EXTENDABLE_SECONDS,
            pod=ObjectReference(f"checkout-5d4f8c7b9-{index:05}", str(uuid.uuid4())),
            node=_NODES[index % len(_NODES)],
            objects_confirmed=True,
        )
        tokens.append(issue_token(request, policy, keyring, now).token)
    return tokens


def make_tokens_of(data_dir: Path, count: int, accounts: int = 1) -> list[str]:
    """Sign tokens with the key of a data directory, in more than one process."""
    with ProcessPoolExecutor(_SIGNING_PROCESSES) as pool:
        share = -(-count // _SIGNING_PROCESSES)
        parts = [
            pool.submit(make_tokens_here, data_dir, share, accounts)
            for _ in range(_SIGNING_PROCESSES)
        ]
        return [token for part in parts for token in part.result()][:count]


def make_tokens_here(data_dir: Path, count: int, accounts: int = 1) -> list[str]:
    """Sign tokens with the key of a data directory, in this process."""
    policy = policy_of(load_configuration(data_dir, {}, {}))
    return make_tokens(keyring_of(data_dir), policy, count, accounts)


def token_review(token: str, audience: str) -> str:
    """Render a TokenReview on one line, member for member as kube-apiserver sends it."""
    members = {
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": None},
        "spec": {"token": token, "audiences": [audience]},
        "status": {"user": {}},
    }
    return json.dumps(members, separators=(",", ":"))
