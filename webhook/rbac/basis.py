"""What an answer rests on."""

from typing import NamedTuple

from webhook.rbac.state import AuthState


class Basis(NamedTuple):
    """A state, its revision, and since when it may lack something; taken once for each answer.

    Everything that anybody was told is written at or before ``proof`` is in it; that is in the
    seconds of CLOCK_BOOTTIME, infinite where nothing is ever missing.
    """

    state: AuthState
    revision: int
    proof: float
