"""`per_origin`: which pattern holds for which origin, and what each option does there."""

from __future__ import annotations

from typing import Any

import httpcore
import httpx
import pytest
from httpx._utils import URLPattern

from httpx_agent import Agent, AgentOptions, AgentTransport
from httpx_agent._options import ORIGIN_OPTIONS
from httpx_agent._patterns import OriginPattern
from httpx_agent.testing import Gate, Network, Script, VirtualClock, respond
from tests.support.worlds import World

#: Patterns of httpx's `mounts`, from its documentation and beyond.
PATTERNS = [
    "all://",
    "all://*",
    "http://",
    "https://",
    "http://*",
    "ws://",
    "all://a.test",
    "https://a.test",
    "HTTP://A.Test",
    "all://*.a.test",
    "all://*a.test",
    "https://*a.test:8443",
    "all://*:8080",
    "all://:8080",
    "http://a.test:8080",
    "http://a.test:80",
    "https://a.test:443",
    "https://a.test:80",
    "ws://a.test:80",
    "wss://a.test:443",
    "all://a.test:8443",
    "http://a.test/",
    "all://[::1]",
    "http://[::1]:8080",
    "all://127.0.0.1",
    "all://bücher.test",
    "all://faß.test",
    "all://xn--bcher-kva.test",
    "all://sub.a.test",
    "all://*.sub.a.test",
]

URLS = [
    "http://a.test",
    "https://a.test",
    "ws://a.test",
    "wss://a.test",
    "ws://a.test:8080",
    "http://a.test:8080",
    "https://a.test:8443",
    "https://a.test:80",
    "http://sub.a.test",
    "https://sub.a.test:8443",
    "http://deep.sub.a.test",
    "http://aa.test",
    "http://axtest",
    "http://sub.axtest",
    "http://sub.a.test.b.test",
    "http://b.test:8080",
    "http://[::1]",
    "http://[::1]:8080",
    "http://127.0.0.1",
    "http://127.0.0.10",
    "http://bücher.test",
    "http://xn--bcher-kva.test",
    "http://faß.test",
    "http://fass.test",
]

USUAL = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def is_ours_to_match(pattern: str, url: str) -> bool:
    """Whether our pattern means the origin of a URL, as a request names it."""
    parsed = httpx.URL(url)
    port = parsed.port or USUAL[parsed.scheme]
    return OriginPattern(pattern).matches(parsed.scheme, parsed.raw_host.decode("ascii"), port)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_mean_what_they_mean_in_mounts(pattern: str) -> None:
    theirs = URLPattern(pattern)
    expected = {url: theirs.matches(httpx.URL(url)) for url in URLS}
    # httpx compares a name with what the user sees of it, so that one in ASCII's clothes is never met.
    if pattern == "all://xn--bcher-kva.test":
        expected.update({"http://bücher.test": True, "http://xn--bcher-kva.test": True})
    assert {url: is_ours_to_match(pattern, url) for url in URLS} == expected


def test_every_url_is_met_by_some_pattern_and_none_by_all() -> None:
    """The tables above tell patterns apart."""
    met = {pattern: tuple(is_ours_to_match(pattern, url) for url in URLS) for pattern in PATTERNS}
    assert all(any(row) for row in met.values())
    assert len(set(met.values())) > 20


def test_a_port_is_a_port_under_any_scheme() -> None:
    """In httpx the usual port of a URL is hidden: `all://a.test:80` meets nothing there; here it means port 80."""
    assert not URLPattern("all://a.test:80").matches(httpx.URL("http://a.test"))
    assert is_ours_to_match("all://a.test:80", "http://a.test")
    assert is_ours_to_match("all://a.test:80", "https://a.test:80")
    assert not is_ours_to_match("all://a.test:80", "https://a.test")


def test_a_star_may_stand_before_a_name_beyond_ascii() -> None:
    assert is_ours_to_match("all://*.bücher.test", "http://www.bücher.test")
    assert not is_ours_to_match("all://*.bücher.test", "http://bücher.test")
    assert is_ours_to_match("all://*bücher.test", "http://bücher.test")


def test_the_most_specific_pattern_comes_first() -> None:
    """A port, then the longest host, then the longest scheme; in httpx's own order."""
    ordered = [
        "https://sub.a.test:8443",
        "all://*a.test:8443",
        "all://:8443",
        "https://sub.a.test",
        "http://sub.a.test",
        "all://sub.a.test",
        "https://*.a.test",
        "all://*.a.test",
        "https://",
        "all://",
    ]
    shuffled = sorted(ordered)
    assert shuffled != ordered
    assert sorted(shuffled, key=lambda text: OriginPattern(text).priority) == ordered
    assert sorted(shuffled, key=lambda text: URLPattern(text).priority) == ordered


def test_the_order_of_the_mapping_does_not_matter() -> None:
    """The most specific pattern that matches counts, alone: nothing is taken over from the others."""
    patterns: dict[str, dict[str, Any]] = {
        "all://": {"max_sockets": 1},
        "all://*.a.test": {"max_sockets": 2},
        "all://sub.a.test": {"max_free_sockets": 3},
        "all://:8443": {"max_sockets": 4},
    }
    for items in (list(patterns.items()), list(patterns.items())[::-1]):
        agent = Agent(per_origin=dict(items))
        found = {}
        for url in ("http://b.test", "http://www.a.test", "http://sub.a.test", "https://sub.a.test:8443"):
            options = agent._engine.options_for(agent._engine.key_of(httpcore_request(url)))
            found[url] = (options.max_sockets, options.max_free_sockets)
        assert list(found.values()) == [(1, 256), (2, 256), (None, 3), (4, 256)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.test",
        "http",
        "http:a.test",
        "://a.test",
        "//a.test",
        "http://a.test:port",
        "http://a.test:99999",
        "http://[::1",
        "http://a test",
        "http://a.*.test",
        "http://**.a.test",
        "http://*.",
        "http://.a.test",
        "http://bü..test",
    ],
)
def test_what_is_no_pattern(text: str) -> None:
    accepted = "accepted is a URL pattern such as 'https://example.com', 'all://*.example.com' or 'http://'"
    with pytest.raises(ValueError, match="accepted is") as caught:
        Agent(per_origin={text: {}})
    assert str(caught.value) == f"per_origin: {text!r}: {accepted}"


@pytest.mark.parametrize(
    "text",
    ["http://a.test/path", "http://a.test?query", "http://a.test/#part", "http://user@a.test", "http://:p@a.test"],
)
def test_a_pattern_names_an_origin_and_no_more(text: str) -> None:
    with pytest.raises(ValueError, match=r"; a path, a query or a user is no part of an origin$"):
        Agent(per_origin={text: {}})


@pytest.mark.parametrize(
    "name",
    sorted(set(AgentOptions.__dataclass_fields__) - ORIGIN_OPTIONS),
)
def test_what_may_not_differ(name: str) -> None:
    value = getattr(Agent(), name)
    with pytest.raises(TypeError, match=f"'{name}' cannot differ between origins"):
        Agent(per_origin={"all://": {name: value}})


def test_all_that_may_differ() -> None:
    """The origin's value, and the agent's where the pattern says nothing or does not match."""
    changes: dict[str, Any] = {
        "max_sockets": 2,
        "max_free_sockets": 1,
        "scheduling": "fifo",
        "keep_alive": False,
        "keep_alive_initial_delay": 7.0,
        "keep_alive_timeout_buffer": 3.0,
        "timeout": 8.0,
        "free_socket_timeout": 4.0,
        "socket_active_ttl": 9.0,
    }
    assert set(changes) == ORIGIN_OPTIONS
    agent = Agent(per_origin={"all://a.test": changes, "all://": {"timeout": 5}}, max_sockets=11)
    key = agent._engine.key_of(httpcore_request("http://a.test"))
    options = agent._engine.options_for(key)
    assert {name: getattr(options, name) for name in changes} == changes
    assert options.max_total_sockets is agent.max_total_sockets
    other = agent._engine.options_for(agent._engine.key_of(httpcore_request("http://b.test")))
    assert (other.timeout, other.max_sockets, other.scheduling) == (5.0, 11, "lifo")
    assert agent.timeout == 30.0


def httpcore_request(url: str) -> Any:
    return httpcore.Request("GET", url)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["max_socket"], "no such option: 'max_socket' (did you mean max_sockets?)"),
        (["maxSockets"], "no such option: 'maxSockets' (maxSockets of Node is max_sockets here)"),
        (
            ["keepalive_expiry", "schedulling"],
            (
                "no such option: 'keepalive_expiry' (keepalive_expiry of httpx.Limits is free_socket_timeout here), "
                "'schedulling' (did you mean scheduling?)"
            ),
        ),
        (["max_total_sockets", "nonsense"], "no such option: 'nonsense'; there are: free_socket_timeout, keep_alive, "),
        ([5], "no such option: 5; there are: free_socket_timeout, keep_alive, "),
    ],
)
def test_what_is_no_option(names: list[Any], message: str) -> None:
    """A typo is called a typo, and not an option that may not differ."""
    with pytest.raises(TypeError) as caught:
        Agent(per_origin={"all://": dict.fromkeys(names, 1)})
    assert str(caught.value).startswith(f"per_origin['all://']: {message}")


# What each of them does -----------------------------------------------------------------------------------------------

A, B = "http://a.test/", "http://b.test/"


def of_a(**changes: Any) -> dict[str, Any]:
    """Options that differ at one origin."""
    return {"per_origin": {"http://a.test": changes}}


@pytest.mark.rule("R4")
async def test_max_sockets(world: World) -> None:
    gate = Gate()
    network = Network(default=Script(then=[gate, respond()]))
    agent = Agent(**of_a(max_sockets=1), max_sockets=2, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        for url in (A, A, A, B, B, B):
            tasks.start(client.get, url)
        await world.until(lambda: network.request_count == 3)
        await world.until(lambda: agent.status().requests == {"http://a.test:80": 2, "http://b.test:80": 1})
        assert agent.status().sockets == {"http://a.test:80": 1, "http://b.test:80": 2}
        gate.open()
    assert network.peaks == {("a.test", 80): 1, ("b.test", 80): 2}
    await world.close(agent)


async def test_max_sockets_of_none_lifts_the_limit(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(max_sockets=None), max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", A), client.stream("GET", A), client.stream("GET", A):
            assert agent.status().sockets == {"http://a.test:80": 3}
    await world.close(agent)


async def use_two_sockets(client: Any, url: str) -> None:
    """Leaves two sockets free, number 0 of the origin used last."""
    async with client.stream("GET", url) as first, client.stream("GET", url) as second:
        await second.aread()
        await first.aread()


async def test_max_free_sockets(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(max_free_sockets=1), **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await use_two_sockets(client, A)
        await use_two_sockets(client, B)
        assert agent.status().free_sockets == {"http://a.test:80": 1, "http://b.test:80": 2}
    await world.close(agent)


@pytest.mark.rule("R2")
async def test_scheduling(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(scheduling="fifo"), **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await use_two_sockets(client, A)
        await use_two_sockets(client, B)
        assert (await client.get(A)).extensions["agent"].socket_id == 1
        assert (await client.get(B)).extensions["agent"].socket_id == 2
    await world.close(agent)


async def test_keep_alive(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(keep_alive=False), **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(A)
        await client.get(B)
    assert b"\r\nConnection: close\r\n" in network.connections[0].heads[0]
    assert b"\r\nConnection: keep-alive\r\n" in network.connections[1].heads[0]
    assert agent.status().free_sockets == {"http://b.test:80": 1}
    await world.close(agent)


async def test_keep_alive_initial_delay(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(keep_alive_initial_delay=None), **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(A)
        await client.get(B)
    counts = [len(tuple(op.details["socket_options"])) for op in network.ops if op.name == "connect"]
    assert counts == [0, 2]
    await world.close(agent)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"keep_alive_timeout_buffer": 4}, 6.0),
        ({"free_socket_timeout": 3}, 3.0),
        ({"free_socket_timeout": None}, 9.0),
        ({"socket_active_ttl": 5}, 5.0),
    ],
    ids=str,
)
async def test_times(world: World, changes: dict[str, Any], expected: float) -> None:
    """What is left of a free socket whose server said `timeout=10`."""
    network = Network(default=Script(then=respond(headers=[("Keep-Alive", "timeout=10")])))
    agent = VirtualClock().agent(**of_a(**changes), **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(A)
        await client.get(B)
        assert [(info.origin, info.expires_in) for info in agent.sockets()] == [
            ("http://a.test:80", expected),
            ("http://b.test:80", 9.0),
        ]
    await world.close(agent)


async def test_timeout(world: World) -> None:
    """Where the request says nothing."""
    network = Network()
    agent = Agent(**of_a(timeout=7), **network.options)
    transport = AgentTransport(agent=agent)
    for url in (A, B):
        response = await world.handle(transport, httpx.Request("GET", url))
        await response.aread()
    assert [op.details["timeout"] for op in network.ops if op.name == "connect"] == [7.0, 30.0]
    await world.close(agent)


async def test_a_timeout_given_for_an_origin_acts_where_the_request_says_none(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(timeout=7), **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
        await client.get(A)
        await client.get(B)
    await world.close(agent)
    assert [op.details["timeout"] for op in network.ops if op.name == "connect"] == [7.0, None]


async def test_live_options_of_the_agent_leave_those_of_an_origin_alone(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(max_sockets=2), **network.options)
    agent.max_sockets = 1
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", A), client.stream("GET", A), client.stream("GET", B):
            assert agent.status().sockets == {"http://a.test:80": 2, "http://b.test:80": 1}
            with pytest.raises(httpx.PoolTimeout):
                await client.get(B, timeout=httpx.Timeout(1, pool=0.001))
    await world.close(agent)
