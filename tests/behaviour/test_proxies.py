"""Proxies that are down, silent, or not proxies at all."""

from __future__ import annotations

import httpx
import pytest

from httpx_agent import AgentTransport
from tests.bugs.stock import Stack
from tests.support.collecting import uncollected
from tests.support.names import Names, port_of
from tests.support.raw import Peer, raw_server
from tests.support.servers import Proxy, Server, refusing_port
from tests.support.worlds import World

A = "http://a.test/"


@pytest.mark.bug("B18")
@pytest.mark.both_engines
@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_socks_handshake_that_gets_no_answer(world: World, stack: Stack, server: Server, how: str) -> None:
    """httpx: where it is cancelled, the socket stays open and its slot is lost; the timeout is ignored."""
    if how == "cancelled" and world.is_sync:
        how = "timed out"  # which is all that can happen to it
    proxy = httpx.Proxy(f"socks5://{server.netloc}")  # waits for HTTP, and does not answer
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1, proxy=proxy)
    timeout = httpx.Timeout(5.0, connect=0.2 if how == "timed out" else 5.0, read=None)
    with uncollected():
        async with world.client(transport=transport, timeout=timeout) as client, world.tasks() as tasks:
            for turn in range(2):
                job = tasks.start(client.get, A)
                await world.until(lambda turn=turn: len(server.peers) == turn + 1 and server.peers[turn].buffer)
                if how == "cancelled":
                    job.cancel()
                await job.wait()
                assert job.cancelled or isinstance(job.exception, httpx.ConnectTimeout)
                await world.until(lambda: server.open == 0)


PATIENT = httpx.Timeout(5.0)

BRIEF = httpx.Timeout(5.0, connect=0.05)


@pytest.mark.both_engines
@pytest.mark.parametrize("url", ["http://origin.test/", "https://origin.test/"])
@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_a_proxy_that_is_down(world: World, url: str, scheme: str) -> None:
    """It is the proxy that refuses, not the origin."""
    with refusing_port() as port:
        transport = AgentTransport(proxy=f"{scheme}://user:secret@127.0.0.1:{port}")
        async with world.client(transport=transport, timeout=PATIENT) as client:
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get(url)
    told = str(caught.value)
    assert told.endswith(f"(TCP to proxy {scheme}://127.0.0.1:{port}; tried 127.0.0.1:{port})")
    assert "secret" not in told


@pytest.mark.both_engines
async def test_a_proxy_that_has_no_address(world: World, names: Names) -> None:
    names.known["proxy.test"] = []
    names.silent.add("proxy.test")
    async with world.client(transport=AgentTransport(proxy="http://proxy.test:3128"), timeout=BRIEF) as client:
        with pytest.raises(httpx.ConnectTimeout) as caught:
            await client.get("http://origin.test/")
    assert str(caught.value).endswith("(name look-up of proxy.test for proxy http://proxy.test:3128)")


@pytest.mark.both_engines
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["hangs up", "speaks HTTP"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_does_not_speak_socks(world: World, answer: bytes, scheme: str) -> None:
    """No error of the package that reads its answers comes out."""

    def serve(peer: Peer) -> None:
        peer.sock.recv(100)
        peer.send(answer)

    with raw_server(serve) as url:
        netloc = f"127.0.0.1:{port_of(url)}"
        async with world.client(transport=AgentTransport(proxy=f"socks5://{netloc}"), timeout=PATIENT) as client:
            with pytest.raises(httpx.ProxyError) as caught:
                await client.get(f"{scheme}://origin.test/")
    assert str(caught.value).endswith(
        "the proxy closed the connection or does not speak SOCKS5 (Malformed reply) "
        f"(proxy handshake with proxy socks5://{netloc}; tried {netloc})"
    )


@pytest.mark.both_engines
async def test_an_origin_that_is_no_tls_server_behind_a_proxy(world: World, server: Server) -> None:
    with Proxy() as proxy:
        async with world.client(transport=AgentTransport(proxy=proxy.url), timeout=BRIEF) as client:
            with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)) as caught:
                await client.get(server.url.replace("http:", "https:"))
    assert f"(TLS with 127.0.0.1 through proxy {proxy.url}; tried 127.0.0.1:{port_of(proxy.url)})" in str(caught.value)


@pytest.mark.both_engines
async def test_a_proxy_that_is_no_tls_server(world: World, server: Server) -> None:
    with Proxy() as proxy:
        url = proxy.url.replace("http:", "https:")
        async with world.client(transport=AgentTransport(proxy=url), timeout=BRIEF) as client:
            with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)) as caught:
                await client.get(server.url)
    assert f"(TLS with proxy {url}; tried 127.0.0.1:{port_of(proxy.url)})" in str(caught.value)
