"""The option ``--at``: a date, Unix seconds, or a distance from now or from a claim of a token."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from time import time
from typing import Any, Final

import click

from keys import jws
from keys.encoding import decode_json
from keys.errors import EncodingError, MalformedJWSError
from webhook.duration import parse_duration

_CLAIMS: Final = ("iat", "nbf", "exp", "warnafter")
_LAST_SECOND: Final = 253402300799  # of the year 9999
_RELATIVE: Final = re.compile(rf"({'|'.join(_CLAIMS)})(?:([+-])(.+))?")


@dataclass(frozen=True, slots=True)
class Moment:
    """Seconds after a claim of the token, or after 1970 if ``claim`` is empty."""

    claim: str
    seconds: float

    def of_token(self, token: str) -> float:
        """Return the Unix seconds for a token. Raises click.UsageError if it has no such claim.

        The claim is not verified: it only decides the time at which the token is reviewed.
        """
        found = _unverified_time(token, self.claim) if self.claim else 0.0
        if found is None:
            raise click.UsageError(f"--at counts from {self.claim}, which the token does not have")
        moment = found + self.seconds
        if not 0 <= moment <= _LAST_SECOND:
            raise click.UsageError("--at is not within the years 1970 to 9999")
        return moment


class MomentType(click.ParamType[Moment]):
    """``2026-01-31T12:00:00Z``, ``1769860800``, ``-92s`` (from now) or ``iat-92s``."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> Moment:
        """Return the moment. Fails for anything else."""
        text = str(value)
        try:
            moment = _moment(text)
        except (ValueError, OverflowError):
            self.fail(
                f"{text[:64]!a} is not a time; write 2026-01-31T12:00:00Z, Unix seconds, -92s from "
                f"now, or iat-92s from a claim ({', '.join(_CLAIMS)})",
                param,
                ctx,
            )
        if not moment.claim and not 0 <= moment.seconds <= _LAST_SECOND:
            self.fail(f"{text[:64]!a} is not within the years 1970 to 9999", param, ctx)
        return moment


def _moment(text: str) -> Moment:
    relative = _RELATIVE.fullmatch(text)
    if relative:
        distance = parse_duration(relative[3]) if relative[2] else 0.0
        return Moment(relative[1], -distance if relative[2] == "-" else distance)
    if text[:1] in ("-", "+"):
        distance = parse_duration(text[1:])
        return Moment("", time() + (distance if text[0] == "+" else -distance))
    if re.fullmatch(r"\d{1,12}(\.\d+)?", text, re.ASCII):
        return Moment("", float(text))
    date = datetime.fromisoformat(text)
    return Moment("", (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())


def _unverified_time(token: str, claim: str) -> float | None:
    try:
        claims = decode_json(jws.parse(token).unverified_payload)
    except (MalformedJWSError, EncodingError):
        return None
    if isinstance(claims, dict) and claim == "warnafter":
        claims = claims.get("kubernetes.io")
    found = claims.get(claim) if isinstance(claims, dict) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not isfinite(found):
        return None
    return float(found)
