"""``python -m tests.chaos.rotator FOLDER TOKEN_SECONDS``: rotates the keys, for each line.

Forks a process that does it, and prints its process id; when it has ended, whether that was by
itself.
"""

import os
import sys
import time
from pathlib import Path

from keys.folder_changes import rotate
from keys.rotation import RotationPolicy

POLICY = RotationPolicy(
    jwks_max_age=3600, token_seconds=int(sys.argv[2]), rotate_every=0, algorithm="ES256"
)

for _ in sys.stdin:
    pid = os.fork()
    if not pid:
        try:
            for _ in range(2):
                rotate(Path(sys.argv[1]), POLICY, int(time.time()), force=True)
            os._exit(0)
        finally:
            os._exit(1)
    os.write(1, b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    os.write(1, b"%d\n" % status)
