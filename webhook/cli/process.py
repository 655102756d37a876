"""The limits of a process that serves."""

import resource


def set_limits() -> None:
    """Write no core files, and use as many file descriptors as the system allows."""
    # A core file would contain every key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Each connection is a file, and one API server can open more than the usual limit of 1,024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
