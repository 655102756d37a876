"""Handles the signals that end a process while it starts, so that none is lost.

A worker begins as a copy of its master, with the master's handlers, which only queue a signal.
Python drops queued signals when it forks. So these signals are blocked over each fork, and a
worker lets them through once it has handlers of its own.
"""

import os
import shutil
import signal
from types import FrameType
from typing import Final

STOP_SIGNALS: Final = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})
_HELD: Final = STOP_SIGNALS | {signal.SIGHUP}


def hold_over_forks() -> None:
    """Block the signals before each fork of this process, and in the child until ``release``."""
    os.register_at_fork(before=hold, after_in_parent=release)


def hold() -> None:
    """Block the signals until ``release``; those that come meanwhile wait."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def release() -> None:
    """Let the signals through, those that have waited too."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)


def exit_on_signal(scratch_folder: str | None = None) -> None:
    """End this process with status 0 at a signal, and remove its scratch folder.

    For a process that serves nobody yet. SIGHUP is ignored: what it asks to load is being loaded.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        if scratch_folder is not None:
            shutil.rmtree(scratch_folder, ignore_errors=True)
        # An exception would be lost where the signal comes during a destructor or a callback.
        os._exit(0)

    for number in STOP_SIGNALS:
        signal.signal(number, leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    release()
