"""Free sockets are watched, to notice without a request what their servers do: by which watcher, and how long."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import anyio
import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._runtime.watchers import ThreadWatcher
from tests.support.servers import Server
from tests.support.worlds import World


async def test_a_dropped_agent_takes_its_watcher_along(world: World, server: Server) -> None:
    """Nothing but a free socket holds it, and that is looked after by reference to nobody."""
    before = set(threading.enumerate())
    agent = Agent(free_socket_timeout=None)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(f"{server.url}/echo")
    homes = [agent._dispatcher.sync_home, *agent._dispatcher._homes.values()]
    gone = weakref.ref(agent)
    await world.close(agent)
    del agent, client

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    await world.until(is_gone)  # the watcher may just look which of its sockets are free
    for home in homes:  # told late, they have nobody to tell
        home.on_readable(0)
        home.on_time()
        home.on_watch_due()
    await world.until(
        lambda: not [one for one in threading.enumerate() if one.name == "httpx-agent" and one not in before]
    )


def test_a_loop_without_readers_has_a_thread_for_its_free_sockets(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Windows' proactor loop."""

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "add_reader", not_implemented)
        agent = Agent()
        home = await agent._dispatcher.new_async_home()
        monkeypatch.undo()
        assert isinstance(home.watcher, ThreadWatcher)
        async with httpx.AsyncClient(transport=AgentTransport(agent=agent), trust_env=False) as client:
            await client.get(f"{server.url}/echo")
            server.close_idle()
            with anyio.fail_after(5):
                while agent.sockets():
                    await anyio.sleep(0.001)
        await agent.aclose()

    def not_implemented(*_: object) -> None:
        raise NotImplementedError

    asyncio.run(ask())


@pytest.mark.parametrize("ends", ["the server closes it", "its time is over"])
def test_a_socket_that_came_free_while_the_watcher_was_told_to_rest(server: Server, ends: str) -> None:
    """A close tells it, and a request may come right then; its socket is looked after all the same."""
    agent = Agent(free_socket_timeout=0.2 if ends == "its time is over" else None)
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        client.get(f"{server.url}/echo")
        agent._dispatcher.sync_home.watcher.end_if_idle()
        if ends == "the server closes it":
            server.close_idle()
        anyio.run(World("sync").until, lambda: not agent.sockets())
    agent.close()


async def test_only_sockets_that_are_free_are_watched(world: World, server: Server) -> None:
    """One that is in use again when the watcher comes is left alone until it comes free for good."""
    backend = httpcore.TrioBackend() if world.name == "trio" else httpcore.AnyIOBackend()
    agent = Agent(http1_engine="h11", async_network_backend=backend)  # not the agent's own, which tells of its end
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(f"{server.url}/echo")
        [one] = agent._dispatcher._sockets.values()
        async with client.stream("GET", f"{server.url}/hold-body/c") as response:
            await world.until(lambda: not agent._dispatcher._not_watched)
            assert one.watched is None
            server.gate("c").open()
            await response.aread()
        await world.until(lambda: one.watched is not None)
        server.close_idle()
        await world.until(lambda: not agent.sockets())
    await world.close(agent)
