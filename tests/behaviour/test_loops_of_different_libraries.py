"""An event loop closes a socket because a request in another one asks for it: in its own way, not in the other's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import ChaosServer, assert_no_leaks

LIMIT = 10.0


@pytest.mark.parametrize(("owner", "asker"), [("asyncio", "trio"), ("trio", "asyncio")])
def test_a_free_socket_is_closed_for_a_request_elsewhere(owner: str, asker: str) -> None:
    agent = Agent(max_total_sockets=1)
    idle, over = threading.Event(), threading.Event()

    async def get(url: str, then: Callable[[], Any]) -> None:
        async with httpx.AsyncClient(transport=AgentTransport(agent=agent), trust_env=False) as client:
            assert (await client.get(url, timeout=LIMIT)).text == "ok"
            await then()

    async def stay() -> None:
        idle.set()
        assert await anyio.to_thread.run_sync(over.wait, LIMIT)

    async def leave() -> None:
        assert agent.sockets()[0].origin == other.url
        one.wait_closed()  # while the loop that had opened it still runs

    with ChaosServer() as one, ChaosServer() as other:
        thread = threading.Thread(target=anyio.run, args=(get, one.url, stay), kwargs={"backend": owner})
        thread.start()
        assert idle.wait(LIMIT)
        try:
            anyio.run(get, other.url, leave, backend=asker)
        finally:
            over.set()
            thread.join(LIMIT)
        assert_no_leaks(agent)
        agent.close()
