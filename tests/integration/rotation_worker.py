"""``python rotation_worker.py KEYS SHARED TOKENS``: a warm process that forks workers to be killed.

For each line of standard input, the number of a slot, it forks a worker and prints its process id.
Worker: again and again look at the folder of keys, take the steps that are due, and sign a token.
SHARED is an array of 64-bit numbers: the clock, and for each slot how often its worker has looked.
TOKENS gets a line for each token: the clock when it was signed, the token, and the word "whole",
which a line does not have whose writer was killed.
"""

import mmap
import os
import signal
import sys
from pathlib import Path
from time import sleep

import msgspec

from keys import jws
from keys.folder_watch import KeyFolderWatcher
from keys.rotation import RotationPolicy

DAY = 86400
MAX_AGE = 3600
LEEWAY = 300
POLICY = RotationPolicy(jwks_max_age=MAX_AGE, token_seconds=DAY, rotate_every=10 * DAY)


class Shared:
    """Numbers that processes share."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    def clock(self) -> int:
        return self._numbers[0]

    def set_clock(self, now: int) -> None:
        self._numbers[0] = now

    def looks(self, slot: int) -> int:
        return self._numbers[1 + slot]

    def count_look(self, slot: int) -> None:
        self._numbers[1 + slot] += 1


def _work(keys: Path, shared: Shared, tokens: Path, slot: int) -> None:
    log = os.open(tokens, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    now = shared.clock()

    def clock() -> float:
        return now

    # One moment for each poll, so that its two clocks agree.
    watcher = KeyFolderWatcher(keys, POLICY, clock=clock, steady=clock)
    parent = os.getppid()
    # A process killed during this test leaves no child behind.
    while os.getppid() == parent:
        now = shared.clock()
        watcher.poll()
        assert watcher.problem() == ""
        assert watcher.step_problem() == ""
        dies = shared.clock() + POLICY.token_seconds + LEEWAY
        token = jws.sign(msgspec.json.encode({"exp": dies}), watcher.keyring.signing_key())
        os.write(log, f"\n{shared.clock()} {token} whole\n".encode())
        shared.count_look(slot)
        sleep(0.001)


def main() -> None:
    keys, shared, tokens = (Path(argument) for argument in sys.argv[1:])
    # The system reaps them: their killer does not wait.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                _work(keys, Shared(shared), tokens, int(line))
            except Exception as error:
                print(repr(error), file=sys.stderr, flush=True)
            finally:
                os._exit(1)
        os.write(1, b"%d\n" % pid)


if __name__ == "__main__":
    main()
