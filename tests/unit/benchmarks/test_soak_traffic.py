"""The traffic of a soak: known tokens, refused tokens, reviews of what is granted."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers import make_data_dir
from benchmarks.soak_traffic import bodies_file, prepare, write_new_tokens
from benchmarks.tokens import make_tokens_here
from webhook.assembly import authenticator_of, keyring_of, store_of
from webhook.config.load import load_configuration
from webhook.errors import Reason
from webhook.kube.access_review import parse_access_review
from webhook.kube.request_keys import required_access
from webhook.kube.token_review import parse_token_review
from webhook.rbac.access import granting_roles
from webhook.token.outcome import Authenticated


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_data_dir(tmp_path_factory.mktemp("soak"))
    prepare(folder, make_tokens_here(folder, 6, accounts=3))
    return folder


def outcomes(data_dir: Path, file: Path) -> list[Any]:
    configuration = load_configuration(data_dir, {}, {})
    authenticator = authenticator_of(data_dir, configuration, keyring_of(data_dir))
    requests = [parse_token_review(line, "v1") for line in file.read_bytes().splitlines()]
    now = time.time()
    return [authenticator.authenticate(one.token, one.audiences, now) for one in requests]


def test_known_tokens_are_accepted(data_dir: Path) -> None:
    found = outcomes(data_dir, bodies_file(data_dir, "known tokens"))
    assert [type(outcome) for outcome in found] == [Authenticated] * 6
    assert len({outcome.claims.subject for outcome in found}) == 3


def test_refused_tokens_are_refused_for_three_reasons(data_dir: Path) -> None:
    found = outcomes(data_dir, bodies_file(data_dir, "refused"))
    reasons = [outcome.error.reason for outcome in found]
    assert reasons == [Reason.EXPIRED, Reason.AUDIENCE_MISMATCH, Reason.BAD_SIGNATURE] * 2


def test_new_tokens_are_new_each_time(data_dir: Path) -> None:
    files = [write_new_tokens(data_dir, 4, number) for number in range(2)]
    found = [outcome for file in files for outcome in outcomes(data_dir, file)]
    assert len({outcome.claims.jti for outcome in found}) == 8


def test_requested_access_is_granted(data_dir: Path) -> None:
    lines = bodies_file(data_dir, "access reviews").read_bytes().splitlines()
    assert len(set(lines)) == len(lines)
    with closing(store_of(data_dir, load_configuration(data_dir, {}, {}))) as store:
        for line in lines:
            asked = parse_access_review(line, "SubjectAccessReview")
            question = required_access(asked.request)
            roles = granting_roles(
                store.state, asked.user, asked.groups, question.kinds, *question.spans
            )
            assert roles == ("soak",)
