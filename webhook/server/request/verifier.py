"""Authenticates tokens on the event loop; looks up objects and requests newer keys beside it."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Final, Protocol

from webhook.errors import UnknownKeyError
from webhook.server.request.message import Later, Request, basis_of
from webhook.token.authenticator import Authenticator
from webhook.token.bound_objects import (
    NO_LOOKUPS,
    Absence,
    Lookup,
    LookupNeeded,
    ObjectKey,
    ObjectSource,
)
from webhook.token.outcome import Outcome, Refused

LOOKUP_SECONDS: Final = 2.0
"""What all look-ups for one token may take together."""
KEYS_SECONDS: Final = 2.0
"""How long one token waits for newer keys of its issuer."""


class KeyRefresher(Protocol):
    """Fetches newer keys of an issuer."""

    def request_refresh(self, issuer: str) -> Future[None] | None:
        """Return a future that is done when newer keys are in use or not available, or None."""


class TokenVerifier:
    """An authenticator with its clock, its source of objects, and a source of newer keys.

    ``look_ups`` runs the look-ups of objects and outlives this; None is the event loop's own
    executor.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        clock: Callable[[], float],
        objects: ObjectSource | None = None,
        issuer_keys: KeyRefresher | None = None,
        look_ups: Executor | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._clock = clock
        self._objects = objects
        self._issuer_keys = issuer_keys
        self._look_ups = look_ups
        # Running look-ups: many tokens of one Pod wait for one answer. A token with another
        # UID does not: the answer may be from before its Pod was made.
        self._pending: dict[tuple[ObjectKey, str], asyncio.Future[Lookup]] = {}

    def authenticate(
        self, token: str, audiences: Sequence[str], request: Request
    ) -> Outcome | Later[Outcome]:
        """Return the outcome for a token now, by the revocations of the basis of ``request``.

        A coroutine if an object has to be looked up, or if newer keys may be available.
        """
        basis, found = request.basis, NO_LOOKUPS
        assert basis is not None  # noqa: S101 - the caller was found by it
        if request.looked_up is not None:
            found = request.looked_up.get(token, NO_LOOKUPS)
        state, now = basis.state, self._clock()
        try:
            outcome = self._authenticator.authenticate(token, audiences, now, found, state)
        except LookupNeeded as needed:
            return self._authenticate_with_look_ups(token, audiences, request, needed)
        if isinstance(outcome, Refused) and isinstance(outcome.error, UnknownKeyError):
            return self._authenticate_with_new_keys(token, audiences, request, outcome.error)
        return outcome

    def is_signed_here(self, token: str) -> bool:
        """Return whether a key of this server's own keyring verifies a token."""
        entry = self._authenticator.entry_of(token, self._clock())
        return entry is not None and not entry.is_foreign

    async def wait_for_keys(self, issuer: str) -> bool:
        """Wait until newer keys of an issuer are in use, or the time for that is over.

        Return False if there is nothing to wait for.
        """
        asked = self._issuer_keys.request_refresh(issuer) if self._issuer_keys else None
        if asked is None:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEYS_SECONDS):
                await asyncio.shield(asyncio.wrap_future(asked))
        return True

    async def _authenticate_with_new_keys(
        self, token: str, audiences: Sequence[str], request: Request, unknown: UnknownKeyError
    ) -> Outcome:
        if not await self.wait_for_keys(unknown.issuer):
            return Refused(unknown)
        state, now = basis_of(request).state, self._clock()
        try:
            return self._authenticator.authenticate(token, audiences, now, revocations=state)
        except LookupNeeded as needed:
            return await self._authenticate_with_look_ups(token, audiences, request, needed)

    async def _authenticate_with_look_ups(
        self, token: str, audiences: Sequence[str], request: Request, first: LookupNeeded
    ) -> Outcome:
        deadline = asyncio.get_running_loop().time() + LOOKUP_SECONDS
        if request.looked_up is None:
            request.looked_up = {}
        answers = request.looked_up.setdefault(token, {})
        needed = first
        while True:
            answers[needed.key] = await self._look_up(needed.key, needed.uid, deadline)
            state, now = basis_of(request).state, self._clock()
            try:
                return self._authenticator.authenticate(token, audiences, now, answers, state)
            except LookupNeeded as another:
                needed = another

    async def _look_up(self, key: ObjectKey, uid: str, deadline: float) -> Lookup:
        assert self._objects is not None  # noqa: S101 - nothing else raises LookupNeeded
        loop = asyncio.get_running_loop()
        pending = self._pending.get((key, uid))
        if pending is None:
            pending = loop.run_in_executor(self._look_ups, self._objects.look_up, key, uid)
            self._pending[key, uid] = pending
            pending.add_done_callback(lambda _: self._pending.pop((key, uid), None))
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(pending)
        except TimeoutError:
            return Absence.UNAVAILABLE
