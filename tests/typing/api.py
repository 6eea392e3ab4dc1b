"""The public API as type checkers see it: never run, only checked by mypy and pyright in their strictest modes.

What is right must pass. What is wrong carries the comment that silences the checkers, and must need it: mypy's
`warn_unused_ignores` and pyright's `reportUnnecessaryTypeIgnoreComment` tell otherwise.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, assert_type

import httpcore
import httpx

import httpx_agent
from httpx_agent import Agent, AgentOptions, AgentStatus, AgentTransport, RequestInfo, SocketInfo, request_info


def every_option(context: ssl.SSLContext, proxy: httpx.Proxy, limits: httpx.Limits) -> Agent:
    """An agent's options."""
    return Agent(
        keep_alive=True,
        keep_alive_initial_delay=1,
        max_sockets=5,
        max_total_sockets=math.inf,
        max_free_sockets=0,
        max_total_free_sockets=None,
        scheduling="fifo",
        timeout=timedelta(seconds=30),
        free_socket_timeout=15.0,
        socket_active_ttl=None,
        keep_alive_timeout_buffer=0.5,
        max_cached_sessions=10,
        http1_engine="h11",
        per_origin={"https://example.com": {"max_sockets": 2, "timeout": timedelta(minutes=1)}},
        debug=False,
        retry_stale_sockets=True,
        network_backend=httpcore.SyncBackend(),
        async_network_backend=httpcore.AnyIOBackend(),
        verify=context,
        cert=("cert.pem", "key.pem"),
        trust_env=False,
        http1=True,
        http2=False,
        limits=limits,
        proxy=proxy,
        uds="/run/socket",
        local_address="127.0.0.1",
        retries=2,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (1, 2, b"x"), (1, 2, None, 4)],
    )


def a_transport_takes_the_same_and_an_agent(agent: Agent) -> None:
    """By name, in the places of httpx's own transport, and borrowed."""
    AgentTransport()
    AgentTransport(agent=agent)
    AgentTransport(agent=None, max_sockets=5, scheduling="lifo")
    AgentTransport(True, None, True, True, False, None, "http://proxy.test", None, None, 0, None)
    AgentTransport(proxy=httpx.URL("http://proxy.test"), verify="ca.pem", http2=True)


def a_transport_is_one_of_httpx_s() -> tuple[httpx.Client, httpx.AsyncClient]:
    """In both worlds, without a cast."""
    transport = AgentTransport(max_sockets=10)
    sync_transport: httpx.BaseTransport = transport
    async_transport: httpx.AsyncBaseTransport = transport
    mounts: dict[str, httpx.BaseTransport | None] = {"https://": transport, "all://localhost": None}
    assert_type(transport.agent, Agent)
    return httpx.Client(transport=sync_transport, mounts=mounts), httpx.AsyncClient(transport=async_transport)


def an_agent_in_use(agent: Agent) -> None:
    """What it tells."""
    agent.forget_sessions()
    agent.forget_sessions(httpx.URL("https://a.test"))
    status = agent.status()
    assert_type(status, AgentStatus)
    assert_type(status.create_socket_count, int)
    assert_type(status.free_sockets, Mapping[str, int])
    assert_type(status.sockets.get("http://example.com:80"), int | None)
    assert_type(agent.status_changed, bool)
    assert_type(agent.sockets(), tuple[SocketInfo, ...])
    for info in agent.sockets():
        assert_type(info.state, Literal["connecting", "active", "free", "closing"])
        assert_type(info.age, float)
        assert_type(info.expires_in, float | None)
        assert_type(info.peer_address, tuple[str, int] | str | None)
        assert_type(info.http_version, str | None)
    assert_type(agent.options, AgentOptions)
    assert_type(agent.options.scheduling, Literal["lifo", "fifo"])
    assert_type(httpx_agent.__version__, str)


def options_as_attributes(agent: Agent) -> None:
    """Read as what they became; four of them may be set."""
    assert_type(agent.max_sockets, int | None)
    assert_type(agent.timeout, float | None)
    assert_type(agent.keep_alive, bool)
    assert_type(agent.per_origin, Mapping[str, Mapping[str, Any]] | None)
    agent.max_sockets = 5
    agent.max_sockets = None
    agent.max_total_sockets = 50
    agent.max_free_sockets = 0
    agent.scheduling = "fifo"


def what_a_response_carries(response: httpx.Response) -> None:
    """Behind httpx's untyped extensions."""
    info = request_info(response)
    assert_type(info, RequestInfo | None)
    assert info is not None
    assert_type(info.as_dict(), dict[str, Any])
    assert_type(info.reused, bool)
    assert_type(info.socket_id, int)
    assert_type(info.idle_for, float | None)


def in_threads() -> None:
    """The context managers give what was entered."""
    with Agent() as agent, AgentTransport(agent=agent) as transport:
        assert_type(agent, Agent)
        assert_type(transport, AgentTransport)
        agent.close()


async def in_event_loops() -> None:
    """The same in the other world."""
    async with Agent() as agent, AgentTransport(agent=agent) as transport:
        assert_type(agent, Agent)
        assert_type(transport, AgentTransport)
        await agent.aclose()


class MyAgent(Agent):
    """A subclass, as `with` gives it."""


def a_subclass() -> None:
    """Is not taken for its base."""
    with MyAgent() as agent:
        assert_type(agent, MyAgent)


def what_is_wrong(agent: Agent, transport: AgentTransport, status: AgentStatus, info: RequestInfo) -> None:
    """Each of these lines is told."""
    Agent(max_socket=5)  # type: ignore[call-arg]
    Agent(max_sockets="5")  # type: ignore[arg-type]
    Agent(scheduling="random")  # type: ignore[arg-type]
    Agent(timeout="30")  # type: ignore[arg-type]
    Agent(keep_alive_timeout_buffer=None)  # type: ignore[arg-type]
    Agent(keep_alive=None)  # type: ignore[arg-type]
    Agent(http1_engine="llhttp")  # type: ignore[arg-type]
    Agent(per_origin={"https://": 5})  # type: ignore[dict-item]
    Agent(limits=5)  # type: ignore[arg-type]
    Agent(proxy=5)  # type: ignore[arg-type]
    Agent(socket_options=[(1, 2)])  # type: ignore[list-item]
    AgentTransport(max_socket=5)  # type: ignore[call-arg]
    AgentTransport(agent=5)  # type: ignore[arg-type]
    AgentTransport(True, None, True, True, False, None, None, None, None, 0, None, 5)  # type: ignore[call-arg, arg-type]
    agent.max_sockets = "5"  # type: ignore[assignment]
    agent.scheduling = 5  # type: ignore[assignment]
    agent.max_socket = 5  # type: ignore[attr-defined]
    _ = agent.maxSockets  # type: ignore[attr-defined]
    transport.max_sockets = 5  # type: ignore[attr-defined]
    _ = transport.timeout  # type: ignore[attr-defined]
    agent.status_changed = True  # type: ignore[misc]
    agent.options.max_sockets = 5  # type: ignore[misc]
    status.request_count = 5  # type: ignore[misc]
    status.sockets["http://example.com:80"] = 5  # type: ignore[index]
    info.reused = True  # type: ignore[misc]
    request_info(5)  # type: ignore[arg-type]
