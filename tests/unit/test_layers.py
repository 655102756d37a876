"""Imports point down, never up and never in a circle: ARCHITECTURE.md's table, held to the code."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LEVELS: dict[int, tuple[str, ...]] = {
    0: (
        "keys.errors",
        "keys.showing",
        "keys.words",
        "webhook.errors",
        "webhook.go_text",
        "webhook.duration",
        "webhook.version",
        "webhook.config.yaml_text",
        "webhook.rbac.errors",
    ),
    1: (
        "keys.encoding",
        "keys.roca",
        "keys.jwk",
        "webhook.doctor.findings",
        "webhook.token.fact_cache",
        "webhook.https_url",
        "webhook.kube.resources",
        "webhook.telemetry.log_lines",
        "webhook.server.reload.memory_rule",
        "webhook.kube.protobuf",
        "webhook.rbac.ranges",
        "webhook.rbac.model",
    ),
    2: (
        "keys.crl",
        "keys.jws",
        "keys.keyring",
        "keys.pem",
        "keys.pki",
        "keys.rotation",
        "keys.schedule",
        "webhook.kube.bodies",
        "webhook.token.bound_objects",
        "webhook.token.claims",
        "webhook.token.claims_json",
        "webhook.token.outcome",
        "webhook.kube.token_review",
        "webhook.token.discovery",
        "webhook.etcd.auth_json",
        "webhook.kube.request_keys",
        "webhook.kube.access_review",
        "webhook.trusted_issuers.documents",
        "webhook.trusted_issuers.schedule",
        "webhook.skew.tracker",
        "webhook.rbac.permissions",
        "webhook.rbac.records",
        "webhook.rbac.state",
        "webhook.rbac.changes",
        "webhook.rbac.replaced",
        "webhook.rbac.revoking",
    ),
    3: (
        "webhook.token.authenticator",
        "webhook.token.issuer",
        "webhook.doctor.api_server_flags",
        "webhook.doctor.certificates",
        "webhook.doctor.clock",
        "webhook.doctor.kubeconfigs",
        "webhook.doctor.manifest",
        "webhook.doctor.signing_keys",
        "webhook.token.explain",
        "webhook.rbac.role_groups",
        "webhook.kube.range_review",
        "webhook.kube.request_access",
        "webhook.kube.rules_review",
        "webhook.skew.report",
        "webhook.skew.verdict",
        "webhook.kube.token_binding",
        "webhook.kube.token_request",
        "webhook.rbac.auth_store",
        "webhook.rbac.access",
        "webhook.rbac.passwords",
        "webhook.rbac.revocations",
        "webhook.rbac.token_uses",
        "webhook.rbac.auth_tokens",
    ),
    4: (
        "keys.files",
        "keys.key_changes",
        "keys.key_files",
        "keys.watch",
        "webhook.backends",
        "webhook.config.model",
        "webhook.setup.certificates",
        "webhook.config.limits",
        "webhook.config.environment",
        "webhook.config.load",
        "webhook.setup.init",
        "webhook.config.effective",
        "webhook.telemetry.audit",
        "webhook.setup.init_differences",
        "webhook.setup.kubeconfig",
        "webhook.telemetry.logs",
        "webhook.telemetry.metrics",
        "webhook.telemetry.batched_metrics",
        "webhook.objects",
        "webhook.outbound",
        "webhook.trusted_issuers",
        "webhook.file_watch",
        "webhook.skew.snapshots",
    ),
    5: (
        "webhook.assembly",
        "webhook.doctor",
        "webhook.health_probe",
        "webhook.server",
        "webhook.cli",
        "webhook.__main__",
    ),
}
PURE_UP_TO = 3
CLOCKS_AND_IO = {"time", "os", "socket", "pathlib", "subprocess", "sqlite3", "random", "asyncio"}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("keys", "webhook"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def level(name: str) -> int | None:
    for number, prefixes in LEVELS.items():
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes):
            return number
    return None


def imports(name: str) -> set[str]:
    tree = ast.parse(MODULES[name].read_text("utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            nested = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in MODULES else node.module for full in nested}
            found |= {full for full in nested if full in MODULES}
    return found


NAMED = [name for name in MODULES if name not in ("keys", "webhook", "webhook.rbac")]


@pytest.mark.parametrize("name", NAMED)
def test_every_module_has_a_level_and_imports_nothing_above_it(name: str) -> None:
    own = level(name)
    assert own is not None, f"{name} has no level: add it to the table"
    above = {other for other in imports(name) if (level(other) or 0) > own}
    assert not above


@pytest.mark.parametrize("name", [name for name in NAMED if name.startswith("keys.")])
def test_keys_never_imports_webhook(name: str) -> None:
    assert not {other for other in imports(name) if other.startswith("webhook")}


def test_no_circles() -> None:
    graph = {name: {other for other in imports(name) if other in NAMED} for name in NAMED}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", [name for name in NAMED if (level(name) or 0) <= PURE_UP_TO])
def test_the_core_reads_no_clock_and_no_file(name: str) -> None:
    # The commit of a build is in its environment.
    allowed = {"os"} if name == "webhook.version" else set()
    used = {other.partition(".")[0] for other in imports(name)}
    assert not (used & CLOCKS_AND_IO) - allowed


def test_the_table_names_no_module_that_is_gone() -> None:
    prefixes = [prefix for group in LEVELS.values() for prefix in group]
    assert not [p for p in prefixes if p not in MODULES]
