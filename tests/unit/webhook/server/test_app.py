"""What a worker serves while its files change, seen from a request that takes a while."""

import re
import time
from pathlib import Path

import pytest

from keys.key_changes import rotate
from webhook.assembly import keyring_of, policy_of, rotation_policy_of
from webhook.config_file import load_configuration
from webhook.data_dir import InitOptions, initialise
from webhook.issuer import TokenRequest, issue_token
from webhook.outcome import Authenticated
from webhook.server.app import LiveApplication, create_app


@pytest.fixture
def app(tmp_path: Path) -> LiveApplication:
    initialise(tmp_path, InitOptions(algorithm="ES256"), time.time())
    return create_app(tmp_path, lambda: load_configuration(tmp_path, {}, {}))


def set_leeway(data_dir: Path, seconds: int) -> None:
    path = data_dir / "leeway.yaml"
    kept = re.sub(r"(?m)^leeway: .*\n", "", path.read_text())
    path.write_text(f"{kept}leeway: {{notBefore: {seconds}s}}\n")


def test_bad_input_55_a_request_of_before_a_reload_gets_the_keys_of_after_it(
    app: LiveApplication, tmp_path: Path
) -> None:
    began_with = [app._parts.authenticator]
    for seconds in (70, 80):
        set_leeway(tmp_path, seconds)
        app.reload()
        began_with.append(app._parts.authenticator)
    assert len(set(began_with)) == 3
    configuration, now = load_configuration(tmp_path, {}, {}), int(time.time())
    for _ in range(2):
        rotate(tmp_path / "keys", rotation_policy_of(configuration), now, force=True)
    request = TokenRequest("argo-run", "loofah")
    token = issue_token(request, policy_of(configuration), keyring_of(tmp_path), now).token
    app._keys.catch_up()
    for authenticator in began_with:
        assert isinstance(authenticator.authenticate(token, (), now), Authenticated)
    app.store.close()
