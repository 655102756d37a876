"""Every regular expression of the project takes time in proportion to its input: bad input 57."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.linear_time import MAX_GROWTH, growth

pytestmark = pytest.mark.fault(43)
ROOT = Path(__file__).resolve().parents[2]
SIZE = 32 * 1024
# What repeats in the input of each regular expression of the project, with what stands before and
# after it, and how the expression is used. One that is not listed fails the test after these.
PATTERNS: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "keys.messages._LONG_RUN": ("findall", [("", "a", ""), ("", "a ", "")]),
    "keys.messages._PASSWORD": ("search", [("", ":", ""), ("", ":a", ""), (":", "a", "")]),
    "keys.messages._RUN": ("findall", [("", "a", ""), ("", "a ", "")]),
    "keys.messages._TOKEN": (
        "search",
        [("", "eyJ", ""), ("", "bearer ", ""), ("bearer", " ", ""), ("", "a1", ""), ("", "a.", "")],
    ),
    "keys.messages._USER": ("search", [("", "//", ""), ("", "//a", "")]),
    "keys.crl._BLOCK": ("findall", [("", "-----BEGIN X509 CRL-----", "")]),
    "keys.folder_changes._UNFINISHED": ("fullmatch", [(".", ".1", "x"), (".a.", "1", "")]),
    "keys.pem._BLOCK": ("findall", [("", "-----BEGIN A-----\n", ""), ("-----BEGIN ", "A", "")]),
    "keys.pki._HOST_NAME": ("fullmatch", [("", "a.", "!"), ("", "a", "!"), ("*.", "-", "")]),
    "keys.messages._BAD_CHOICE": ("fullmatch", [("Invalid enum value ", "a", "\n")]),
    "keys.messages._MALFORMED": ("match", [("JSON is malformed: ", " (byte ", "")]),
    "keys.messages._MISSING": ("match", [("Object missing required field `", "a", "")]),
    "keys.messages._OUT_OF_RANGE": (
        "match",
        [("Expected `", "a", ""), ("Expected `a` <", " ", "")],
    ),
    "keys.messages._PATH": ("search", [("", " - at `$", ""), (" - at `$", "a", "")]),
    "keys.messages._SSL": (
        "findall",
        [("[", "A", ""), ("", "(_ssl.c:1)", "a"), ("", " (_ssl.c:", "")],
    ),
    "keys.messages._UNKNOWN": ("match", [("Object contains unknown field `", "a", "")]),
    "keys.messages._WRONG_TYPE": (
        "match",
        [("Expected `", "a", ""), ("Expected `a`, got `", "a", "")],
    ),
    "webhook.token.claims._DNS_LABEL": ("fullmatch", [("", "a", "!"), ("a", "-", "")]),
    "webhook.token.claims._DNS_SUBDOMAIN": ("fullmatch", [("", "a", "!"), ("", "a.", "!")]),
    "webhook.cli.at_time._RELATIVE": ("fullmatch", [("exp-", "1", "\n")]),
    "webhook.cli.keys._DASHED_KID": ("fullmatch", [("-", "a", "!")]),
    "webhook.cli.token_argument._BASE64": ("fullmatch", [("", "a", "!"), ("", "=", "")]),
    "webhook.cli.token_argument._JWT": ("fullmatch", [("eyJ", "a", "!"), ("eyJ", ".", "")]),
    "webhook.cli.token_argument._SCHEME": ("match", [("authorization:", " ", "!")]),
    "webhook.cli.token_argument._YAML_KIND": (
        "search",
        [("", "kind:\n", ""), ("kind:", " ", "")],
    ),
    "webhook.backends.sqlite_position._TEXT": (
        "fullmatch",
        [("sqlite-", "0", ""), ("sqlite-0123456789abcdef-", "0", "")],
    ),
    "webhook.config.section._BIND": (
        "fullmatch",
        [("", "a", ""), ("[", ":", "]"), ("a:", "1", "")],
    ),
    "webhook.config.environment._SERVICE": (
        "match",
        [
            ("LEEWAY_", "SERVICE_PORT_", "-"),
            ("LEEWAY_", "PORT_1_TCP_", ""),
            ("LEEWAY_PORT_", "1", ""),
        ],
    ),
    "webhook.config.environment._SERVICE_URL": ("fullmatch", [("tcp://", "a", " ")]),
    "webhook.config.model._HTTPS_URL": (
        "fullmatch",
        [("https://", "a", " "), ("https://a", "/", " ")],
    ),
    "webhook.doctor.etcd_members._VERSION": ("fullmatch", [("1.2.3-", "x", "\n"), ("", "1", "")]),
    "webhook.doctor.manifest._FLAG": ("fullmatch", [("--", "a", "!"), ("--a=", "=", "")]),
    "webhook.doctor.manifest._OPERATOR": ("fullmatch", [("", ";", "a")]),
    "webhook.doctor.manifest._REDIRECTION": (
        "findall",
        [("", "> ", ""), (">", " ", ""), (" ", "1", ""), ("", " 1", "")],
    ),
    "webhook.doctor.manifest._SCRIPT_OPTION": ("fullmatch", [("-", "c", "!")]),
    "webhook.duration._PART": ("match", [("", "1", ""), ("1.", "1", "")]),
    "webhook.telemetry.log_lines._BEARER": ("findall", [("", "bearer ", ""), ("bearer", " ", "")]),
    "webhook.telemetry.log_lines._PEM": (
        "findall",
        [("", "-----BEGIN ", ""), ("-----BEGIN A-----", "-----END ", "")],
    ),
    "webhook.telemetry.log_lines._PLAIN": ("fullmatch", [("", "a", "=")]),
    "webhook.telemetry.log_lines._SURROGATES": ("findall", [("", "a", "")]),
    "webhook.telemetry.log_lines._USER": ("findall", [("", "//", ""), ("", "//a", "")]),
    "webhook.cli.main._QUOTED": ("findall", [("", "'", ""), ("'", "a", "")]),
    "webhook.objects.cluster._AUTHORIZATION": ("fullmatch", [("", "a", ""), ("a ", "a", " ")]),
    "webhook.objects.cluster._HOST": ("fullmatch", [("", "a", "!"), ("::", "0", "!")]),
    "webhook.objects.cluster._PROXY": (
        "fullmatch",
        [("http://", "a", "!"), ("http://", "@", ""), ("http://a:", "1", "")],
    ),
    "webhook.config.yaml_text._QUOTED": (
        "findall",
        [("", "'", ""), ("", '"', ""), ("", "!", ""), ("'", "a", ""), ("", "!a", "")],
    ),
    "webhook.telemetry.log_lines._TOKEN_CHARACTERS": ("findall", [("", "a", ""), ("", "a!", "")]),
    "webhook.rbac.document_reading._HASH": (
        "fullmatch",
        [("$2a$10$", "A", ""), ("", "$2a$10$", "")],
    ),
    "webhook.rbac.document_reading._JWT": (
        "fullmatch",
        [("eyJ", "A", "!"), ("eyJ.", "A", "!"), ("eyJ", ".", "")],
    ),
    "webhook.rbac.model._BCRYPT_HASH": ("match", [("$2a$", "1", "")]),
    "webhook.kube.request_keys._DOTTED_GROUP": ("fullmatch", [("", "a.", ""), ("", "a", "!")]),
    "webhook.server.connection.chunked._SIZE_LINE": (
        "fullmatch",
        [("1", ";a", "!"), ("1;a", "a", " "), ('1;a="', "a", ""), ("1", ";a=a", "=")],
    ),
    "webhook.server.connection.read_head._HUGE_LENGTH": (
        "findall",
        [("", "\r\ncontent-length: ", ""), ("\r\ncontent-length:", " ", ""), ("", "1", "")],
    ),
    "webhook.server.connection.read_head._REQUEST_LINE": (
        "match",
        [("", "A", ""), ("GET ", "/", ""), ("GET ", "/", " HTTP/1.1 ")],
    ),
    "webhook.server.request.caller._AUTHORIZATION": (
        "fullmatch",
        [("", "a", "!"), ("bearer ", "a", " "), ("a", "=", "!")],
    ),
    "webhook.server.request.message._GOOD_ID": ("fullmatch", [("", "a", "!")]),
    "webhook.kube.token_request._FIELD": ("fullmatch", [("", "a", "!")]),
    "webhook.trusted_issuers.documents._MAX_AGE": ("fullmatch", [("max-age=", "1", "")]),
    "webhook.https_url._URL": (
        "fullmatch",
        [("https://", "a.", " "), ("https://a/", "a", " ")],
    ),
    "webhook.etcd.endpoint._URL": (
        "fullmatch",
        [("https://", "a.", " "), ("http://[", ":", " "), ("https://a:", "1", " ")],
    ),
    "keys.file_watch._TIME": ("findall", [("", "1", ""), ("", "1111-", "")]),
    r"[0-9]{1,18}": ("fullmatch", [("", "1", "")]),
    r"[A-Za-z]+": ("findall", [("", "a", ""), ("", "a.", "")]),
    r"[^.\[\]]+": ("findall", [("", "a", ""), ("", "a.", "")]),
    r"(?<=[a-z])(?=[A-Z])": ("findall", [("", "aA", "")]),
    r", got `[^`]*`": ("findall", [("", ", got `", "")]),
    r"`(?!leeway )([^`]*)`": ("findall", [("", "`", ""), ("`", "a", "")]),
    r"-----BEGIN": ("match", [("", "-", "")]),
    r"[a-z0-9]{6}\.[a-z0-9]{16}\Z": ("match", [("", "a", "")]),
    r"k8s-aws-v1\.": ("match", [("", "k8s-", "")]),
    r"\d{1,12}(\.\d+)?": ("fullmatch", [("1.", "1", "x")]),
}


def regular_expressions() -> Iterator[str]:
    """Yield the name of each compiled one, ``module.NAME``, and the text of each other one."""
    for path in sorted([*ROOT.glob("keys/**/*.py"), *ROOT.glob("webhook/**/*.py")]):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text("utf-8")).body:
            assigned = node.targets[0] if isinstance(node, ast.Assign) else None
            assigned = node.target if isinstance(node, ast.AnnAssign) else assigned
            for call in filter(_is_regular_expression, ast.walk(node)):
                assert isinstance(call, ast.Call)
                if isinstance(assigned, ast.Name) and getattr(node, "value", None) is call:
                    yield f"{module}.{assigned.id}"
                else:
                    yield str(ast.literal_eval(call.args[0]))


def _is_regular_expression(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "re"
        and node.func.attr not in ("escape", "purge")
    )


def compiled(name: str) -> re.Pattern[Any]:
    if name.startswith(("keys.", "webhook.")):
        module, _, attribute = name.rpartition(".")
        pattern = getattr(importlib.import_module(module), attribute)
        assert isinstance(pattern, re.Pattern)
        return pattern
    return re.compile(name)


@pytest.mark.bad_input(57)
@pytest.mark.parametrize("name", PATTERNS)
def test_regular_expressions_are_linear(name: str) -> None:
    pattern = compiled(name)
    method, inputs = PATTERNS[name]
    is_bytes = isinstance(pattern.pattern, bytes)
    for start, unit, end in inputs:

        def growth_at(size: int, start: str = start, unit: str = unit, end: str = end) -> float:
            texts = [start + unit * (n // len(unit)) + end for n in (size, 2 * size)]
            data = [text.encode() if is_bytes else text for text in texts]
            call, twice = (lambda text=text: getattr(pattern, method)(text) for text in data)
            return growth(call, twice)

        # One of the two sizes may be where the data no longer fits into a cache of the processor.
        assert any(growth_at(size) <= MAX_GROWTH for size in (SIZE, SIZE // 2)), (start, unit, end)


@pytest.mark.bad_input(57)
def test_no_regular_expression_is_left_out() -> None:
    assert set(regular_expressions()) == set(PATTERNS)
