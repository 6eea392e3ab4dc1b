"""Event loops, threads and processes: B15, B16, B29.

Each docstring says what happened on the stock transport: see `tests.bugs.on_stock`.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import httpx
import pytest

from tests.bugs.stock import Stack
from tests.support.servers import Server
from tests.support.worlds import WORLDS, World

both_engines = pytest.mark.parametrize("engine", ["httptools", "h11"])

LOOPS = [world for world in WORLDS if not world.is_sync]


@pytest.mark.bug("B15")
@both_engines
@pytest.mark.parametrize("kept_for", [0.02, 15.0], ids=["expired", "kept"])
@pytest.mark.parametrize("loop", LOOPS, ids=str)
def test_b15_one_transport_in_several_loops_one_after_the_other(
    stack: Stack, server: Server, loop: World, kept_for: float, engine: str
) -> None:
    """httpx: `RuntimeError: Event loop is closed` in asyncio, and `ClosedResourceError` or the like in trio."""
    transport = stack.transport(is_sync=False, free_socket_timeout=kept_for, http1_engine=engine)

    async def ask() -> int:
        client = httpx.AsyncClient(transport=transport, trust_env=False)
        return (await client.get(f"{server.url}/echo")).status_code

    for _ in range(3):
        assert loop.run(ask) == 200
        if kept_for < 1:
            time.sleep(2 * kept_for)  # its time is over when the next loop begins
    server.wait_closed()


@pytest.mark.bug("B16")
@both_engines
def test_b16_one_transport_in_several_loops_at_once(stack: Stack, server: Server, engine: str) -> None:
    """httpx: `RuntimeError: … is bound to a different event loop`, timeouts, and other errors."""
    transport = stack.transport(is_sync=False, http1_engine=engine)
    outcomes: list[Any] = []

    async def ask() -> None:
        client = httpx.AsyncClient(transport=transport, timeout=5, trust_env=False)
        for _ in range(20):
            outcomes.append((await client.get(f"{server.url}/echo")).status_code)

    def run(loop: World) -> None:
        try:
            loop.run(ask)
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(loop,)) for loop in LOOPS * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [200] * 80
    server.wait_closed()


@pytest.mark.bug("B29")
@both_engines
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_b29_a_child_does_not_use_its_parents_sockets(stack: Stack, server: Server, engine: str) -> None:
    """httpx: the child's request goes out on the parent's socket. See also `tests/behaviour/test_fork.py`."""
    transport = stack.transport(is_sync=True, http1_engine=engine)
    with httpx.Client(transport=transport, timeout=5, trust_env=False) as client:
        client.get(f"{server.url}/echo")
        process = os.fork()
        if process == 0:
            code = 1
            try:
                code = int(client.get(f"{server.url}/echo").status_code != 200)
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
        client.get(f"{server.url}/echo")
    assert server.requests_per_connection == [2, 1]
