"""``python store_writer.py DATABASE``: a warm process that forks writers to be killed.

For each line of standard input, the number of the first operation, it forks a child that opens
the database and does one operation after the other. It prints ``pid N``; the child prints
``begin I`` before and ``done I`` after operation I; when the child is dead, ``dead`` is printed.
"""

import os
import sys
from itertools import count
from pathlib import Path

from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.model import Permission, PermissionType
from webhook.rbac.records import Record, TokenRecord, token_record

_KEPT = 6
_STEPS = 12


def operate(store: AuthStore, number: int) -> None:
    """Do operation ``number`` on what those before it have left behind."""
    turn, step = divmod(number, _STEPS)
    user, role, old = f"user{turn}", f"role{turn}", turn - _KEPT
    permission = Permission(b"/%d/" % turn, b"/%d0" % turn, PermissionType(turn % 3))
    if step == 0:
        store.change(changes.add_user, user, b"$2b$10$" + b"x" * 53)
    elif step == 1:
        store.change(changes.add_role, role)
    elif step == 2:
        store.change(changes.grant_role, user, role)
    elif step == 3:
        store.change(changes.grant_permission, role, permission)
    elif step == 4:
        store.change(
            changes.grant_permission, role, Permission(b"large" * 3000, b"", PermissionType.READ)
        )
    elif step == 5:
        store.change(changes.grant_group_role, "group", role)
    elif step == 6:
        store.change(lambda state: [_token(turn, user)])
    elif step == 7:
        store.change(changes.revoke_permission, role, permission.key, permission.range_end)
    elif step == 8:
        store.change(changes.change_password, user, b"$2b$10$" + b"y" * 53)
    elif step == 9:
        store.change(lambda state: [_token(turn, user)])
    elif old < 0:
        store.change(changes.grant_permission, role, permission)
    elif step == 10:
        store.change(changes.delete_role, f"role{old}")
    else:
        store.change(changes.delete_user, f"user{old}")


def _token(turn: int, user: str) -> Record:
    return token_record(b"%032d" % turn, TokenRecord(user, float(turn)))


def _write(path: Path, first: int) -> None:
    store = AuthStore.loaded(SQLiteBackend(path))
    for number in count(first):
        os.write(1, b"begin %d\n" % number)
        operate(store, number)
        os.write(1, b"done %d\n" % number)


def main() -> None:
    path = Path(sys.argv[1])
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                _write(path, int(line))
            finally:
                os._exit(1)
        os.write(1, b"pid %d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(1, b"dead %d\n" % status)


if __name__ == "__main__":
    main()
