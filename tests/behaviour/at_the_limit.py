"""A program for `test_descriptors`: a process at its limit on open files, with an agent in it.

    python -m tests.behaviour.at_the_limit sync|asyncio|trio URL CA-FILE

Prints what the agent says when nothing is left, then how many descriptors more are open at the end than at the start.
"""

from __future__ import annotations

import os
import resource
import ssl
import sys
import threading
from contextlib import suppress

import anyio
import httpx

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import assert_no_leaks

FDS = "/proc/self/fd"


def fill() -> list[int]:
    """Opens files until none can be opened."""
    files = []
    with suppress(OSError):
        while True:
            files.append(os.open(os.devnull, os.O_RDONLY))
    return files


async def main(way: str, url: str, authority: str) -> None:
    """Each name is an origin of its own, so that each needs a socket."""
    context = ssl.create_default_context(cafile=authority)
    context.check_hostname = False  # the names only make the origins differ
    agent = Agent(verify=context)
    sync = way == "sync"
    transport = AgentTransport(agent=agent)
    client = httpx.Client(transport=transport) if sync else httpx.AsyncClient(transport=transport)

    async def get(name: str) -> None:
        response = client.get(url, extensions={"sni_hostname": name})
        response = response if isinstance(response, httpx.Response) else await response
        assert response.text == "ok"

    def free() -> int:
        return sum(agent.status().free_sockets.values())

    async def close() -> None:
        if sync:
            agent.close()
        else:
            await agent.aclose()
        for thread in threading.enumerate():
            if thread.name == "httpx-agent":  # what watched the free sockets is about to end, and has descriptors
                thread.join(10)

    before = len(os.listdir(FDS))
    for number in range(4):
        await get(f"name{number}.example")
    assert free() == 4
    files = fill()
    await get("another.example")  # room is made for this one
    assert free() == 1
    files += fill()
    await get("another.example")  # needs none
    await get("yet-another.example")
    assert free() == 1
    await close()
    files += fill()
    try:
        await get("name0.example")
    except httpx.ConnectError as error:
        print(error)
    for number in files:
        os.close(number)
    await get("name0.example")
    await close()
    assert_no_leaks(agent)
    assert agent.sockets() == ()
    print(len(os.listdir(FDS)) - before)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))
    anyio.run(main, *sys.argv[1:], backend="trio" if sys.argv[1] == "trio" else "asyncio")
