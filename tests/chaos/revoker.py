"""A helper that revokes tokens beside the replicas, as ``leeway revoke jti`` does.

Reads a jti a line, and prints ``done``, ``not`` or ``unknown``.
"""

import sys
import time
from pathlib import Path

from webhook.assembly import lifetimes_of, store_of
from webhook.config.load import load_configuration
from webhook.rbac import revocations
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import OutcomeUnknownError, StoreUnavailableError


def main() -> None:
    data_dir = Path(sys.argv[1])
    configuration = load_configuration(data_dir, {}, {})
    store = store_of(data_dir, configuration)
    lifetimes = lifetimes_of(configuration)
    is_loaded = False
    print("ready", flush=True)
    for line in sys.stdin:
        jti = line.strip()
        try:
            if not is_loaded:
                store.load()
                is_loaded = True
            _revoke(store, jti, lifetimes)
            answer = "done"
        except OutcomeUnknownError:
            answer = "unknown"
        except StoreUnavailableError:
            answer = "not"
        print(answer, flush=True)
    store.close()


def _revoke(store: AuthStore, jti: str, lifetimes: revocations.Lifetimes) -> None:
    store.change(revocations.revoke_jti, jti, lifetimes, time.time())


if __name__ == "__main__":
    main()
