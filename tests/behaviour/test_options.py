"""Every option: its default, the values it accepts, the errors for others, and how it is read and set."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import inspect
import math
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentOptions, AgentTransport
from httpx_agent._values.options import LIVE_OPTIONS, ORIGIN_OPTIONS, UNSET, AgentKeywords
from httpx_agent.testing import Gate, Network, Script, respond
from tests.support.worlds import World
from tests.unit.values.options import (
    ACCEPTED,
    CONTEXT,
    DEFAULTS,
    LIBRARY,
    LIMITS,
    NODELAY,
    PROXY,
    REFUSED,
)

URL = "http://a.test/"


def test_the_httptools_engine_can_be_asked_for() -> None:
    assert Agent(http1_engine="httptools").http1_engine == "httptools"


@pytest.mark.parametrize(
    "hindrance",
    [
        {"proxy": "http://a.test"},
        {"http2": True},
        {"http1": False},
        {"network_backend": httpcore.MockBackend([])},
        {"async_network_backend": httpcore.AsyncMockBackend([])},
    ],
    ids=lambda hindrance: next(iter(hindrance)),
)
def test_the_httptools_engine_asked_for_by_name_goes_with_nothing_that_it_cannot_serve(
    hindrance: dict[str, Any],
) -> None:
    name = next(iter(hindrance))
    for make in (Agent, AgentTransport):
        with pytest.raises(ValueError, match=f"^http1_engine='httptools' cannot be combined with {name}: expected"):
            make(http1_engine="httptools", **hindrance)


def test_the_httptools_engine_without_httptools() -> None:
    """By name it is an error that says what to do; otherwise h11 serves."""
    program = """
import sys
sys.modules["httptools"] = None
import httpx_agent, httpx
from httpx_agent._values.origins import Key
agent = httpx_agent.Agent()
wire = agent._dispatcher.factory.wire(Key("http", "a.test", 80, None), None, agent.options)
print(type(agent._dispatcher.factory.sync_connection(Key("http", "a.test", 80, None), wire).inner).__module__)
try:
    httpx_agent.Agent(http1_engine="httptools")
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout.splitlines() == [
        "httpcore",
        "http1_engine='httptools' needs the package 'httptools': pip install \"httpx-agent[fast]\"",
    ]


# Where the arguments stand --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [Agent, AgentTransport])
@pytest.mark.parametrize("theirs", [httpx.HTTPTransport, httpx.AsyncHTTPTransport])
def test_the_arguments_of_httpx_keep_their_places(make: type, theirs: type) -> None:
    def positional(function: Any) -> list[str]:
        parameters = inspect.signature(function).parameters.values()
        return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert positional(make) == positional(theirs)
    assert all(p.default is UNSET for name, p in inspect.signature(make).parameters.items() if name in positional(make))


def test_a_signature_shows_that_an_option_not_given_is_another_thing_than_its_default() -> None:
    assert str(inspect.signature(AgentTransport).parameters["retries"]) == "retries: 'int | Unset' = <default>"


def test_httpx_s_defaults_are_ours() -> None:
    """But for `limits`, whose place the agent's own options take."""
    for name, parameter in inspect.signature(httpx.HTTPTransport).parameters.items():
        assert name == "limits" or DEFAULTS[name] == parameter.default, name


def test_the_agent_s_own_options_are_keyword_only() -> None:
    own = set(DEFAULTS) - set(inspect.signature(httpx.HTTPTransport).parameters)
    assert set(AgentKeywords.__annotations__) == own
    for make in (Agent, AgentTransport):
        with pytest.raises(TypeError, match="positional argument"):
            make(*[True, None, True, True, False, None, None, None, None, 0, None], 5)


def test_positional_arguments() -> None:
    given = (CONTEXT, None, False, True, False, LIMITS, PROXY, "/run/a", "127.0.0.2", 4, [NODELAY])
    names = list(inspect.signature(httpx.HTTPTransport).parameters)
    kept = (*given[:-1], (NODELAY,))
    for agent in (Agent(*given), AgentTransport(*given).agent):
        assert {name: getattr(agent, name) for name in names} == dict(zip(names, kept, strict=True))


# limits ---------------------------------------------------------------------------------------------------------------
def test_limits_are_mapped() -> None:
    limits = httpx.Limits(max_connections=7, max_keepalive_connections=3, keepalive_expiry=9)
    agent = Agent(limits=limits)
    assert (agent.max_total_sockets, agent.max_total_free_sockets, agent.free_socket_timeout) == (7, 3, 9.0)
    assert agent.limits is limits
    assert (agent.max_sockets, agent.max_free_sockets) == (None, 256)


def test_limits_of_none_are_no_limits() -> None:
    agent = Agent(limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None))
    assert (agent.max_total_sockets, agent.max_total_free_sockets, agent.free_socket_timeout) == (None, None, None)


def test_an_option_given_by_name_wins_over_limits() -> None:
    limits = httpx.Limits(max_connections=7, max_keepalive_connections=3, keepalive_expiry=9)
    agent = Agent(limits=limits, max_total_sockets=5, max_total_free_sockets=None, free_socket_timeout=0)
    assert (agent.max_total_sockets, agent.max_total_free_sockets, agent.free_socket_timeout) == (5, None, 0.0)


def test_a_value_of_limits_that_does_not_count_is_not_checked() -> None:
    assert Agent(limits=httpx.Limits(max_connections=0), max_total_sockets=5).max_total_sockets == 5


# agent= ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
def test_agent_goes_with_no_other_option(name: str, default: Any) -> None:
    """Not even with one that is given as its default."""
    with pytest.raises(TypeError) as caught:
        AgentTransport(agent=Agent(), **{name: default})
    assert str(caught.value) == f"agent= cannot be combined with other options (got {name}): pass them to the agent"


def test_all_options_beside_agent_are_named() -> None:
    with pytest.raises(TypeError, match=r"\(got http2, max_sockets\)"):
        AgentTransport(agent=Agent(), max_sockets=5, http2=False)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (5, "int"),
        ("agent", "str"),
        (Agent, "type"),
        (AgentTransport(), f"{AgentTransport.__module__}.AgentTransport"),
        (httpx.HTTPTransport(), f"{LIBRARY}.HTTPTransport"),
    ],
    ids=["int", "str", "class", "transport", "library's transport"],
)
def test_an_agent_of_a_wrong_type(value: Any, kind: str) -> None:
    with pytest.raises(TypeError) as caught:
        AgentTransport(agent=value)
    assert str(caught.value) == f"agent={value!r}: expected an {Agent.__module__}.Agent, got {kind}"


def test_an_agent_may_be_of_a_subclass_and_none_is_none() -> None:
    class Special(Agent):
        pass

    agent = Special()
    assert AgentTransport(agent=agent).agent is agent
    assert AgentTransport(agent=None, max_sockets=3).agent.max_sockets == 3


# Reading and setting --------------------------------------------------------------------------------------------------
def test_the_options_are_frozen() -> None:
    agent = Agent(per_origin={"all://a.test": {"max_sockets": 3}})
    assert isinstance(agent.options, AgentOptions)
    with pytest.raises(dataclasses.FrozenInstanceError):
        agent.options.max_sockets = 5  # type: ignore[misc]
    assert agent.per_origin is not None
    with pytest.raises(TypeError):
        agent.per_origin["all://"] = {}  # type: ignore[index]
    with pytest.raises(TypeError):
        agent.per_origin["all://a.test"]["max_sockets"] = 5  # type: ignore[index]


@pytest.mark.rule("A10")
def test_what_was_given_is_left_as_it_was_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """A10: agentkeepalive changes the caller's options, and prints lines on stdout."""
    options: dict[str, Any] = {
        "timeout": timedelta(seconds=5),
        "limits": httpx.Limits(max_connections=5, keepalive_expiry=None),
        "socket_options": [(6, 1, 1)],
        "per_origin": {"http://a.test": {"max_sockets": math.inf, "free_socket_timeout": timedelta(0)}},
    }
    before = copy.deepcopy(options)
    agent = Agent(**options)
    agent.max_sockets = 7
    assert options == before
    assert agent.status().sockets == {}
    assert capfd.readouterr() == ("", "")


def test_what_the_user_changes_later_in_his_mapping_is_not_seen() -> None:
    changes = {"max_sockets": 3}
    per_origin = {"all://a.test": changes}
    agent = Agent(per_origin=per_origin)
    changes["max_sockets"] = 5
    per_origin["all://"] = {}
    assert agent.per_origin == {"all://a.test": {"max_sockets": 3}}


@pytest.mark.parametrize("name", sorted(set(DEFAULTS) - LIVE_OPTIONS))
def test_most_options_are_fixed(name: str) -> None:
    agent = Agent()
    with pytest.raises(AttributeError) as caught:
        setattr(agent, name, DEFAULTS[name])
    assert str(caught.value) == (
        f"{name} cannot be changed after the agent is made; these can: "
        "max_free_sockets, max_sockets, max_total_sockets, scheduling"
    )


@pytest.mark.parametrize(
    ("name", "value", "exception", "message"), [case for case in REFUSED if case[0] in LIVE_OPTIONS]
)
def test_setting_checks_as_making_does(name: str, value: Any, exception: type[Exception], message: str) -> None:
    agent = Agent()
    with pytest.raises(exception) as caught:
        setattr(agent, name, value)
    assert message in str(caught.value)
    assert getattr(agent, name) == DEFAULTS[name]


@pytest.mark.parametrize(
    ("name", "given", "kept"), [(name, *case) for name in sorted(LIVE_OPTIONS) for case in ACCEPTED[name]]
)
def test_what_may_be_set(name: str, given: Any, kept: object) -> None:
    agent = Agent()
    before = agent.options
    setattr(agent, name, given)
    assert getattr(agent, name) == kept
    assert agent.options == dataclasses.replace(before, **{name: kept})
    assert getattr(before, name) == DEFAULTS[name]


@pytest.mark.rule("R5", "N5")
@pytest.mark.parametrize("name", ["max_sockets", "max_total_sockets"])
@pytest.mark.parametrize(("limit", "served"), [(3, 3), (None, 4)])
async def test_raising_a_limit_serves_the_waiting_requests_at_once(
    world: World, name: str, limit: int | None, served: int
) -> None:
    """N5: as many as now may go, from any thread, with no other request needed."""
    gate = Gate()
    network = Network(default=Script(then=[gate, respond()]))
    agent = Agent(**{name: 1}, **network.options)  # type: ignore[arg-type]
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        for _ in range(4):
            tasks.start(client.get, URL)
        await world.until(lambda: agent.status().requests == {"http://a.test:80": 3})
        await world.until(lambda: network.request_count == 1)
        assert network.open == 1
        setattr(agent, name, limit)
        await world.until(lambda: network.request_count == served)
        assert network.open == served
        assert sum(agent.status().requests.values()) == 4 - served
        gate.open()
    assert agent.status().request_count == 4
    await world.close(agent)


@pytest.mark.rule("R12")
async def test_lowering_a_limit_closes_nothing_in_use_and_holds_from_then_on(world: World) -> None:
    """What comes free above the limit is closed (R12)."""
    network = Network(default=Script(then=respond(b"x" * 70_000)))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with (
            client.stream("GET", URL) as one,
            client.stream("GET", URL) as two,
            client.stream("GET", URL) as three,
        ):
            agent.max_sockets = 1
            assert network.open == 3
            for response, left in ((one, 2), (two, 1), (three, 1)):
                await response.aread()
                assert network.open == left
        assert agent.status().free_sockets == {"http://a.test:80": 1}
    await world.close(agent)


async def test_setting_the_free_list_and_its_order(world: World) -> None:
    """`max_free_sockets` and `scheduling` hold for the next socket that comes free, and the next choice."""
    network = Network()
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL) as first, client.stream("GET", URL) as second:
            await second.aread()
            await first.aread()
        assert (await client.get(URL)).extensions["agent"].socket_id == 0
        agent.scheduling = "fifo"
        assert (await client.get(URL)).extensions["agent"].socket_id == 1
        agent.max_free_sockets = 0
        await client.get(URL)
        assert network.open == 1
    await world.close(agent)


# When construction fails ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{"max_sockets": 0}, {"nonsense": 1}, {"verify": 5}, {"proxy": "ftp://a.test"}])
def test_nothing_is_left_of_an_agent_that_could_not_be_made(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread is started and no socket made; nor are they for an agent that could."""
    made: list[object] = []
    monkeypatch.setattr(threading.Thread, "start", made.append)
    monkeypatch.setattr(socket, "socket", lambda *args, **kwargs: made.append(args))
    monkeypatch.setattr(socket, "socketpair", lambda *args, **kwargs: made.append(args))
    for make in (Agent, AgentTransport):
        with pytest.raises((TypeError, ValueError)):
            make(**options)
        make()
    assert made == []


def test_http2_needs_h2(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "h2")
    with pytest.raises(ImportError) as caught:
        AgentTransport(http2=True)
    assert str(caught.value) == "http2=True needs the package 'h2': pip install \"httpx-agent[http2]\""
    assert AgentTransport(http2=False).agent.http2 is False


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy_needs_socksio(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    hide(monkeypatch, "socksio")
    for proxy in (f"{scheme}://proxy.test", httpx.Proxy(f"{scheme}://proxy.test")):
        with pytest.raises(ImportError) as caught:
            AgentTransport(proxy=proxy)
        assert (
            str(caught.value) == "proxy: a SOCKS proxy needs the package 'socksio': pip install \"httpx-agent[socks]\""
        )
    assert AgentTransport(proxy="http://proxy.test").agent.proxy.url.host == "proxy.test"


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package look as if it were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else find(name, *more))
    monkeypatch.setitem(sys.modules, package, None)


def test_the_names_of_the_options_that_may_differ_are_options() -> None:
    assert set(DEFAULTS) > ORIGIN_OPTIONS
    assert set(DEFAULTS) > LIVE_OPTIONS


def test_a_backend_of_httpcore_is_accepted() -> None:
    agent = Agent(network_backend=httpcore.SyncBackend(), async_network_backend=httpcore.AnyIOBackend())
    assert isinstance(agent.network_backend, httpcore.SyncBackend)
    assert isinstance(agent.async_network_backend, httpcore.AnyIOBackend)


@pytest.mark.parametrize(
    ("name", "value"), [("network_backend", httpcore.AnyIOBackend()), ("async_network_backend", httpcore.SyncBackend())]
)
def test_a_backend_of_the_other_world_is_refused(name: str, value: Any) -> None:
    """It would fail at its first use, with an error that tells nothing of the option."""
    with pytest.raises(TypeError, match=rf"^{name}=.*: expected an httpcore2?\.(Async)?NetworkBackend or None, got "):
        Agent(**{name: value})
    assert Agent(network_backend=Connects()).network_backend is not None


class Connects:
    """A backend of nobody's kind."""

    connect_tcp = print
