"""Exceptions: when each is raised, and what it says."""

import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from httpx_agent import Agent, AgentTransport
from server import refusal, serve, silence


def show(function: Callable[[], object]) -> None:
    """Call the function and print the exception."""
    try:
        function()
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        print(textwrap.fill(message, 88, subsequent_indent="    "))


def connect() -> None:
    """Connect to a port where nothing is listening."""
    with refusal() as url, httpx.Client(transport=AgentTransport()) as client:
        show(lambda: client.get(url))


def read(url: str) -> None:
    """Wait for a silent server, until the agent's own `timeout`."""
    with httpx.Client(transport=AgentTransport(timeout=0.1), timeout=None) as client:
        show(lambda: client.get(url))


def pool(url: str) -> None:
    """Wait for a socket longer than the pool timeout."""
    with httpx.Client(transport=AgentTransport(max_total_sockets=1)) as client:
        with client.stream("GET", f"{url}/big"):
            show(lambda: client.get(url, timeout=httpx.Timeout(5, pool=0.1)))


def stale(url: str) -> None:
    """Meet a dead socket with a POST, which must not be sent twice."""
    with httpx.Client(transport=AgentTransport()) as client:
        client.get(f"{url}/drop")
        show(lambda: client.post(f"{url}/drop"))


def closed(url: str) -> None:
    """Close the agent while one request is in flight and another is waiting."""
    agent = Agent(max_sockets=1)
    client = httpx.Client(transport=AgentTransport(agent=agent))
    with ThreadPoolExecutor() as threads:
        in_flight = threads.submit(client.get, url)
        while [socket.state for socket in agent.sockets()] != ["active"]:
            time.sleep(0.01)
        waiting = threads.submit(client.get, url)
        while not agent.status().requests:
            time.sleep(0.01)
        agent.close()
        show(in_flight.result)
        show(waiting.result)


def options() -> None:
    """Pass invalid values, which are refused at once."""
    show(lambda: AgentTransport(max_sockets=0))
    show(lambda: AgentTransport(free_socket_timeout=float("nan")))
    show(lambda: AgentTransport(timeout="30s"))  # type: ignore[arg-type]
    show(lambda: AgentTransport(agent=Agent(), max_sockets=5))


with serve() as url, silence() as mute:
    for name, function in {
        "connect": connect,
        "read": lambda: read(mute),
        "pool": lambda: pool(url),
        "stale": lambda: stale(url),
        "closed": lambda: closed(mute),
        "options": options,
    }.items():
        print(f"[{name}]")
        function()
