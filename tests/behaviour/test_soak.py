"""Random load over real sockets: cancellations, timeouts, server closes and resets; all the while the books balance."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import anyio
import httpx
import pytest
import trio

from httpx_agent import Agent, AgentTransport
from tests.support.servers import Server

PATHS = [
    "echo",
    "echo",
    "echo",
    "bytes/100000",
    "chunked/3",
    "close",
    "disconnect",
    "reset",
    "truncated/reset",
    "close-delimited",
    "silence",
    "keep-alive/1",
    "garbage",
]


def timeouts(rng: random.Random) -> httpx.Timeout:
    return httpx.Timeout(rng.choice([0.005, 0.02, 1.0]), pool=rng.choice([0.001, 0.02, 5.0]))


def in_a_thread(agent: Agent, servers: list[Server], seed: int) -> None:
    rng = random.Random(seed)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        for _ in range(40):
            url = f"{rng.choice(servers).url}/{rng.choice(PATHS)}"
            try:
                with client.stream(rng.choice(["GET", "POST"]), url, timeout=timeouts(rng)) as response:
                    if rng.random() < 0.8:
                        response.read()
            except httpx.TransportError:
                pass


async def in_a_loop(agent: Agent, servers: list[Server], seed: int) -> None:
    async def one(rng: random.Random) -> None:
        url = f"{rng.choice(servers).url}/{rng.choice(PATHS)}"
        with anyio.move_on_after(rng.choice([0, 0.0005, 0.002, 0.01, 1.0])):
            try:
                async with client.stream(rng.choice(["GET", "POST"]), url, timeout=timeouts(rng)) as response:
                    if rng.random() < 0.8:
                        await response.aread()
            except httpx.TransportError:
                pass

    async def many(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(15):
            await one(rng)

    async with httpx.AsyncClient(transport=AgentTransport(agent=agent), trust_env=False) as client:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(many, seed * 1000 + number)


class Auditor:
    """Looks at an agent's books, from outside and while others work, and checks both equations."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.looks = 0
        """How often nothing moved between two looks, so that the requests in flight were known as well."""

    def look(self) -> None:
        """Created = failed + closed + detached + open; made = finished + failed + waiting + in flight."""
        agent, made = self.agent, self.agent._engine._next_request
        status, sockets, again = agent.status(), agent.sockets(), agent.status()
        held = sum(status.sockets.values()) + sum(status.free_sockets.values())
        assert status.create_socket_count == (
            status.create_socket_error_count + status.close_socket_count + status.detached_socket_count + held
        )
        over = status.request_count + status.request_error_count
        waiting = sum(status.requests.values())
        assert over + waiting <= agent._engine._next_request
        assert made <= over + waiting + held
        if status == again and made == agent._engine._next_request:
            in_flight = sum(info.state in ("connecting", "active") for info in sockets)
            assert made == over + waiting + in_flight
            self.looks += 1


@pytest.mark.parametrize("seed", range(3))
# httpx's, httpcore's and this test's own generators are dropped half-way when a request is cancelled; trio warns of it.
@pytest.mark.filterwarnings(r"ignore:Async generator '(httpx|httpcore|tests)\.:ResourceWarning")
def test_the_books_balance_after_a_soak(seed: int) -> None:
    """While everything happens at once and at the end; and the server sees no connection that the agent does not."""
    with Server() as one, Server() as other:
        servers = [one, other]
        for server in servers:
            server.gate("truncated").open()
        agent = Agent(max_total_sockets=12, max_sockets=8, free_socket_timeout=0.5)
        workers: list[tuple[Any, ...]] = [(in_a_thread, agent, servers, seed * 100 + number) for number in range(10)]
        workers.append((lambda: asyncio.run(in_a_loop(agent, servers, seed)),))
        workers.append((lambda: trio.run(in_a_loop, agent, servers, seed + 50),))
        failures: list[BaseException] = []
        deadline = time.monotonic() + 50

        def work(function: Any, *args: Any) -> None:
            try:
                function(*args)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=worker) for worker in workers]
        auditor = Auditor(agent)
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
            auditor.look()
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))
        assert not failures
        assert not any(thread.is_alive() for thread in threads)
        assert auditor.looks > 10
        looks = auditor.looks
        auditor.look()
        assert auditor.looks == looks + 1

        status = agent.status()
        assert dict(status.requests) == {}
        assert dict(status.sockets) == {}
        assert status.request_count > 100
        assert status.request_error_count > 100
        assert agent._engine._exchanges == {}
        for server in servers:
            origin = f"http://{server.netloc}"
            server.wait_for(lambda server=server, origin=origin: server.open == status.free_sockets.get(origin, 0))

        with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
            assert client.get(f"{one.url}/echo", timeout=httpx.Timeout(5)).status_code == 200
        agent.close()
        auditor.look()
        assert auditor.looks == looks + 2
        assert agent.sockets() == ()
        for server in servers:
            server.wait_closed()
