"""`AgentTransport.mounts_from_env`: the proxies from the environment, which httpx ignores if `transport=` is given."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._values.options import UNSET
from tests.support.servers import Proxy, Server
from tests.support.worlds import World


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


PROXY = "http://proxy.test:3128"

ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"http_proxy": PROXY},
    {"HTTP_PROXY": PROXY},
    {"HTTPS_PROXY": PROXY},
    {"ALL_PROXY": PROXY},
    {"all_proxy": "socks5://proxy.test:1080"},
    {"http_proxy": "proxy.test:3128"},
    {"http_proxy": ""},
    {"http_proxy": PROXY, "HTTPS_PROXY": "http://other.test:3128", "all_proxy": "https://third.test"},
    {"http_proxy": "http://small.test", "HTTP_PROXY": "http://capital.test"},
    {"ftp_proxy": PROXY, "TRAVIS_APT_PROXY": PROXY},
    {"no_proxy": "example.com"},
    {"no_proxy": "*"},
    {"all_proxy": PROXY, "no_proxy": "*"},
    {"all_proxy": PROXY, "no_proxy": "example.com, *"},
    {"all_proxy": PROXY, "no_proxy": ""},
    {"all_proxy": PROXY, "no_proxy": ", ,"},
    {"all_proxy": PROXY, "NO_PROXY": "example.com"},
    {"all_proxy": PROXY, "no_proxy": ".example.com"},
    {"all_proxy": PROXY, "no_proxy": "example.com:8080"},
    {"all_proxy": PROXY, "no_proxy": "http://example.com"},
    {"all_proxy": PROXY, "no_proxy": "https://example.com:8443,http://"},
    {"all_proxy": PROXY, "no_proxy": "localhost"},
    {"all_proxy": PROXY, "no_proxy": "LOCALHOST"},
    {"all_proxy": PROXY, "no_proxy": "127.0.0.1"},
    {"all_proxy": PROXY, "no_proxy": "127.0.0.1:8080"},
    {"all_proxy": PROXY, "no_proxy": "::1"},
    {"all_proxy": PROXY, "no_proxy": "192.168.0.0/16"},
    {"all_proxy": PROXY, "no_proxy": "a.test,  b.test ,localhost,10.0.0.1,::1,.c.test"},
]


@pytest.mark.parametrize(
    "environment", ENVIRONMENTS, ids=lambda environment: " ".join(map("=".join, environment.items()))
)
def test_the_mounts_are_those_that_httpx_makes(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same patterns, the same proxies behind them, and `None` for the same ones."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    mounts = AgentTransport.mounts_from_env()
    with httpx.Client() as theirs, httpx.Client(transport=AgentTransport(), mounts=mounts) as ours:
        assert [pattern.pattern for pattern in ours._mounts] == [pattern.pattern for pattern in theirs._mounts]
        for (pattern, own), other in zip(ours._mounts.items(), theirs._mounts.values(), strict=True):
            assert (own is None) is (other is None), pattern.pattern
            if isinstance(own, AgentTransport):
                url = other._pool._proxy_url  # type: ignore[union-attr]
                assert own.agent.proxy.raw_auth is None
                assert (own.agent.proxy.url.raw_scheme, own.agent.proxy.url.raw_host) == (url.scheme, url.host)
                assert own.agent.proxy.url.port == url.port


@pytest.mark.parametrize(
    ("entry", "pattern", "url"),
    [
        ("*.example.com", "all://*.example.com", "http://www.example.com"),
        ("bücher.test", "all://xn--bcher-kva.test", "http://bücher.test"),
        ("xn--bcher-kva.test", "all://xn--bcher-kva.test", "http://xn--bcher-kva.test"),
        ("[::1]", "all://[::1]", "http://[::1]"),
        ("fe80::/10", "all://[fe80::]", "http://[fe80::]"),
    ],
)
def test_what_httpx_or_httpx2_stumbles_over(
    entry: str, pattern: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One or the other refuses its own pattern for these, or makes one that no URL matches; ours can be used."""
    monkeypatch.setenv("all_proxy", PROXY)
    monkeypatch.setenv("no_proxy", entry)

    mounts = AgentTransport.mounts_from_env()

    assert list(mounts) == ["all://", pattern]
    assert mounts[pattern] is None
    transport = AgentTransport()
    with httpx.Client(transport=transport, mounts=mounts) as client:
        assert client._transport_for_url(httpx.URL(url)) is transport
        assert client._transport_for_url(httpx.URL("http://other.test")) is mounts["all://"]


def test_a_name_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "a.test, bü..cher")
    with pytest.raises(ValueError, match=r"^no_proxy: 'bü\.\.cher' is not a valid host name: "):
        AgentTransport.mounts_from_env()


def test_each_proxy_has_one_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own limits, and the options that were given; the user of the proxy goes with it."""
    monkeypatch.setenv("http_proxy", "http://user:secret@one.test")
    monkeypatch.setenv("https_proxy", "http://user:secret@one.test")
    monkeypatch.setenv("all_proxy", "http://two.test")
    monkeypatch.setenv("no_proxy", "localhost")

    mounts = AgentTransport.mounts_from_env(max_total_sockets=7, scheduling="fifo", verify=False)

    assert list(mounts) == ["http://", "https://", "all://", "all://localhost"]
    first, second, third, direct = mounts.values()
    assert direct is None
    assert first is not None
    assert second is not None
    assert third is not None
    assert first is not second  # what wraps each transport of a client would wrap it twice
    assert first.agent is second.agent
    assert first.agent is not third.agent
    assert [transport._pool._owns_agent for transport in (first, second, third)] == [True, False, True]  # type: ignore[attr-defined]
    for transport in (first, third):
        options = transport.agent.options
        assert (options.max_total_sockets, options.scheduling, options.verify) == (7, "fifo", False)
    assert first.agent.proxy.raw_auth == (b"user", b"secret")


def test_what_gives_its_values_once_reaches_every_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://one.test")
    monkeypatch.setenv("https_proxy", "http://two.test")
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    mounts = AgentTransport.mounts_from_env(socket_options=iter(options), timeout=UNSET)
    for transport in mounts.values():
        assert transport is not None
        assert transport.agent.socket_options == tuple(options)


def test_a_subclass_gives_its_own_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Special(AgentTransport):
        pass

    monkeypatch.setenv("http_proxy", PROXY)
    assert type(Special.mounts_from_env()["http://"]) is Special


@pytest.mark.parametrize(("name", "value"), [("proxy", PROXY), ("proxy", None), ("agent", Agent())])
def test_neither_an_agent_nor_a_proxy_can_be_given(name: str, value: object) -> None:
    """Whatever the environment says."""
    with pytest.raises(TypeError) as caught:
        AgentTransport.mounts_from_env(**{name: value})
    assert str(caught.value) == f"{name}= is not allowed: each proxy from the environment has its own agent"


def test_what_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "gopher://proxy.test")
    with pytest.raises(ValueError, match=r"^http_proxy with scheme 'gopher' and host 'proxy.test': expected"):
        AgentTransport.mounts_from_env()
    monkeypatch.setenv("http_proxy", "http://user:sec/ret@proxy.test")
    with pytest.raises(ValueError, match=r"^http_proxy: not a valid URL; expected"):
        AgentTransport.mounts_from_env()
    monkeypatch.setenv("http_proxy", PROXY)
    with pytest.raises(ValueError, match="max_sockets=0"):
        AgentTransport.mounts_from_env(max_sockets=0)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as running:
        yield running


async def test_requests_go_the_way_that_the_environment_says(
    world: World, server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the proxy, but for the exception; each agent knows its own, and the client closes both."""
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "localhost")
    mounts = AgentTransport.mounts_from_env()
    transport = AgentTransport()
    through = mounts["http://"]
    assert through is not None

    async with world.client(transport=transport, mounts=mounts) as client:
        await client.get(server.url)
        assert proxy.accepted == 1
        assert through.agent.status().request_count == 1
        await client.get(f"http://localhost:{server.port}/")
        assert proxy.accepted == 1
        assert transport.agent.status().request_count == 1

    for agent in (through.agent, transport.agent):
        assert agent.sockets() == ()
