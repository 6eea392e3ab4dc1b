"""Unknown names of options and attributes: they raise an error that says what was probably meant."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any
from unittest import mock

import httpx
import pytest

from httpx_agent import Agent, AgentOptions, AgentTransport
from httpx_agent._values.option_hints import _OPTIONS, ANSWERS, CALLS
from httpx_agent.testing import Network
from tests.support.worlds import World

OPTIONS = ", ".join(AgentOptions.__dataclass_fields__)

#: An option of another library, or a misspelt one, and the answer.
MEANT = [
    ("max_socket", "did you mean max_sockets?"),
    ("max_sokets", "did you mean max_sockets?"),
    ("schedule", "did you mean scheduling?"),
    ("timeouts", "did you mean timeout?"),
    ("Max_Total_Free_Sockets", "did you mean max_total_free_sockets?"),
    ("maxSockets", "maxSockets in Node is max_sockets here"),
    ("MaxSockets", "maxSockets in Node is max_sockets here"),
    ("max-sockets", "maxSockets in Node is max_sockets here"),
    ("maxSocket", "did you mean max_sockets?"),
    ("keepAliveMsecs", "keepAliveMsecs in Node is keep_alive_initial_delay here, in seconds, not milliseconds"),
    (
        "freeSocketTimeout",
        "freeSocketTimeout in agentkeepalive is free_socket_timeout here, in seconds, not milliseconds",
    ),
    ("socketActiveTTL", "socketActiveTTL in agentkeepalive is socket_active_ttl here, in seconds, not milliseconds"),
    ("max_connections", "max_connections in httpx.Limits is max_total_sockets here"),
    ("max_connection", "max_connections in httpx.Limits is max_total_sockets here"),
    ("max_keepalive_connections", "max_keepalive_connections in httpx.Limits is max_total_free_sockets here"),
    ("keepalive_expiry", "keepalive_expiry in httpx.Limits is free_socket_timeout here"),
    (
        "limit_per_host",
        (
            "limit_per_host in aiohttp is max_sockets here, which counts free sockets too, "
            "and where None, not 0, means no limit"
        ),
    ),
    ("ttl_dns_cache", "ttl_dns_cache in aiohttp has no counterpart here: each new socket looks up its name"),
    ("keepalive_timeout", "keepalive_timeout in aiohttp is free_socket_timeout here"),
    ("keepAliveTimeout", "keepAliveTimeout in undici is free_socket_timeout here, in seconds, not milliseconds"),
    (
        "KeepAliveTimeout",
        (
            "keepAliveTimeout in undici is free_socket_timeout here, in seconds, not milliseconds; "
            "keepalive_timeout in aiohttp is free_socket_timeout here"
        ),
    ),
    ("connections", "connections in undici is max_sockets here"),
    ("pool_maxsize", "pool_maxsize in requests is max_free_sockets here, or max_sockets if pool_block was True"),
    ("MaxConnsPerHost", "MaxConnsPerHost in Go is max_sockets here, where None, not 0, means no limit"),
    ("pool_max_idle_per_host", "pool_max_idle_per_host in reqwest is max_free_sockets here"),
    ("base_url", "base_url in httpx.Client is an argument of the client: pass it there, next to transport="),
]  # fmt: skip


@pytest.mark.parametrize("make", [Agent, AgentTransport])
@pytest.mark.parametrize(("name", "answer"), MEANT)
def test_an_option_that_is_none(make: Callable[..., object], name: str, answer: str) -> None:
    with pytest.raises(TypeError) as caught:
        make(**{name: 1})
    assert str(caught.value) == f"no such option: {name!r} ({answer})"


@pytest.mark.parametrize(("make", "more"), [(Agent, ""), (AgentTransport, ", agent")])
def test_every_option_that_is_none_is_named(make: Callable[..., object], more: str) -> None:
    """Those there are follow where one is like none of them; what the options are given does not matter yet."""
    with pytest.raises(TypeError) as caught:
        make(max_socket=1, nonsense=2, keep_alive="no", quux=3)
    unknown = "'max_socket' (did you mean max_sockets?), 'nonsense', 'quux'"
    message = f"no such option: {unknown}; available options: {OPTIONS}{more}"
    assert str(caught.value) == message


def test_the_agent_of_a_transport() -> None:
    with pytest.raises(TypeError, match=r"^no such option: 'agents' \(did you mean agent\?\)$"):
        AgentTransport(agents=Agent())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'agent' \(agent in AgentTransport is the agent to borrow: AgentTransport\("):
        Agent(agent=Agent())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^no such option: 'max_socket'"):  # and not: give it to the agent
        AgentTransport(agent=Agent(), max_socket=1)  # type: ignore[call-arg]


def test_the_tables_lead_to_options_there_are() -> None:
    assert {entry.option for entry in _OPTIONS} <= AgentOptions.__dataclass_fields__.keys()
    assert not any(entry.option for entry in (*ANSWERS, *CALLS))
    for entry in (*_OPTIONS, *ANSWERS):
        assert entry.name not in AgentOptions.__dataclass_fields__
    assert len({(entry.library, entry.name) for entry in (*_OPTIONS, *ANSWERS, *CALLS)}) == sum(
        map(len, (_OPTIONS, ANSWERS, CALLS))
    )


def test_options_of_the_proxies_of_the_environment_are_checked_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with pytest.raises(TypeError, match=r"^no such option: 'max_socket' \(did you mean max_sockets\?\)$"):
        AgentTransport.mounts_from_env(max_socket=1)
    with pytest.raises(ValueError, match=r"^max_sockets=0: expected"):
        AgentTransport.mounts_from_env(max_sockets=0)

    class Special(AgentTransport):
        def __init__(self, *, name: str = "", **options: Any) -> None:
            super().__init__(**options)
            self.name = name

    assert Special.mounts_from_env(name="any") == {}
    monkeypatch.setenv("http_proxy", "http://proxy.test")
    transport = Special.mounts_from_env(name="any")["http://"]
    assert transport is not None
    assert transport.name == "any"


# Attributes -----------------------------------------------------------------------------------------------------------

#: An attribute that an agent has not, what setting it is told, and reading it.
ABSENT = [
    ("max_socket", "did you mean max_sockets?", "did you mean max_sockets?"),
    ("maxSockets", "maxSockets in Node is max_sockets here", "maxSockets in Node is max_sockets here"),
    ("max_connections", *["max_connections in httpx.Limits is max_total_sockets here"] * 2),
    ("freeSockets", "did you mean max_free_sockets?", "freeSockets in Node is status().free_sockets here"),
    ("destroy", None, "destroy in Node is close() here, or await aclose()"),
    ("getCurrentStatus", None, "getCurrentStatus in agentkeepalive is status() here"),
    (
        "connections",
        "connections in undici is max_sockets here",
        "connections in httpcore is sockets() here; connections in undici is max_sockets here",
    ),
    ("create_socket_count", None, "use status().create_socket_count"),
    ("handle_request", None, "an agent is not a transport: pass the client AgentTransport(agent=…)"),
    ("handle_async_request", None, "an agent is not a transport: pass the client AgentTransport(agent=…)"),
    ("clos", None, "did you mean close?"),
    ("name", None, None),
]


def names_of(kind: type, name: str) -> str:
    return f"{kind.__name__!r} object has no attribute {name!r}"


@pytest.mark.parametrize(("name", "setting", "reading"), ABSENT)
def test_an_attribute_of_an_agent_that_is_none(name: str, setting: str | None, reading: str | None) -> None:
    agent = Agent()
    with pytest.raises(AttributeError) as caught:
        setattr(agent, name, 1)
    nothing = "and setting it would have no effect; a subclass may define its own attributes"
    assert str(caught.value) == names_of(Agent, name) + (f" ({setting})" if setting else f", {nothing}")
    assert not hasattr(agent, name)
    with pytest.raises(AttributeError) as caught:
        getattr(agent, name)
    assert str(caught.value) == names_of(Agent, name) + (f" ({reading})" if reading else "")
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("name", "setting", "reading"),
    [
        ("max_sockets", *["it belongs to the agent: transport.agent.max_sockets"] * 2),
        (
            "timeout",
            "it is set when the agent is made: AgentTransport(timeout=…)",
            "it belongs to the agent: transport.agent.timeout",
        ),
        ("status", *["it belongs to the agent: transport.agent.status"] * 2),
        ("max_socket", *["on transport.agent, did you mean max_sockets?"] * 2),
        ("maxSockets", *["on transport.agent, maxSockets in Node is max_sockets here"] * 2),
        ("request_count", None, "on transport.agent, use status().request_count"),
        ("name", None, None),
    ],
)
def test_an_attribute_of_a_transport_that_is_none(name: str, setting: str | None, reading: str | None) -> None:
    transport = AgentTransport()
    with pytest.raises(AttributeError) as caught:
        setattr(transport, name, 1)
    nothing = "and setting it would have no effect; a subclass may define its own attributes"
    assert str(caught.value) == names_of(AgentTransport, name) + (f" ({setting})" if setting else f", {nothing}")
    with pytest.raises(AttributeError) as caught:
        getattr(transport, name)
    assert str(caught.value) == names_of(AgentTransport, name) + (f" ({reading})" if reading else "")


def test_python_adds_no_suggestion_of_its_own() -> None:
    with pytest.raises(AttributeError) as caught:
        Agent().max_socket  # type: ignore[attr-defined]  # noqa: B018
    assert "".join(traceback.format_exception(caught.value)).endswith(" (did you mean max_sockets?)\n")


class OwnAgent(Agent):
    """A subclass with attributes of its own."""

    max_socket: int
    limit_per_host = 3

    def __init__(self, **options: Any) -> None:
        self.before = 1
        super().__init__(**options)
        self.name = "own"
        self.limit = 5
        self.max_socket = 7
        self.limit_per_host = 9
        self.max_retries = 2
        self._max_sockets = 11

    @property
    def broken(self) -> object:
        return {}["missing"] if self._max_sockets == 0 else self.nowhere  # type: ignore[attr-defined]


class OwnTransport(AgentTransport):
    """The same of a transport; what is a plain word may mean anything."""

    maxSockets: int = 3
    max_connections: int

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.timeout = 5
        self.retries = 3
        self.limit = 5
        self.base_url = "http://a.test"
        self.requests_seen = 0
        self.maxSockets = 4
        self.max_connections = 8
        self._pool_size = 9


def test_a_subclass_has_attributes_of_its_own() -> None:
    agent = OwnAgent(max_sockets=2)
    values = (agent.before, agent.name, agent.limit, agent.max_socket, agent.limit_per_host, agent.max_retries)
    assert values == (1, "own", 5, 7, 9, 2)
    assert agent.max_sockets == 2
    agent.name = "other"
    agent.colour = "red"  # type: ignore[attr-defined]
    del agent.name
    assert not hasattr(agent, "name")
    transport = OwnTransport()
    seen = (transport.timeout, transport.retries, transport.limit, transport.base_url, transport.maxSockets)
    assert seen == (5, 3, 5, "http://a.test", 4)
    assert transport.max_connections == 8


@pytest.mark.parametrize(
    ("make", "name", "answer"),
    [
        (OwnAgent, "max_free_socket", "did you mean max_free_sockets?"),
        (OwnAgent, "maxSockets", "maxSockets in Node is max_sockets here"),
        (OwnAgent, "max_connections", "max_connections in httpx.Limits is max_total_sockets here"),
        (OwnTransport, "max_sockets", "it belongs to the agent: transport.agent.max_sockets"),
        (OwnTransport, "freeSocketTimeout", "on transport.agent, freeSocketTimeout in agentkeepalive is "),
    ],
)
def test_what_is_all_but_an_option_is_refused_by_a_subclass_too(
    make: Callable[[], object], name: str, answer: str
) -> None:
    with pytest.raises(AttributeError) as caught:
        setattr(make(), name, 1)
    text = str(caught.value)
    assert text.startswith(f"{make.__name__!r} object has no attribute {name!r} ({answer}")
    assert text.endswith("); if it is your own attribute, declare it in the class")


def test_the_error_of_a_property_is_seen() -> None:
    with pytest.raises(AttributeError, match=r"^'OwnAgent' object has no attribute 'nowhere'$"):
        _ = OwnAgent().broken


async def test_what_others_put_on_a_transport(world: World) -> None:
    """Instruments mark it with private names, and mocks replace its methods."""
    network = Network()
    transport = AgentTransport(**network.options)
    transport._is_instrumented_by_opentelemetry = True
    assert transport._is_instrumented_by_opentelemetry is True
    answer = httpx.Response(418)
    method = "handle_request" if world.is_sync else "handle_async_request"
    async with world.client(transport=transport) as client:
        with mock.patch.object(transport, method, return_value=answer) as replaced:
            assert (await client.get("http://a.test/")).status_code == 418
            assert replaced.called
        assert (await client.get("http://a.test/")).status_code == 200
    assert method not in vars(transport)
    assert mock.create_autospec(transport).agent is not None
