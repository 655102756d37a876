"""deploy/alerts and deploy/grafana: the expressions are valid and name existing metrics."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.deploy_schemas import DEPLOY
from webhook.skew.tracker import IN_STEP_SECONDS
from webhook.telemetry.metrics import Metrics
from webhook.telemetry.signer_metrics import SignerMetrics

RULES = DEPLOY / "alerts" / "leeway-rules.yaml"
RULE_TESTS = DEPLOY / "alerts" / "leeway-rules-test.yaml"
DASHBOARD = DEPLOY / "grafana" / "leeway-dashboard.json"
# The metrics that are promised to users, and their labels.
METRICS: dict[str, set[str]] = {
    "leeway_tokenreviews_total": {"result", "reason"},
    "leeway_tokenreview_duration_seconds_bucket": {"le"},
    "leeway_token_skew_seconds": {"issuer", "claim"},
    "leeway_accepted_by_leeway_total": {"claim"},
    "leeway_permission_checks_total": {"allowed"},
    "leeway_auth_revision": set(),
    "leeway_issuer_keys_failing": {"issuer"},
    "leeway_reload_failing": {"what"},
    "leeway_over_limit_total": {"what"},
    "leeway_store_age_seconds": set(),
    "leeway_store_revision": set(),
    "leeway_store_commits_total": {"result"},
    "leeway_store_reloads_total": {"reason"},
    "leeway_signing_key_age_seconds": set(),
    "leeway_tls_handshakes_failed_total": {"reason"},
    "leeway_tokens_issued_total": set(),
    "serviceaccount_valid_tokens_total": set(),
    "serviceaccount_stale_tokens_total": set(),
    "serviceaccount_legacy_tokens_total": set(),
    "leeway_signer_requests_total": {"method", "result"},
    "leeway_signer_duration_seconds_bucket": {"le"},
}
# Of the scrape, of kube-state-metrics, of kube-apiserver, and of the rules themselves.
OTHERS: dict[str, set[str]] = {
    "up": set(),
    "kube_pod_status_ready": {"condition", "namespace", "pod"},
    "apiserver_externaljwt_fetch_keys_request_total": {"code"},
    "leeway:tokenreviews:rate5m": {"result", "reason"},
}
SCRAPE_LABELS = {"job", "instance"}

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"),
    reason="promtool is not installed; it is in the package prometheus of Debian",
)


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + dashboard_expressions()


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_rules_are_valid_and_fire_when_they_should() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)
    assert "SUCCESS" in promtool("test", "rules", RULE_TESTS)


@needs_promtool
def test_expressions_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    texts = [
        text.replace("$__rate_interval", "5m").replace("$job", "leeway")
        for text in dashboard_expressions()
    ]
    assert not [text for text in texts if "$" in text]
    file = {
        "groups": [
            {
                "name": "dashboard",
                "rules": [{"record": f"a:{n}", "expr": text} for n, text in enumerate(texts)],
            }
        ]
    }
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(file))
    assert f"{len(texts)} rules found" in promtool("check", "rules", path)


def alerts_in_tests() -> Iterator[tuple[str, bool]]:
    """Return each alert in the rule tests, and whether they expect it to fire."""
    for case in yaml.safe_load(RULE_TESTS.read_text())["tests"]:
        for test in case["alert_rule_test"]:
            yield test["alertname"], bool(test.get("exp_alerts"))


def test_each_alert_is_tested_to_fire_and_not_to_fire() -> None:
    names = {rule["alert"] for rule in rules() if "alert" in rule}
    assert set(alerts_in_tests()) == {(name, fires) for name in names for fires in (True, False)}


@pytest.mark.parametrize(
    "rule", [rule for rule in rules() if "alert" in rule], ids=lambda r: r["alert"]
)
def test_each_alert_has_a_severity_and_a_description(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "description"}
    assert all(text.endswith(".") for text in rule["annotations"].values())
    assert rule["for"]


def test_the_page_on_clock_skew_shows_a_rule_as_it_is() -> None:
    page = (DEPLOY.parent / "docs" / "clock-skew.md").read_text()
    shown = [yaml.safe_load(text) for text in re.findall(r"(?ms)^```yaml\n(- .*?)^```$", page)]
    assert [rule["alert"] for (rule,) in shown] == ["LeewayClockSkew"]
    assert all(rule in rules() for (rule,) in shown)


def test_no_alert_depends_on_old_tokens() -> None:
    # In step is within so much, and what is not certain is a number below it.
    of_clocks = [rule["expr"] for rule in rules() if "token_skew" in rule["expr"]]
    assert len(of_clocks) == 2
    for expression in of_clocks:
        assert f") > {IN_STEP_SECONDS:g}" in expression
        assert "abs" not in expression


@pytest.mark.parametrize("expression", expressions())
def test_expressions_name_existing_metrics_and_labels(expression: str) -> None:
    known = METRICS | OTHERS
    quoted = re.sub(r'"[^"]*"', '""', expression)
    found = re.findall(
        r"[a-z_:][a-z0-9_:]*(?=\{)|(?:leeway|serviceaccount|kube|apiserver)[a-z0-9_:]+", quoted
    )
    assert found
    assert set(found) <= set(known)
    labels = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", quoted))
    for group in re.findall(r"(?:by|ignoring|group_left)\s*\(([^)]*)\)", quoted):
        labels |= {label.strip() for label in group.split(",")}
    allowed = set.union(SCRAPE_LABELS, *(known[name] for name in found))
    assert labels <= allowed


def test_the_server_has_those_metrics_with_those_labels() -> None:
    signer = SignerMetrics({"Sign": ["Malformed"]})
    families = [*Metrics().registry.collect(), *signer.registry.collect()]
    for family in families:
        for sample in family.samples:
            if sample.name in METRICS:
                assert set(sample.labels) == METRICS[sample.name], sample.name
    registered = {family.name for family in families}
    promised = {re.sub("_(total|bucket)$", "", name) for name in METRICS}
    assert {name for name in registered if name.startswith("leeway")} <= promised


def test_every_promised_metric_is_on_the_dashboard() -> None:
    text = " ".join(dashboard_expressions())
    assert {name for name in METRICS if name in text} == set(METRICS)


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["description"]
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource", "job"}
