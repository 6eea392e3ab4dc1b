"""The name requested from a TLS server, and which requests share its sockets (R27, N24)."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import Network, Script
from tests.bugs.stock import Stack
from tests.support.servers import Certificates, Proxy, Server, Socks
from tests.support.worlds import World

CONTEXT = ssl.create_default_context()


@pytest.fixture(autouse=True)
def _absolute_names_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every system knows `localhost.`, which it is to be asked for."""
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        return look_up("localhost" if host in ("localhost.", b"localhost.") else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.rule("R28")
@pytest.mark.parametrize(
    ("host", "arguments", "name", "host_header"),
    [
        ("localhost", {}, "localhost", "localhost:{port}"),
        ("127.0.0.1", {}, None, "127.0.0.1:{port}"),
        ("localhost", {"extensions": {"sni_hostname": "name.example"}}, "name.example", "localhost:{port}"),
        ("127.0.0.1", {"extensions": {"sni_hostname": "name.example"}}, "name.example", "127.0.0.1:{port}"),
        ("localhost.", {}, "localhost", "localhost.:{port}"),
        ("localhost.", {"extensions": {"sni_hostname": "name.example"}}, "name.example", "localhost.:{port}"),
        ("localhost", {"headers": {"Host": "name.example"}}, "localhost", "name.example"),
        ("127.0.0.1", {"headers": {"Host": "name.example"}}, None, "name.example"),
    ],
    ids=[
        "a name",
        "an address",
        "sni_hostname",
        "sni_hostname over an address",
        "an absolute name",
        "sni_hostname over an absolute name",
        "Host",
        "Host over an address",
    ],
)
async def test_the_name_that_the_server_is_asked_for(
    world: World,
    tls_server: Server,
    certificates: Certificates,
    engine: str,
    host: str,
    arguments: dict[str, Any],
    name: str | None,
    host_header: str,
) -> None:
    """R28: the URL's host, none for an address, or `sni_hostname`. In Node the Host header decides; here it does not,
    as nowhere in httpx: it is sent, and that is all.
    """
    agent = Agent(verify=certificates.client(), http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        response = await client.get(f"https://{host}:{tls_server.port}/echo", **arguments)
        assert response.status_code == 200
    assert tls_server.server_names == [name]
    assert tls_server.requests[0].get_all("host") == [host_header.format(port=tls_server.port)]
    await world.close(agent)


@pytest.mark.rule("R28")
@pytest.mark.parametrize("way", ["http", "https", "socks5"])
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
async def test_an_absolute_name_through_a_proxy(
    world: World, certificates: Certificates, way: str, http2: bool
) -> None:
    """The dot is for whoever looks the name up, and for `Host`; it is neither in SNI nor in a certificate."""
    proxies: dict[str, Any] = {"http": Proxy, "https": lambda: Proxy(tls=certificates.server()), "socks5": Socks}
    context = certificates.client() if way == "https" else None
    server = Server(tls=certificates.server(alpn=["h2", "http/1.1"]))
    with server, proxies[way]() as proxy:
        via = httpx.Proxy(f"{way}://localhost.:{proxy.port}", ssl_context=context)
        agent = Agent(proxy=via, verify=certificates.client(), http2=http2)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            response = await client.get(f"https://localhost.:{server.port}/echo")
            assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        await world.close(agent)
        assert server.server_names == ["localhost"]
        assert server.requests[0].get("host") == f"localhost.:{server.port}"
        assert proxy.server_names == (["localhost"] if way == "https" else [])
        if way == "socks5":
            assert proxy.targets == [(3, "localhost.", server.port)]
        else:
            assert proxy.requests[0].target == f"localhost.:{server.port}"


@pytest.mark.parametrize(
    ("url", "extensions", "name"),
    [
        ("https://a.test./", {}, "a.test"),
        ("https://[fe80::1%25eth0]/", {}, "fe80::1"),
        ("https://[fe80::1%eth0]/", {}, "fe80::1"),
        ("https://a.test/", {"sni_hostname": "b.test."}, "b.test."),  # as it was given
    ],
)
async def test_what_is_no_part_of_a_name_in_tls(world: World, url: str, extensions: dict[str, str], name: str) -> None:
    network = Network(Script())
    async with world.client(transport=AgentTransport(**network.options)) as client:
        assert (await client.get(url, extensions=extensions)).text == "ok"
    assert network.connections[0].tls == [name]


async def test_an_absolute_name_has_sockets_of_its_own(world: World) -> None:
    """To name servers it is another one."""
    network = Network(Script(), Script())
    async with world.client(transport=AgentTransport(**network.options)) as client:
        numbers = [
            (await client.get(url)).extensions["agent"].socket_id
            for url in ("https://a.test/", "https://a.test./", "https://a.test/")
        ]
    assert numbers == [0, 1, 0]
    assert [connection.host for connection in network.connections] == ["a.test", "a.test."]


@pytest.mark.rule("R27", "N24")
async def test_each_server_name_has_sockets_of_its_own(
    world: World, tls_server: Server, certificates: Certificates, engine: str
) -> None:
    """R27, N24: `sni_hostname` is part of the key, and of nothing else; `max_sockets` counts for each key."""
    agent = Agent(verify=certificates.client(), max_sockets=1, http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:

        async def ask(name: str | None, **arguments: Any) -> int:
            extensions = {} if name is None else {"sni_hostname": name}
            response = await client.get(f"{tls_server.url}/echo", extensions=extensions, **arguments)
            number: int = response.extensions["agent"].socket_id
            return number

        assert [await ask(name) for name in (None, "name.example", "localhost")] == [0, 1, 2]
        assert [await ask(name) for name in ("localhost", None, "name.example")] == [2, 0, 1]
        assert await ask(None, headers={"Host": "name.example"}) == 0  # in Node that would be another pool
    assert tls_server.server_names == [None, "name.example", "localhost"]
    assert agent.status().free_sockets == {
        tls_server.url: 1,
        f"{tls_server.url} (name.example)": 1,
        f"{tls_server.url} (localhost)": 1,
    }
    await world.close(agent)


@pytest.mark.rule("R27")
async def test_a_path_and_credentials_make_no_other_key(world: World, server: Server, engine: str) -> None:
    """N24: nothing but scheme, host, port and `sni_hostname` tells two keys apart."""
    agent = Agent(http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for url in (f"{server.url}/echo", f"{server.url}/status/204?a=1", f"http://user:pass@{server.netloc}/echo"):
            await client.get(url)
        await client.get(f"http://localhost:{server.port}/echo")
    assert server.requests_per_connection == [3, 1]
    await world.close(agent)


@pytest.mark.both_engines
@pytest.mark.bug("B21")
async def test_the_server_name_is_part_of_the_key_over_real_sockets(
    world: World, stack: Stack, tls_server: Server, certificates: Certificates
) -> None:
    """httpx: one TLS connection, made for the name of the first, serves both."""
    transport = stack.transport(is_sync=world.is_sync, verify=certificates.client())
    names = ["localhost", "name.example", "localhost"]
    async with world.client(transport=transport) as client:
        for name in names:
            await client.get(f"{tls_server.url}/echo", extensions={"sni_hostname": name})
    assert tls_server.server_names == names[:2]
    assert tls_server.requests_per_connection == [2, 1]


@pytest.mark.bug("B21")
async def test_the_server_name_is_part_of_the_key(world: World, stack: Stack) -> None:
    """httpx: one TLS connection, made for the name of the first, serves both."""
    network = Network()
    transport = stack.transport(is_sync=world.is_sync, verify=CONTEXT, **network.options)
    async with world.client(transport=transport) as client:
        for name in ("one.test", "two.test", "one.test"):
            await client.get("https://192.0.2.1/", extensions={"sni_hostname": name})
    assert [connection.tls for connection in network.connections] == [["one.test"], ["two.test"]]
