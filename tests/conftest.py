import gc
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.bad_input_table import COLLECTED, ROWS, by_row
from tests.etcd_cluster import EtcdCluster, memory_folder
from tests.faults import FAULTS
from tests.secrets_made import SecretSearch

# The tests start hundreds of processes, and each would compile what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
gc.disable()
TESTS = Path(__file__).resolve().parent
DEFAULT_VECTORS = TESTS.parent / ".." / "shared" / "vectors"
# Each file is a group of tests that one process runs, and those that take longest start first.
LONGEST_FIRST = (
    "chaos/test_chaos.py",
    "chaos/test_store_etcd.py",
    "docs/test_documented_commands.py",
    "e2e/test_reload.py",
    "differential/test_random.py",
    "integration/test_values_shown.py",
    "e2e/test_signer.py",
    "e2e/test_trusted_issuers.py",
    "e2e/test_objects.py",
    "e2e/test_skew.py",
    "e2e/test_auth_changes.py",
    "integration/test_kubernetes_objects.py",
    "e2e/test_doctor.py",
    "unit/webhook/server/test_worker_memory.py",
    "e2e/test_revoked_connections.py",
    "unit/test_packaging.py",
    "fuzz/test_fuzz.py",
    "deploy/test_kind.py",
    "e2e/test_limits.py",
    "e2e/test_logs.py",
    "e2e/test_resumption.py",
    "e2e/test_interrupted_start.py",
)
LONGEST_ID = 60
# The numbers that each of these markers may have.
TABLES = {"bad_input": ROWS, "fault": FAULTS}


# The time of one example depends on the load of the machine.
settings.register_profile("leeway", deadline=None)
settings.load_profile("leeway")


def pytest_configure(config: pytest.Config) -> None:
    """Search everything a run leaves for the secrets it made; report that as the last result."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in a background job: processes that the tests start and interrupt would ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(SecretSearch(config), "secret-search")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """End ``make faults`` with the faults that have no test, and likewise ``-m bad_input``."""
    name, session = config.option.markexpr, terminalreporter._session
    if name not in TABLES or session is None:
        return
    numbers = {number for item in session.items for number in numbers_of(item, name)}
    missing = ", ".join(str(n) for n in TABLES[name] if n not in numbers) or "none"
    terminalreporter.write_line(
        f"{name}: {len(numbers)} of {len(TABLES[name])} have a test; without: {missing}"
    )


def numbers_of(item: pytest.Item, name: str) -> set[int]:
    """Return the numbers that a test is marked with, as by ``@pytest.mark.fault(3)``."""
    return {number for mark in item.iter_markers(name) for number in mark.args}


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Use the argument's name as the id of a long value, which may differ in each process."""
    return argname if isinstance(val, bytes | str) and len(val) > LONGEST_ID else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Divide the tests into the groups that `make test` runs beside each other, long ones first.

    ``-k bad_input_07`` selects the tests of a row, ``-k fault_03`` those of a fault.
    """
    config.stash[COLLECTED] = by_row(items)
    ranks = {TESTS / name: rank for rank, name in enumerate(LONGEST_FIRST)}
    assert not (moved := [path for path in ranks if not path.exists()]), moved
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
    for item in items:
        for name in TABLES:
            keywords = (f"{name}_{number:02}" for number in numbers_of(item, name))
            item.extra_keyword_matches.update(keywords)
        item.add_marker(pytest.mark.xdist_group(str(item.path)))


def pytest_collection_finish() -> None:
    """Leave the thousands of tests that were collected out of each collection of garbage."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Restore the loggers after a test that sets up a server's log in this process."""
    loggers = [logging.getLogger(name) for name in ("", "leeway", "py.warnings")]
    before = [(log.level, log.propagate, log.disabled, log.handlers[:]) for log in loggers]
    yield
    for log, (level, propagate, disabled, handlers) in zip(loggers, before, strict=True):
        log.setLevel(level)
        log.propagate, log.disabled, log.handlers = propagate, disabled, handlers


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Return the folder of frozen test vectors."""
    folder = Path(os.environ.get("TEST_VECTORS") or DEFAULT_VECTORS)
    if not folder.is_dir():
        pytest.skip(f"no test vectors in {folder}; set TEST_VECTORS")
    return folder.resolve()


@pytest.fixture(scope="session")
def etcd() -> Iterator[EtcdCluster]:
    """Run an etcd of three members for all tests that leave it as it was; see ``etcd_prefix``."""
    with memory_folder() as folder, EtcdCluster(folder) as cluster:
        yield cluster


@pytest.fixture
def etcd_prefix(etcd: EtcdCluster) -> str:
    """Return a prefix of that etcd that nobody else uses."""
    return f"/leeway-{uuid.uuid4().hex[:12]}"
