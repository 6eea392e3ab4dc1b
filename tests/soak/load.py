"""The actions of a soak's clients, chosen at random from a seed."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

import anyio
import httpx

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import FAULTS

#: Those that cost the parser a mebibyte come seldom, so that the others get their share.
HEAVY = ("interim-flood", "huge-header", "endless-head", "huge-extension", "endless-trailers")

#: A response that nobody asked for, and that comes when the next request has been sent, is its answer for all that a
#: client of HTTP/1.1 can tell.
UNDETECTABLE = ("second-later",)

#: Half of the requests go well.
PATHS = [
    *["fine"] * 3 * len(FAULTS),
    *[name for name in FAULTS if name not in HEAVY + UNDETECTABLE for _ in range(3)],
    *HEAVY,
]


class WrongAnswerError(Exception):
    """A request got what was not meant for it."""


@dataclass
class Tally:
    """What was made, and what came of it."""

    numbers: itertools.count[int] = field(default_factory=itertools.count)
    made: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Plan:
    """One request, and how it ends."""

    method: str
    url: str
    body: bytes | None
    timeout: httpx.Timeout
    cancel_after: float
    read: bool


class Load:
    """The requests of one worker. The same seed gives the same requests; when they meet is up to the system.

    Args:
        agent: The agent that serves them.
        urls: The servers.
        seed: Of this worker.
        tally: Where they are counted.
    """

    def __init__(self, agent: Agent, urls: list[str], seed: int, tally: Tally) -> None:
        self._agent = agent
        self._urls = urls
        self._random = random.Random(seed)
        self._tally = tally

    def _next(self) -> Plan:
        draw = self._random
        path = draw.choice(PATHS)
        body = draw.choice([None, b"", b"x" * 100, b"x" * 300_000])
        return Plan(
            method="GET" if body is None else draw.choice(["POST", "PUT"]),
            url=f"{draw.choice(self._urls)}/{path}?{next(self._tally.numbers)}",
            body=body,
            timeout=httpx.Timeout(draw.choice([0.005, 0.02, 0.1]), connect=1.0, pool=draw.choice([0.001, 0.05, 5.0])),
            cancel_after=draw.choice([0.0, 0.0005, 0.002, 0.01, 0.05, 5.0, 5.0, 5.0, 5.0]),
            read=draw.random() < 0.85,
        )

    def _check(self, response: httpx.Response, plan: Plan) -> None:
        target = response.headers.get("X-Target")
        expected = plan.url[plan.url.index("/", 8) :] if "/fine?" in plan.url else None
        if response.status_code not in (200, 413) or target != expected or "set-cookie" in response.headers:
            raise WrongAnswerError(f"{plan} got {response.status_code} {dict(response.headers)}")
        self._tally.outcomes[str(response.status_code)] += 1

    def in_a_thread(self, count: int) -> None:
        """So many requests, one after the other."""
        with httpx.Client(transport=AgentTransport(agent=self._agent), trust_env=False) as client:
            for _ in range(count):
                plan = self._next()
                self._tally.made += 1  # not exact: threads may lose one another's
                try:
                    with client.stream(plan.method, plan.url, content=plan.body, timeout=plan.timeout) as response:
                        if plan.read:
                            response.read()
                        self._check(response, plan)
                except httpx.TransportError as error:
                    self._tally.outcomes[type(error).__name__] += 1

    async def in_a_loop(self, count: int, tasks: int) -> None:
        """So many requests in each of so many tasks; some are cancelled."""
        async with httpx.AsyncClient(transport=AgentTransport(agent=self._agent), trust_env=False) as client:
            async with anyio.create_task_group() as group:
                for _ in range(tasks):
                    group.start_soon(self._in_a_task, client, count)

    async def _in_a_task(self, client: httpx.AsyncClient, count: int) -> None:
        for _ in range(count):
            plan = self._next()
            self._tally.made += 1
            with anyio.move_on_after(plan.cancel_after) as scope:
                try:
                    async with client.stream(
                        plan.method, plan.url, content=plan.body, timeout=plan.timeout
                    ) as response:
                        if plan.read:
                            await response.aread()
                        self._check(response, plan)
                except httpx.TransportError as error:
                    self._tally.outcomes[type(error).__name__] += 1
            if scope.cancelled_caught:
                self._tally.outcomes["cancelled"] += 1
