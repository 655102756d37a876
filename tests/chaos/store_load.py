"""TokenReviews, range reviews and changes on the replicas of a store, and the history of it all.

Open loop: a request begins when it is due, whatever became of those before it.
"""

import asyncio
import json
import random
import ssl
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from math import inf
from pathlib import Path

from tests.e2e.harness import REVIEWS
from tests.etcd_replicas import Replica, Replicas
from webhook.rbac import revocations
from webhook.rbac.records import Record
from webhook.rbac.state import AuthState

from .client import Client, FailedError, Reply
from .history import Answer, Change, Fault, Outcome
from .lanes import Call, Lane, encoded
from .run import Helper
from .store_requests import (
    ALWAYS,
    REVIEWERS,
    RangeRequest,
    ReviewRequest,
    decide_of,
    names_of,
)
from .timeline import Timeline
from .tokens import Signer, Token, b64

CHANGES_PER_SECOND = 20
RANGE_REVIEWS = "/apis/leeway.dev/v1/rangeaccessreviews"
_REQUEST_SECONDS = 20.0
_MOST_RUNNING = 400
_REVIEWER_COUNT = 3
_RECENT = 200
_DAY = 24 * 3600


class Gate:
    """One replica as clients see it: connections of each identity."""

    def __init__(self, replica: Replica, contexts: Mapping[str, ssl.SSLContext]) -> None:
        self.replica = replica
        self.clients = {
            user: Client(replica.port, context, _REQUEST_SECONDS)
            for user, context in contexts.items()
        }


class StoreLoad:
    """Everything that is asked of the replicas, and what became of it."""

    def __init__(
        self,
        replicas: Replicas,
        revoker: Helper,
        rng: random.Random,
        offsets: Mapping[str, Timeline[int]],
        folder: Path,
    ) -> None:
        self.changes: list[Change] = []
        self.answers: list[Answer] = []
        self.faults: list[Fault] = []
        self.problems: Counter[str] = Counter()
        self.left_out = 0
        self._replicas, self._revoker, self._rng = replicas, revoker, rng
        self._offsets = offsets
        self._folder = folder
        self._signer = Signer(replicas[0].data_dir)
        self._gates: list[Gate] = []
        self._idle: deque[Lane] = deque()
        self._lanes: deque[tuple[Lane, Token]] = deque(maxlen=60)
        self._made = 0
        self._revocable: deque[Token] = deque(maxlen=_RECENT)
        self._revoked: deque[Token] = deque(maxlen=_RECENT)
        self._positions: deque[str] = deque(maxlen=5)
        self._fixed: list[Token] = []
        self._is_over = False
        self._running: set[asyncio.Task[None]] = set()
        self._revoking = asyncio.Lock()

    async def prepare(self) -> None:
        """Open the ways in, and make the users that every run has."""
        server = self._replicas[0].server
        contexts = {name: server.context(name) for name in (ALWAYS, "root")}
        for number in range(_REVIEWER_COUNT):
            name = f"reviewer-{number}"
            certified = server.client_certificate(name, datetime.now(UTC))
            contexts[name] = server.context_of(certified, self._folder)
        self._gates = [Gate(replica, contexts) for replica in self._replicas]
        self._fixed = [t for t in self._signer.fixed(0) if t.ends > time.time() + _DAY / 2]
        perm = {"permType": "WRITE", "key": b64(b"/leeway/tokenreviews")}
        calls: list[Call] = [("role/add", {"name": REVIEWERS})]
        calls += [("role/grant", {"name": REVIEWERS, "perm": perm})]
        for number in range(_REVIEWER_COUNT):
            user = {"name": f"reviewer-{number}", "options": {"no_password": True}}
            calls.append(("user/add", user))
        for call in calls:
            outcome = await self._call(str(call[1]["name"]), call, self._gates[0])
            assert outcome is Outcome.ACKNOWLEDGED, (call, self.changes[-1])

    async def run(self, reviews: int) -> None:
        """Ask until ``stop``; ``reviews`` is how many a second."""
        reviewers = [self._reviewer(number) for number in range(_REVIEWER_COUNT)]
        await asyncio.gather(
            self._pace(reviews, self._review_any),
            self._pace(CHANGES_PER_SECOND, self._change_any),
            *reviewers,
        )
        while self._running:
            await asyncio.wait(self._running)

    def stop(self) -> None:
        self._is_over = True

    # The pace.

    async def _pace(self, rate: int, begin: Callable[[], Awaitable[None]]) -> None:
        async for _ in self._due(rate):
            if len(self._running) >= _MOST_RUNNING:
                self.left_out += 1
                continue
            task = asyncio.ensure_future(begin())
            self._running.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Future[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.problems[f"the driver failed: {task.exception()!r}"] += 1

    async def _due(self, rate: float) -> AsyncIterator[float]:
        due = time.monotonic()
        while not self._is_over:
            yield due
            due = max(due + 1 / rate, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    # Reading.

    async def _review_any(self) -> None:
        gate, chance = self._rng.choice(self._gates), self._rng.random()
        if chance < 0.15 and self._lanes:
            await self._range_review(gate)
            return
        caller = ALWAYS
        if chance < 0.35:
            caller = f"reviewer-{self._rng.randrange(_REVIEWER_COUNT)}"
        await self.review(gate, self._token(), caller)

    def _token(self) -> Token:
        chance = self._rng.random()
        if chance < 0.1:
            token = self._signer.sign("fresh", f"fresh-{self._rng.randrange(50)}", seconds=_DAY)
            self._revocable.append(token)
            return token
        if chance < 0.3 and self._revoked:
            return self._rng.choice(self._revoked)
        if chance < 0.9 and self._lanes:
            return self._rng.choice(self._lanes)[1]
        return self._rng.choice(self._fixed)

    async def review(self, gate: Gate, token: Token, caller: str) -> None:
        request = ReviewRequest(token, caller, self._offsets[gate.replica.name])
        reply = await self._ask(gate, caller, REVIEWS, token.review(), request)
        if reply is not None:
            try:
                told = request.told(reply.status, reply.body)
            except (ValueError, KeyError, TypeError) as error:
                self.problems[f"{request.what} at {gate.replica.name}: {error}"] += 1
                return
            self._answered(gate, request, reply, told)

    async def _range_review(self, gate: Gate) -> None:
        lane, _ = self._rng.choice(self._lanes)
        keys = [key for _, held in lane.state.roles for key in held]
        minimum = ""
        if self._positions and self._rng.random() < 0.2:
            minimum = self._positions[-1]
        key = self._rng.choice(keys) if keys else b"/nothing"
        request = RangeRequest(lane.user, lane.role_names, key, minimum)
        reply = await self._ask(gate, ALWAYS, RANGE_REVIEWS, request.body(), request)
        if reply is not None:
            try:
                told, position = request.told(reply.status, reply.body)
            except (ValueError, KeyError, TypeError) as error:
                self.problems[f"a range review at {gate.replica.name}: {error}"] += 1
                return
            self._positions.append(position)
            self._answered(gate, request, reply, told, position)

    async def _ask(
        self,
        gate: Gate,
        caller: str,
        path: str,
        body: bytes,
        request: ReviewRequest | RangeRequest,
    ) -> Reply | None:
        replica, number = gate.replica.name, len(self.answers)
        try:
            reply = await gate.clients[caller].post(path, body)
        except FailedError as error:
            now = time.monotonic()
            self.answers.append(
                Answer(number, request, error.sent, now, None, "", replica, failure=error.kind)
            )
            return None
        if reply.status == 503:
            if not reply.retry_after:
                self.problems[f"a 503 without Retry-After at {replica}"] += 1
            self.answers.append(
                Answer(number, request, reply.sent, reply.came, None, "", replica, is_503=True)
            )
            return None
        return reply

    def _answered(
        self,
        gate: Gate,
        request: ReviewRequest | RangeRequest,
        reply: Reply,
        told: tuple[object, ...],
        position: str = "",
    ) -> None:
        minimum = request.minimum if isinstance(request, RangeRequest) else ""
        self.answers.append(
            Answer(
                len(self.answers), request, reply.sent, reply.came, told,
                f"{gate.replica.name}-{reply.connection}", gate.replica.name, position, minimum,
            )
        )  # fmt: skip

    # Changing.

    async def _change_any(self) -> None:
        if self._rng.random() < 0.08 and self._revocable:
            await self._revoke(self._revocable.pop())
            return
        lane = self._idle.popleft() if len(self._idle) > 3 else self._new_lane()
        if self._rng.random() < 0.08 and lane.state.user:
            await self._call(lane.name, self._doomed(lane), self._rng.choice(self._gates))
            self._idle.append(lane)
            return
        call = lane.begin(self._rng)
        outcome = await self._call(lane.name, call, self._rng.choice(self._gates))
        if outcome is Outcome.UNKNOWN:
            return  # Nobody goes on with what nobody knows.
        if outcome is Outcome.ACKNOWLEDGED:
            lane.done()
        else:
            lane.found(lane.state)
        # At once, and often at another replica: it has to know what was just acknowledged.
        self._idle.appendleft(lane)

    def _doomed(self, lane: Lane) -> Call:
        """Return a call that everybody who knows the lane has to refuse."""
        if self._rng.random() < 0.5:
            return ("user/add", {"name": lane.user, "options": {"no_password": True}})
        return ("user/grant", {"user": lane.user, "role": f"{lane.name}-none"})

    def _new_lane(self) -> Lane:
        lane = Lane(self._made)
        self._made += 1
        token = self._signer.sign("of a lane", lane.name, seconds=_DAY)
        self._lanes.append((lane, token))
        return lane

    async def _reviewer(self, number: int) -> None:
        """Give and take the right to review, at one replica or the other."""
        has_role, name = False, f"reviewer-{number}"
        async for _ in self._due(0.7):
            word = "revoke" if has_role else "grant"
            who = "name" if has_role else "user"
            call = (f"user/{word}", {who: name, "role": REVIEWERS})
            outcome = await self._call(name, call, self._rng.choice(self._gates))
            if outcome is Outcome.ACKNOWLEDGED:
                has_role = not has_role
            elif outcome is Outcome.UNKNOWN:
                # Asked again until it is known: made now, nothing to do, or refused as done.
                while outcome in (Outcome.UNKNOWN, Outcome.NOT_WRITTEN) and not self._is_over:
                    await asyncio.sleep(0.5)
                    outcome = await self._call(name, call, self._rng.choice(self._gates))
                has_role = not has_role

    async def _call(self, lane: str, call: Call, gate: Gate) -> Outcome:
        name, body = call
        what = f"{name} {' '.join(sorted(map(str, names_of(call))))} at {gate.replica.name}"
        made = partial(
            Change, len(self.changes), lane, names_of(call), decide_of(call),
            replica=gate.replica.name, what=what,
        )  # fmt: skip
        # Its place is taken before its answer: others are asked meanwhile.
        number = len(self.changes)
        self.changes.append(made(inv=time.monotonic()))
        try:
            reply = await gate.clients["root"].post(f"/v3/auth/{name}", encoded(body))
        except FailedError as error:
            is_unsent = error.kind == "refused"
            outcome = Outcome.NOT_WRITTEN if is_unsent else Outcome.UNKNOWN
            self.changes[number] = made(inv=error.sent, outcome=outcome)
            return outcome
        made = partial(made, inv=reply.sent)
        connection = f"{gate.replica.name}-{reply.connection}"
        told = json.loads(reply.body) if reply.body else {}
        if reply.status == 200:
            self.changes[number] = made(
                resp=reply.came, outcome=Outcome.ACKNOWLEDGED, connection=connection,
                auth_revision=int(told["header"]["revision"]),
            )  # fmt: skip
        elif reply.status == 503:
            outcome = Outcome.NOT_WRITTEN if reply.retry_after else Outcome.UNKNOWN
            resp = reply.came if reply.retry_after else inf
            self.changes[number] = made(resp=resp, outcome=outcome, error=str(told)[:200])
        elif 400 <= reply.status < 500:
            error_text = str(told.get("message", "")).removeprefix("etcdserver: ")
            self.changes[number] = made(
                resp=reply.came, outcome=Outcome.REFUSED, error=error_text, connection=connection
            )
        else:
            self.problems[f"{what}: {reply.status} {reply.body[:200]!r}"] += 1
        return self.changes[number].outcome

    async def _revoke(self, token: Token) -> None:
        lifetimes = revocations.Lifetimes(float(_DAY))
        decide = partial(_revoking, token.jti, lifetimes)
        async with self._revoking:
            made = partial(
                Change, len(self.changes), f"jti {token.jti}", frozenset({token.jti}), decide,
                inv=time.monotonic(), what=f"revoke jti {token.jti}",
            )  # fmt: skip
            number = len(self.changes)
            self.changes.append(made())
            self._revoked.append(token)
            await self._revoker.tell(token.jti)
            said = await self._revoker.hear()
        outcomes = {"done": Outcome.ACKNOWLEDGED, "not": Outcome.NOT_WRITTEN}
        outcome = outcomes.get(said, Outcome.UNKNOWN)
        resp = inf if outcome is Outcome.UNKNOWN else time.monotonic()
        self.changes[number] = made(resp=resp, outcome=outcome)


def _revoking(jti: str, lifetimes: revocations.Lifetimes, state: AuthState) -> list[Record]:
    return revocations.revoke_jti(state, jti, lifetimes, time.time())
