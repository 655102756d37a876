"""``python import_writer.py``: a warm process that forks imports to be killed.

For each line of standard input, a data directory and a document, it forks a child that runs
``leeway store import --prune``, and prints ``pid N``; when the child is dead, ``dead STATUS``.
"""

import os
import sys

from webhook.cli.main import main as run
from webhook.cli.store import store


def main() -> None:
    assert store.name == "store"
    for line in sys.stdin:
        data_dir, document = line.split()
        pid = os.fork()
        if not pid:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                sys.argv = ["leeway", "store", "import", document, "--prune"]
                sys.argv += ["--prune-revocations", "--data-dir", data_dir]
                run()
            except SystemExit as stop:
                os._exit(int(str(stop.code)))
            finally:
                os._exit(9)
        os.write(1, b"pid %d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(1, b"dead %d\n" % status)


if __name__ == "__main__":
    main()
