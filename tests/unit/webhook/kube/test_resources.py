"""The known resources of Kubernetes, compared with the client generated from its API."""

import re
from functools import cache
from pathlib import Path

import kubernetes
import pytest

from webhook.kube.resources import KNOWN, KnownResource

RELEASE = int(kubernetes.__version__.partition(".")[0])
MADE_FOR = 37

# (group, version, plural) to (kind, namespaced).
Served = dict[tuple[str, str, str], tuple[str, bool]]

_RETURNS = re.compile(r"^    def (read_\w+)\(\n.*?^    \) -> (\w+):$", re.M | re.S)
_PATHS = re.compile(r"^    def _(read_\w+)_serialize\(.*?resource_path='([^']+)'", re.M | re.S)
_ONE_OBJECT = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)(?P<namespace>/namespaces/\{namespace\})?"
    r"/(?P<plural>\w+)/\{name\}"
)


@cache
def served_by_kubernetes() -> Served:
    """Return the resources with their own path in the installed client."""
    found: Served = {}
    for path in sorted((Path(kubernetes.__file__).parent / "client" / "api").glob("*_v*_api.py")):
        text = path.read_text("utf-8")
        classes = dict(_RETURNS.findall(text))
        for method, template in _PATHS.findall(text):
            match = _ONE_OBJECT.fullmatch(template)
            if match is None:
                continue
            kind = re.sub(r"^(Core|Events|Resource)?V\d+(alpha\d+|beta\d+)?", "", classes[method])
            key = (match["group"] or "", match["version"], match["plural"])
            found[key] = (kind, match["namespace"] is not None)
    return found


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: f"{known.plural}.{known.group}")
def test_known_resources_are_those_that_kubernetes_serves(known: KnownResource) -> None:
    served = served_by_kubernetes().get((known.group, known.version, known.plural))
    if served is None and RELEASE < MADE_FOR:
        pytest.skip(f"release {RELEASE} of the kubernetes package does not have it yet")
    assert served == (known.kind, known.namespaced)


@pytest.mark.skipif(RELEASE > MADE_FOR, reason="the kubernetes package may know more resources")
def test_every_stable_resource_is_known() -> None:
    known = {(k.group, k.plural) for k in KNOWN}
    stable = {key for key in served_by_kubernetes() if re.fullmatch(r"v\d+", key[1])}
    assert len(stable) > 50
    assert {(group, plural) for group, _, plural in stable} <= known
    assert all(re.fullmatch(r"v\d+", known.version) for known in KNOWN)


def test_names_are_distinguished() -> None:
    assert len({(k.group, k.plural) for k in KNOWN}) == len(KNOWN)
    # Events are served by two groups, with the same names.
    names = [name for k in KNOWN for name in (k.plural, *k.short_names) if k.plural != "events"]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+", name) for name in names)
