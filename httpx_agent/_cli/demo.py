"""The demo: each section sends requests to a built-in server and prints what the agent did, and why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import ExitStack

import httpx

from httpx_agent import Agent, AgentTransport, RequestInfo

from .report import describe, report_options, report_sockets, report_status
from .screen import Screen
from .server import DemoServer

#: Seconds within which a timer must have fired, however busy the machine is.
_PATIENCE = 5.0


def show(screen: Screen) -> None:
    """Run every section."""
    with DemoServer() as server:
        _show_options(screen, server.url)
        agent = Agent(max_sockets=2)
        _show_sync(screen, server.url, agent)
        asyncio.run(_show_async(screen, server.url, agent))
        _show_scheduling(screen, server.url)
        _show_hint(screen, server.url)
        _show_free_socket_timeout(screen, server)
        _show_ttl(screen, server.url)


def _show_options(screen: Screen, url: str) -> None:
    screen.heading("Options: the settings of an agent")
    screen.paragraph(
        "An AgentTransport replaces httpx's own transport; its agent decides which socket serves which request. These "
        "are the options of AgentTransport(max_sockets=2). Times are in seconds; None means no limit."
    )
    transport = AgentTransport(max_sockets=2)
    with httpx.Client(transport=transport) as client:
        response = client.get(url)
        report_options(screen, transport.agent.options)
        screen.line(f"Status code: {response.status_code}")
        screen.line(f"Headers: {dict(response.headers)}")


def _show_sync(screen: Screen, url: str, agent: Agent) -> None:
    screen.heading("httpx.Client: one request after another")
    screen.paragraph(
        "Reading a response to its end frees its socket, so the next request can use it: one socket serves them all."
    )
    with httpx.Client(transport=AgentTransport(agent=agent), base_url=url) as client:
        for number in range(1, 4):
            screen.line(f"request {number}: {describe(_info(client.get('/')))}")
    # The agent is borrowed, so it outlives the client. The socket belongs to the sync world; event loops cannot use it.
    agent.close()


async def _show_async(screen: Screen, url: str, agent: Agent) -> None:
    screen.heading("httpx.AsyncClient: five requests at once, max_sockets=2")
    screen.paragraph(
        "The same agent, now in an event loop, opens only two sockets; three requests wait. A socket that becomes free "
        "goes to the one that has waited longest. (The server delays its responses, so that the requests overlap.)"
    )

    async def get(client: httpx.AsyncClient, number: int, delay: float) -> None:
        response = await client.get("/", params={"delay": delay})
        screen.line(f"request {number}: {describe(_info(response))}")

    async with agent, httpx.AsyncClient(transport=AgentTransport(agent=agent), base_url=url) as client:
        # The first two differ, so that the sockets become free at different times.
        delays = (0.06, 0.12, 0.12, 0.12, 0.12)
        async with asyncio.TaskGroup() as group:
            for number, delay in enumerate(delays, 1):
                group.create_task(get(client, number, delay))

        screen.heading("Status and sockets: what the agent reports")
        screen.paragraph(
            "The counters cover both clients: the socket of the sync client is closed; the two of the async client are "
            "free, and will be closed after expires_in seconds without a request."
        )
        report_status(screen, agent.status())
        report_sockets(screen, agent.sockets())


def _show_scheduling(screen: Screen, url: str) -> None:
    screen.heading("Scheduling: lifo and fifo")
    screen.paragraph(
        "Three sockets become free in the order 0, 1, 2; then six requests are sent, one after another. lifo takes the "
        "socket used last, so the others stay free and expire; fifo takes the one free longest, so all stay in use."
    )
    for scheduling in ("lifo", "fifo"):
        agent = Agent(scheduling="lifo" if scheduling == "lifo" else "fifo")
        with agent, httpx.Client(transport=AgentTransport(agent=agent), base_url=url) as client:
            with ExitStack() as stack:
                responses = [stack.enter_context(client.stream("GET", "/")) for _ in range(3)]
                for response in responses:
                    response.read()
            served = [_info(client.get("/")).socket_id for _ in range(6)]
        screen.line(f"{scheduling}: served by the sockets {_listed(served)}")


def _show_hint(screen: Screen, url: str) -> None:
    screen.heading("The server's hint: Keep-Alive: timeout=N")
    screen.paragraph(
        "A server may say how long it keeps a free connection. The agent closes its socket a little earlier, by "
        "keep_alive_timeout_buffer (1 s), so that no request meets a socket that is being closed; if no time is left, "
        "the socket is not kept at all."
    )
    agent = Agent(free_socket_timeout=15)
    with agent, httpx.Client(transport=AgentTransport(agent=agent), base_url=url) as client:
        for what, query in (("no hint", {}), ("timeout=5", {"hint": 5}), ("timeout=1", {"hint": 1})):
            info = _info(client.get("/", params=query))
            screen.line(f"{what}: {describe(info)}; {_fate(agent)}")
        screen.line(f"next request: {describe(_info(client.get('/')))}")


def _show_free_socket_timeout(screen: Screen, server: DemoServer) -> None:
    screen.heading("free_socket_timeout: closed by the timer")
    screen.paragraph(
        "With free_socket_timeout=0.3 a free socket is closed after that time. This does not take a request: the agent "
        "watches its free sockets by itself."
    )
    agent = Agent(free_socket_timeout=0.3)
    with agent, httpx.Client(transport=AgentTransport(agent=agent), base_url=server.url) as client:
        info = _info(client.get("/"))
        screen.line(f"request 1: {describe(info)}; {_fate(agent)}")
        _show_closing(screen, agent)
        screen.line(f"request 2: {describe(_info(client.get('/')))}")


def _show_ttl(screen: Screen, url: str) -> None:
    screen.heading("socket_active_ttl: a maximum age for sockets")
    screen.paragraph(
        "With socket_active_ttl=0.5 a socket is closed half a second after it was opened, used or not. A request in "
        "flight is not cut off: request 3 takes longer, and its socket is closed after the response."
    )
    agent = Agent(socket_active_ttl=0.5)
    with agent, httpx.Client(transport=AgentTransport(agent=agent), base_url=url) as client:
        for number, delay in enumerate((0.0, 0.1, 0.6, 0.0), 1):
            info = _info(client.get("/", params={"delay": delay}))
            screen.line(f"request {number}, of {delay:.1f} s: {describe(info)}; {_fate(agent)}")
        _show_closing(screen, agent)


def _show_closing(screen: Screen, agent: Agent) -> None:
    """Wait until the agent's timer has closed its sockets."""
    began = time.monotonic()
    while agent.sockets() and time.monotonic() < began + _PATIENCE:
        time.sleep(0.005)
    status = agent.status()
    screen.line(
        f"{time.monotonic() - began:.1f} s later, without a request: sockets open: {len(agent.sockets())}, "
        f"closed by a limit: {status.timeout_socket_count}"
    )


def _fate(agent: Agent) -> str:
    """Describe what happens to the agent's only socket."""
    return ", ".join(f"expires in {socket.expires_in:.1f} s" for socket in agent.sockets()) or "not kept"


def _info(response: httpx.Response) -> RequestInfo:
    info: RequestInfo = response.extensions["agent"]
    return info


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
