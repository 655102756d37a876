"""TokenReviews and 20 writes a second, each answer held to the model.

Open loop: a request begins when it is due, whatever became of those before it, and its time counts
from then.
"""

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from tests.e2e.harness import REVIEWS
from webhook.rbac.errors import StoreUnavailableError
from webhook.rbac.state import AuthState

from .client import Client, FailedError, Reply
from .lanes import Lane, encoded, stored
from .machine import Machine
from .store_side import StoreSide
from .timeline import Timeline
from .tokens import NAMESPACE, Signer, Token, verdict_of
from .window import REVIEW, WRITE, Failure, Window

WRITES_PER_SECOND = 20
# A change applies to every worker within so many seconds.
STALE_SECONDS = 1.0
CLERK = {"name": "clerk", "password": "a word that only tests know"}
TEAM_ROLES = frozenset({"alpha", "beta"})
_SETTLE_SECONDS = 30.0
_WRITES_PER_REVOCATION = 20
_RECENT = 300
_PART_FRESH = 0.1
_PART_OF_LANES = 0.4


class Load:
    """Everything that is asked of the server, and the model of what it should know.

    ``stale_since`` is set, to a moment of the steady clock, while nothing can be read from the
    store: what was written from then on need not be known. ``reviews`` is how many a second.
    """

    def __init__(
        self, machine: Machine, window: Window, rng: random.Random, seconds: float, reviews: int
    ) -> None:
        self.machine = machine
        self.window = window
        self.stale_since: float | None = None
        server = machine.server
        self.reviewer = Client(server.port, server.context())
        self.root = Client(server.port, server.context("root"))
        self.signer = Signer(machine.data_dir)
        self.revision = 0
        self.acknowledged = 0
        self._rng = rng
        self._reviews = reviews
        self._fixed = self.signer.fixed(seconds)
        self._revocable: deque[Token] = deque(maxlen=_RECENT)
        self._revoked: list[Token] = []
        self._idle: list[Lane] = []
        self._lanes: list[tuple[Lane, Token]] = []
        self._writing: set[Lane | str] = set()
        self._writes = 0
        self._is_paused = self._is_over = False
        self._running: set[asyncio.Task[None]] = set()
        self._store = StoreSide(machine)

    async def prepare(self) -> None:
        """Make the users that every run has."""
        team = f"system:serviceaccount:{NAMESPACE}:team"
        await self.must("user/add", CLERK)
        await self.must("user/add", {"name": team, "options": {"no_password": True}})
        for role in sorted(TEAM_ROLES):
            await self.must("role/add", {"name": role})
            await self.must("user/grant", {"user": team, "role": role})
        with_roles = self.signer.sign("with roles", "team", seconds=24 * 3600)
        with_roles.roles = Timeline(frozenset({TEAM_ROLES}))
        self._fixed += [with_roles] * 4

    async def must(self, name: str, body: Mapping[str, object]) -> Reply:
        """Make a call of the auth API that has to succeed."""
        reply = await self.root.post(f"/v3/auth/{name}", encoded(body))
        if reply.status != 200:
            raise AssertionError(f"{name}: {reply.status} {reply.body!r}")
        return reply

    async def run(self) -> None:
        """Ask until ``stop``."""
        await asyncio.gather(
            self._pace(self._reviews, self._review_any),
            self._pace(WRITES_PER_SECOND, self._write_any),
        )
        while self._running:
            await asyncio.wait(self._running)
        self._store.close()

    def stop(self) -> None:
        self._is_over = True

    async def review(self, token: Token, due: float | None = None) -> None:
        """Review a token, and hold the answer to the model."""
        window, begin = self.window, time.monotonic()
        window.requests += 1
        try:
            reply = await self.reviewer.post(REVIEWS, token.review())
        except FailedError as error:
            window.failure(Failure(REVIEW, error.kind, error.sent, time.monotonic(), error.port))
            return
        end = time.monotonic()
        if reply.status == 503:
            window.failure(Failure(REVIEW, "503", begin, end, 0))
            return
        window.latencies.append(end - (due or begin))
        problem = self._problem(token, reply, begin, end)
        if problem:
            window.is_wrong(f"a token {token.kind}: {problem}")

    def _problem(self, token: Token, reply: Reply, begin: float, end: float) -> str:
        if reply.status != 201:
            return f"status {reply.status}"
        try:
            found = verdict_of(token, reply.body)
        except (ValueError, KeyError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
        stale = STALE_SECONDS
        if self.stale_since is not None:
            stale += max(0.0, begin - self.stale_since)
        offsets = self.machine.clock.offsets.during(begin, end)
        allowed = token.verdicts(begin, end, offsets, stale)
        if found in allowed:
            return ""
        if found.reason:
            return f"refused as {found.reason}, which is none of {_words(allowed)}"
        return f"accepted with roles {sorted(found.roles)}, which is none of {_words(allowed)}"

    @asynccontextmanager
    async def no_writes(self) -> AsyncIterator[None]:
        """Pause the writes, after those that have begun."""
        self._is_paused = True
        try:
            deadline = time.monotonic() + _SETTLE_SECONDS
            while self._writing and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            yield
        finally:
            self._is_paused = False

    async def settle(self) -> None:
        """Stop writing for a moment, and compare the store, the model and what is served."""
        async with self.no_writes():
            state = await self._store.read()
            self._compare(state)
            self._writes_settled(state)
            await self._compare_served(state)

    def _compare(self, state: AuthState) -> None:
        window = self.window
        if state.meta.revision < self.revision:
            window.is_lost(f"revision {self.revision} went back to {state.meta.revision}")
        self.revision = max(self.revision, state.meta.revision)
        for lane, _ in self._lanes:
            found = stored(lane, state)
            if found not in lane.possible:
                window.is_lost(f"{lane.name} is {found}, and should be {lane.possible}")
            lane.found(found)
        for token in self._revoked:
            assert token.revoked is not None
            is_there = token.jti in state.revoked_jtis
            if not is_there and False not in token.revoked.now:
                window.is_lost(f"the revocation of {token.jti}")
            token.revoked.set(frozenset({is_there}))

    def _writes_settled(self, state: AuthState) -> None:
        self._idle = [lane for lane, _ in self._lanes if lane not in self._writing]
        self._revoked = [t for t in self._revoked if t.jti in state.revoked_jtis]

    async def _compare_served(self, state: AuthState) -> None:
        # All at once, so over connections of their own, which more than one worker has.
        self.root.forget()
        users, roles = sorted(state.users), sorted(state.roles)
        wanted = [("user/list", "users", users), ("role/list", "roles", roles)] * 4
        replies = await asyncio.gather(*(self.must(name, {}) for name, _, _ in wanted))
        for reply, (name, field, names) in zip(replies, wanted, strict=True):
            if sorted(json.loads(reply.body)[field]) != names:
                self.window.is_wrong(f"{name} is not what is in the store")

    async def _pace(self, rate: int, begin: Callable[[float], Awaitable[None]]) -> None:
        async for due in self._due(rate):
            task = asyncio.ensure_future(begin(due))
            self._running.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Future[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.window.is_wrong(f"the driver failed: {task.exception()!r}")

    async def _due(self, rate: int) -> AsyncIterator[float]:
        due = time.monotonic()
        while not self._is_over:
            yield due
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _review_any(self, due: float) -> None:
        chance = self._rng.random()
        if chance < _PART_FRESH:
            await self.review(self._fresh(), due)
        elif chance < _PART_FRESH + _PART_OF_LANES and self._lanes:
            _, token = self._rng.choice(self._lanes)
            await self.review(token, due)
        elif chance > 0.9 and self._revoked:
            await self.review(self._rng.choice(self._revoked[-_RECENT:]), due)
        else:
            await self.review(self._rng.choice(self._fixed), due)

    def _fresh(self) -> Token:
        token = self.signer.sign("made just now", f"fresh-{self._rng.randrange(50)}")
        token.revoked = Timeline(frozenset({False}))
        self._revocable.append(token)
        return token

    async def _write_any(self, _due: float) -> None:
        if self._is_paused:
            return
        self._writes += 1
        if self._writes % _WRITES_PER_REVOCATION == 0 and self._revocable:
            await self._revoke(self._revocable.pop())
            return
        lane = self._idle.pop() if self._idle else self._new_lane()
        await self._write(lane)

    def _new_lane(self) -> Lane:
        lane = Lane(len(self._lanes))
        token = self.signer.sign("of a user being changed", lane.name, seconds=24 * 3600)
        token.roles = lane.groups
        self._lanes.append((lane, token))
        return lane

    async def _write(self, lane: Lane) -> None:
        window, begin, known = self.window, time.monotonic(), self.revision
        window.requests += 1
        name, body = lane.begin(self._rng)
        self._writing.add(lane)
        try:
            reply = await self.root.post(f"/v3/auth/{name}", encoded(body))
        except FailedError as error:
            window.failure(Failure(WRITE, error.kind, error.sent, time.monotonic(), error.port))
            return
        finally:
            self._writing.discard(lane)
        if reply.status == 503:
            window.failure(Failure(WRITE, "503", begin, time.monotonic(), 0))
        elif reply.status != 200:
            window.is_wrong(f"{name} of {lane.name}: {reply.status} {reply.body[:200]!r}")
        else:
            lane.done()
            self._idle.insert(0, lane)
            self.acknowledged += 1
            revision = int(json.loads(reply.body)["header"]["revision"])
            if revision <= known:
                window.is_wrong(f"revision {revision} after {known}")
            self.revision = max(self.revision, revision)

    async def _revoke(self, token: Token) -> None:
        """Revoke a token by its jti, as ``leeway revoke`` does."""
        window = self.window
        assert token.revoked is not None
        window.requests += 1
        token.revoked.set(frozenset({False, True}))
        self._revoked.append(token)
        self._writing.add(token.jti)
        begin = time.monotonic()

        def began() -> None:
            nonlocal begin
            begin = time.monotonic()

        try:
            # Its time is not counted from when it was due: there may be one before it.
            await self._store.revoke(token.jti, began)
        except StoreUnavailableError:
            window.failure(Failure(WRITE, "503", begin, time.monotonic(), 0))
        else:
            token.revoked.set(frozenset({True}))
            self.acknowledged += 1
        finally:
            self._writing.discard(token.jti)


def _words(allowed: object) -> str:
    return str(allowed) if allowed else "nothing"
