"""Homes: what is done in a loop, and what is no longer done once it has ended."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import anyio
import pytest
import trio

from httpx_agent import Agent


@pytest.mark.parametrize("runner", ["asyncio", "trio"])
def test_what_comes_too_late_for_a_loop_is_not_done(runner: str) -> None:
    """The loop is about to end, or has ended."""
    agent = Agent()
    homes: list[Any] = []

    async def main() -> None:
        homes.append(await agent._dispatcher.new_async_home())
        homes[0].is_ending = True
        homes[0].do_soon(agent._dispatcher.close_sockets(homes[0], []))
        await anyio.sleep(0)
        await anyio.sleep(0)

    asyncio.run(main()) if runner == "asyncio" else trio.run(main)
    homes[0].do_soon(agent._dispatcher.close_sockets(homes[0], []))
    assert homes[0].is_over()
    homes[0].end()  # twice is once
    assert homes[0].is_over()
    agent.close()


def test_a_guard_may_outlive_its_agent() -> None:
    """Then it has nothing to close but its watcher."""
    homes: list[Any] = []

    async def main() -> None:
        agent = Agent()
        homes.append(await agent._dispatcher.new_async_home())
        del agent
        gc.collect()
        assert not homes[0].is_over()

    asyncio.run(main())
    assert homes[0].is_over()
