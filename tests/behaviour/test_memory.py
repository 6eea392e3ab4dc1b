"""Streamed data is not kept: a hundred megabytes pass through a process whose memory hardly grows."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import Network
from tests.support.servers import BLOCK, Server
from tests.support.worlds import World, clean_environment

pytestmark = pytest.mark.both_engines


GIGABYTE = 1024**3

TOTAL = 1600 * len(BLOCK)

ALLOWED = 16 * 1024 * 1024


def transfer(world: World, direction: str, url: str, total: int) -> dict[str, int]:
    """What `memory_client` tells of a transfer: the bytes that moved, and by how many its memory grew."""
    command = [sys.executable, "-m", "tests.behaviour.memory_client", world.name, direction, url, str(total)]
    result = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=dict(clean_environment()),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, int] = json.loads(result.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_hundred_megabytes(world: World, server: Server, direction: str) -> None:
    found = transfer(world, direction, server.url, TOTAL)

    assert found["moved"] == TOTAL
    assert found["grew"] <= ALLOWED
    assert server.accepted == 1


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["unread", "unheard"])
def test_a_gigabyte_that_nobody_takes(world: World, direction: str) -> None:
    """A download that nobody reads, an upload to a server that does not read: each end makes the other wait."""
    found = transfer(world, direction, "", GIGABYTE)

    assert 0 < found["moved"] < GIGABYTE / 10
    assert found["grew"] <= ALLOWED


class Counted(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A stream that another library puts around the transport's."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.length = self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for part in self.stream:
            self.length += len(part)
            yield part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self.stream:
            self.length += len(part)
            yield part

    def close(self) -> None:
        self.closed += 1
        self.stream.close()

    async def aclose(self) -> None:
        self.closed += 1
        await self.stream.aclose()


class Counting(AgentTransport):
    """What wraps streams."""

    stream: Counted

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        response.stream = self.stream = Counted(response.stream)
        return response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        response.stream = self.stream = Counted(response.stream)
        return response


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("length", [10, 4 * len(BLOCK)])
async def test_a_response_is_freed_when_it_is_dropped(world: World, server: Server, length: int, wrapped: bool) -> None:
    """The client of httpx makes it refer to itself; it would wait for the garbage collector, and so would its body."""
    transport = Counting() if wrapped else AgentTransport()
    gc.disable()
    try:
        async with world.client(transport=transport) as client:
            response = await client.get(f"{server.url}/bytes/{length}")
            assert len(response.content) == length
            assert response.elapsed > timedelta(0)
            if isinstance(transport, Counting):
                assert (transport.stream.length, transport.stream.closed) == (length, 1)
            await world.close(response)
            freed = weakref.ref(response.sync if world.is_sync else response)
            del response
            await world.call(lambda: None)  # which the thread that had it does in its place
            assert freed() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("wrapped", [False, True])
async def test_who_iterates_and_closes_by_hand_finds_all_as_it_was(world: World, server: Server, wrapped: bool) -> None:
    transport = Counting() if wrapped else AgentTransport()
    url = f"{server.url}/bytes/{4 * len(BLOCK)}"
    async with world.client(transport=transport) as client:
        async with client.stream("GET", url) as response:
            length = 0
            async for part in response.aiter_bytes():
                length += len(part)
        assert length == 4 * len(BLOCK)
        assert response.is_closed
        assert response.elapsed > timedelta(0)
        with pytest.raises(httpx.StreamConsumed):
            async for _ in response.aiter_raw():
                pass
        assert (await client.get(url)).extensions["agent"].reused


async def test_many_origins_are_not_remembered_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("httpx_agent._pool.dispatcher.MAX_KNOWN_KEYS", 3)
    network = Network()
    agent = Agent(max_total_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for number in range(10):
            await client.get(f"http://{number}.test/")
    assert len(agent._dispatcher._known_keys) <= 3
    assert len(agent._dispatcher._known_options) <= 3
    await world.close(agent)
