"""The argument TOKEN, and advice for what people paste instead of a token.

``Bearer`` and quotes around a token are removed here, where a person has typed it; over HTTP they
are not. Anything recognised as something else is refused with advice, and never shown.
"""

import base64
import binascii
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from keys.files import read_public_file
from webhook.cli.output import printable

_SPACE: Final = " \t\n\r\v\f"
_QUOTES: Final = "\"'`"
_SCHEME: Final = re.compile(r"(?:authorization:[ \t]*)?bearer[ \t]+", re.I)
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_YAML_KIND: Final = re.compile(r"^kind:[ \t]*[\"']?([A-Za-z]+)", re.M)
_MAX_FILE_NAME: Final = 255
# The jq path of the token in an object of each kind.
_OBJECTS: Final = {
    "TokenReview": (".spec.token", "a TokenReview"),
    "TokenRequest": (".status.token", "a TokenRequest"),
    "ExecCredential": (".status.token", "an ExecCredential of a credential plugin"),
    "Secret": (".data.token | @base64d", "a Secret"),
}
_OTHERS: Final = (
    (
        re.compile("-----BEGIN"),
        "this is a certificate or a key, not a token; give only the token",
    ),
    (
        re.compile(r"k8s-aws-v1\."),
        "this is a token of EKS for its own API server, not a service account token",
    ),
    (
        re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}\Z"),
        "this is a bootstrap token of kubeadm, not a service account token",
    ),
)
_KUBECONFIG: Final = (
    "this is a kubeconfig, not a token; run `kubectl config view --raw --minify --output "
    "jsonpath={.users[0].user.token} | leeway token review -`"
)


def read_token(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Return the token that an argument gives. Raises ClickException and KeyFileError."""
    is_typed = False
    if value == "-":
        if sys.stdin.isatty():
            click.echo("Paste the token, then press Enter and ctrl-D.", err=True)
        value = sys.stdin.read()
    elif value.startswith("@"):
        value = read_public_file(Path(value[1:])).decode("utf-8", "replace")
    else:
        is_typed = True
    token = without_wrapping(value)
    if not token:
        raise click.UsageError("the token is empty; give it as an argument, as @FILE, or on stdin")
    advice = what_it_is(token) or (_file_advice(token) if is_typed else "")
    if advice:
        raise click.ClickException(advice)
    return token


token_argument = click.argument("token", default="-", callback=read_token)


def without_wrapping(text: str) -> str:
    """Return a token without white space, quotes and an Authorization scheme around it.

    >>> without_wrapping('"Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2ln" ')
    'eyJhbGciOiJFUzI1NiJ9.e30.c2ln'
    """
    text = text.strip(_SPACE)
    for _ in range(2):  # 'Authorization: Bearer "eyJ…"' has quotes within quotes
        if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES:
            text = text[1:-1].strip(_SPACE)
        scheme = _SCHEME.match(text)
        if scheme:
            text = text[scheme.end() :].strip(_SPACE)
    return text


def is_jwt(text: str) -> bool:
    """Return whether a text has the form of a signed JWT."""
    return _JWT.fullmatch(text) is not None


def what_it_is(text: str) -> str:
    """Return what was pasted instead of a token and what to do, or "" if it is not recognised."""
    if is_jwt(text):
        return ""
    kind = _kind(text)
    if kind is not None:
        return _object_advice(kind)
    joined = "".join(text.split())
    if joined != text and is_jwt(without_wrapping(joined)):
        return (
            "this token contains line breaks or spaces, as a terminal or an email adds them; "
            "remove them with `tr -d '[:space:]' < FILE | leeway token review -`"
        )
    if _is_base64_of_token(joined):
        return (
            "this is the base64 of a token, as in the data of a Secret; decode it with "
            "`base64 -d FILE | leeway token review -`"
        )
    others = (advice for pattern, advice in _OTHERS if pattern.match(text))
    return next(others, "")


def _object_advice(kind: str) -> str:
    if kind == "Config":
        return _KUBECONFIG
    if kind in _OBJECTS:
        path, name = _OBJECTS[kind]
        return f"this is {name}, not a token; run `jq -r '{path}' FILE | leeway token review -`"
    named = f"an object of kind {printable(kind[:64])}" if kind else "JSON"
    return f"this is {named}, not a token; give only the token"


def _kind(text: str) -> str | None:
    """Return the kind of a Kubernetes object, "" for other JSON, None for other text."""
    if text.startswith(("{", "[")):
        try:
            found: Any = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None
        kind = found.get("kind") if isinstance(found, dict) else None
        return kind if isinstance(kind, str) else ""
    match = _YAML_KIND.search(text)
    return match[1] if match else None


def _is_base64_of_token(text: str) -> bool:
    if not _BASE64.fullmatch(text):
        return False
    padded = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        decoded = base64.b64decode(padded + "=" * (-len(padded) % 4)).decode("ascii")
    except (binascii.Error, UnicodeError):
        return False
    return is_jwt(decoded.strip(_SPACE))


def _file_advice(text: str) -> str:
    if len(text) > _MAX_FILE_NAME or not text.isprintable() or is_jwt(text):
        return ""
    with suppress(OSError):  # such as a name that is too long
        if Path(text).is_file():
            return f"{text} is a file; write @{text} for the token in it"
    if text.startswith(("/", "./", "../", "~/")):
        return "this looks like the name of a file that does not exist; give a token, or @FILE"
    return ""
