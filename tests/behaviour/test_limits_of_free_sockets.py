"""Which socket goes when enough are free (R12, N21, N22)."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

from httpx_agent import Agent, AgentTransport
from tests.support.servers import Server
from tests.support.worlds import World


async def use_at_once(client: Any, *urls: str) -> None:
    """One socket for each URL, which come free in this order."""
    async with AsyncExitStack() as stack:
        for response in [await stack.enter_async_context(client.stream("GET", url)) for url in urls]:
            await response.aread()


@pytest.mark.rule("R12", "N21")
@pytest.mark.parametrize(("limit", "kept"), [(0, []), (1, [0]), (2, [0, 1]), (256, [0, 1, 2])])
async def test_a_full_list_closes_the_one_that_comes_free(
    world: World, server: Server, engine: str, limit: int, kept: list[int]
) -> None:
    """N21: as in Node, but 0 means none; there it means 256."""
    agent = Agent(max_free_sockets=limit, http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await use_at_once(client, *[f"{server.url}/echo"] * 3)
        assert [info.id for info in agent.sockets()] == kept
        await world.until(lambda: server.open == len(kept))
    await world.close(agent)


@pytest.mark.rule("R12", "N22")
async def test_the_total_of_free_sockets_closes_the_least_recently_used(
    world: World, server: Server, engine: str
) -> None:
    """N22: over all origins, so that a pool shrinks from its old end whatever `scheduling` says."""
    agent = Agent(max_total_free_sockets=2, scheduling="fifo", http1_engine=engine)
    one, other = server.url, f"http://localhost:{server.port}"
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await use_at_once(client, one, one, other)
        assert [info.id for info in agent.sockets()] == [1, 2]
        assert (await client.get(one)).extensions["agent"].socket_id == 1
        await use_at_once(client, other, other)  # number 2 and a new one: now number 1 is the oldest
        assert [info.id for info in agent.sockets()] == [2, 3]
        await world.until(lambda: server.open == 2)
    await world.close(agent)
