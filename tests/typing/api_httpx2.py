"""The second family as type checkers see it: objects of httpx do not fit it. Never run, only checked."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import assert_type

import httpx
import httpx2

import httpx_agent
from httpx_agent.httpx2 import Agent, AgentTransport


def a_transport_is_one_of_httpx2_s(proxy: httpx2.Proxy, limits: httpx2.Limits) -> httpx2.Client:
    """In both worlds, without a cast."""
    transport = AgentTransport(max_sockets=10, proxy=proxy, limits=limits, scheduling="fifo")
    sync_transport: httpx2.BaseTransport = transport
    async_transport: httpx2.AsyncBaseTransport = transport
    assert_type(transport.agent, Agent)
    httpx2.AsyncClient(transport=async_transport)
    return httpx2.Client(transport=sync_transport)


def an_agent_in_use(agent: Agent) -> None:
    """It tells the same, in the same classes."""
    assert_type(agent.status(), httpx_agent.AgentStatus)
    assert_type(agent.max_sockets, int | None)
    AgentTransport(agent=agent, proxy=httpx2.URL("http://proxy.test"))
    with agent as entered, AgentTransport(agent=agent) as transport:
        assert_type(entered, Agent)
        assert_type(transport, AgentTransport)


def what_a_response_carries(response: httpx2.Response) -> None:
    assert_type(httpx_agent.request_info(response), httpx_agent.RequestInfo | None)


def what_is_wrong(agent: Agent, other: httpx_agent.Agent, proxy: httpx.Proxy, limits: httpx.Limits) -> None:
    """Each of these lines is told."""
    AgentTransport(agent=other)  # type: ignore[arg-type]
    httpx_agent.AgentTransport(agent=agent)  # type: ignore[arg-type]
    AgentTransport(proxy=proxy)  # type: ignore[arg-type]
    Agent(limits=limits)  # type: ignore[arg-type]
    Agent(max_socket=5)  # type: ignore[call-arg]
    httpx.Client(transport=AgentTransport())  # type: ignore[arg-type]
