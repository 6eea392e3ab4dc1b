"""Names that are no option: a typo, another library's word, or an attribute in the wrong place."""

from __future__ import annotations

from typing import Any
from unittest import mock

import httpx
import httpx2
import pytest

import httpx_agent.httpx2
from httpx_agent import Agent, AgentTransport
from httpx_agent._names import advise
from httpx_agent._options import ORIGIN_OPTIONS, AgentOptions

OPTIONS = AgentOptions.__dataclass_fields__


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("max_socket", "did you mean max_sockets?"),
        ("free_socket_timout", "did you mean free_socket_timeout?"),
        ("schedulling", "did you mean scheduling?"),
        # Node and agentkeepalive
        ("maxSockets", "it is max_sockets here"),
        ("MaxTotalSockets", "it is max_total_sockets here"),
        ("keepAlive", "it is keep_alive here"),
        ("freeSocketTimeout", "it is free_socket_timeout here (in seconds, where the other has milliseconds)"),
        ("socketActiveTTL", "it is socket_active_ttl here (in seconds, where the other has milliseconds)"),
        ("keepAliveMsecs", "it is keep_alive_initial_delay here (in seconds, where the other has milliseconds)"),
        ("servername", 'it is the extension of a request: `extensions={"sni_hostname": …}`'),
        # httpx.Limits
        ("max_connections", "it is max_total_sockets here"),
        ("max_keepalive_connections", "it is max_total_free_sockets here"),
        ("keepalive_expiry", "it is free_socket_timeout here"),
        # aiohttp, urllib3, undici, Go
        ("limit_per_host", "it is max_sockets here (0 means no limit there, None here)"),
        ("pool_maxsize", "it is max_free_sockets here (with pool_block=True it is max_sockets)"),
        ("pipelining", "requests are never pipelined"),
        ("MaxConnsPerHost", "it is max_sockets here"),
        ("zebra", ""),
    ],
)
def test_what_is_meant(name: str, advice: str) -> None:
    assert advise(name, OPTIONS) == advice


@pytest.mark.parametrize("kind", [Agent, AgentTransport, httpx_agent.httpx2.Agent, httpx_agent.httpx2.AgentTransport])
def test_unknown_arguments_are_all_named(kind: Any) -> None:
    with pytest.raises(TypeError) as caught:
        kind(maxSockets=1, max_socket=1, zebra=1, max_free_sockets=1)
    first, second, third = str(caught.value).split("; there are: ")[0].split("; '")
    assert first == "'maxSockets' is not an option; it is max_sockets here"
    assert second == "max_socket' is not an option; did you mean max_sockets?"
    assert third == "zebra' is not an option"
    assert "max_total_sockets, " in str(caught.value)


def test_a_typo_in_per_origin_is_called_one() -> None:
    with pytest.raises(
        TypeError, match=r"per_origin\['all://'\]: 'max_socket' is not an option; did you mean max_sockets"
    ):
        Agent(per_origin={"all://": {"max_socket": 1}})
    with pytest.raises(TypeError, match=r"'maxSockets' is not an option; it is max_sockets here"):
        Agent(per_origin={"all://": {"maxSockets": 1}})
    with pytest.raises(TypeError, match=r"'zebra' is not an option; accepted: free_socket_timeout, keep_alive, "):
        Agent(per_origin={"all://": {"zebra": 1}})
    with pytest.raises(TypeError, match=r"'http2' cannot differ between origins; accepted: "):
        Agent(per_origin={"all://": {"http2": True}})
    assert advise("max_total_socket", ORIGIN_OPTIONS) == "did you mean max_sockets?"  # and not one that is refused


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("max_socket", "'Agent' object has no attribute 'max_socket'; did you mean max_sockets?"),
        ("maxSockets", "'Agent' object has no attribute 'maxSockets'; it is max_sockets here"),
        ("zebra", "'Agent' object has no attribute 'zebra'"),
    ],
)
def test_an_attribute_of_an_agent_that_does_nothing(name: str, message: str) -> None:
    agent: Any = Agent()
    with pytest.raises(AttributeError) as caught:
        setattr(agent, name, 1)
    assert str(caught.value) == message
    with pytest.raises(AttributeError) as caught:
        getattr(agent, name)
    assert str(caught.value) == message
    assert not hasattr(agent, name)


def test_an_option_is_not_an_attribute_of_the_transport() -> None:
    transport: Any = AgentTransport()
    message = "'AgentTransport' object has no attribute 'max_sockets'; "
    message += "options are the agent's: write transport.agent.max_sockets"
    with pytest.raises(AttributeError) as caught:
        transport.max_sockets = 1
    assert str(caught.value) == message
    with pytest.raises(AttributeError) as caught:
        _ = transport.max_sockets
    assert str(caught.value) == message
    with pytest.raises(AttributeError, match="did you mean max_sockets"):
        transport.max_socket = 1


def test_what_others_put_on_a_transport_stays_possible() -> None:
    """Instrumentation marks it, and tests replace its methods."""
    transport: Any = AgentTransport()
    transport._is_instrumented_by_opentelemetry = True
    with mock.patch.object(transport, "handle_request", return_value=httpx.Response(418)):
        with httpx.Client(transport=transport) as client:
            assert client.get("http://a.test/").status_code == 418
    assert "handle_request" not in vars(transport)
    with pytest.raises(AttributeError, match=r"'_zebra'$"):
        _ = transport._zebra


def test_a_subclass_may_have_attributes_of_its_own() -> None:
    """Unless nothing but an option can be meant."""

    class Mine(Agent):
        region = "eu"

        def __init__(self) -> None:
            super().__init__()
            self.name = "mine"
            self.key = "short names may mean anything"

    class MineToo(AgentTransport):
        pass

    for made in (Mine(), MineToo()):
        thing: Any = made
        thing.anything = 1
        thing.anything = 2
        assert thing.anything == 2
        for name in ("max_socket", "maxSockets", "keepalive_expiry"):
            with pytest.raises(AttributeError, match="has no attribute"):
                setattr(thing, name, 1)
    assert Mine().region == "eu"
    assert httpx2.__name__ == "httpx2"
