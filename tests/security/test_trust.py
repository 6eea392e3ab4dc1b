"""Whom the agent trusts, and what it reveals: TLS is verified, and data for a proxy goes only to the proxy."""

from __future__ import annotations

import base64
import ssl

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import ChaosServer
from tests.support.servers import Certificates, Proxy, Server, Socks
from tests.support.worlds import World

pytestmark = pytest.mark.both_engines

SECRET = "hunter2"
CREDENTIALS = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()


async def test_tls_is_verified_unless_that_is_switched_off(world: World, certificates: Certificates) -> None:
    """Nothing of the request leaves before the server is known."""
    with ChaosServer(ssl_context=certificates.server(), must_be_closed=True) as server:
        for options, trusted in [({}, False), ({"verify": True}, False), ({"verify": False}, True)]:
            agent = Agent(**options)
            async with world.client(transport=AgentTransport(agent=agent)) as client:
                if trusted:
                    assert (await client.get(server.url)).text == "ok"
                else:
                    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                        await client.get(server.url)
                    assert server.requests == []
            await world.close(agent)


def served_by(certificates: Certificates, *names: str) -> ssl.SSLContext:
    """A server with a certificate for these names only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("certified", "name", "trusted"),
    [
        ("127.0.0.1", None, True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "name.example", False),
        ("name.example", None, False),
        ("name.example", "name.example", True),
        ("name.example", "other.example", False),
        ("*.name.example", "a.name.example", True),
        ("*.name.example", "b.a.name.example", False),
    ],
)
async def test_the_certificate_must_be_that_of_the_host_or_of_the_name(
    world: World, certificates: Certificates, certified: str, name: str | None, trusted: bool
) -> None:
    """`sni_hostname` is what is asked for and what is checked."""
    extensions = {} if name is None else {"sni_hostname": name}
    with ChaosServer(ssl_context=served_by(certificates, certified), must_be_closed=True) as server:
        agent = Agent(verify=certificates.client())
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            if trusted:
                assert (await client.get(server.url, extensions=extensions)).text == "ok"
            else:
                with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                    await client.get(server.url, extensions=extensions)
                assert server.requests == []
        await world.close(agent)


async def test_a_socket_for_one_name_never_serves_another(world: World, certificates: Certificates) -> None:
    """Not even where the first name is trusted, and its session could be resumed."""
    with ChaosServer(ssl_context=served_by(certificates, "name.example"), must_be_closed=True) as server:
        agent = Agent(verify=certificates.client(), max_cached_sessions=100)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            assert (await client.get(server.url, extensions={"sni_hostname": "name.example"})).text == "ok"
            for extensions in ({}, {"sni_hostname": "other.example"}):
                with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                    await client.get(server.url, extensions=extensions)
        await world.close(agent)
        assert len(server.requests) == 1


async def test_verification_is_the_agent_s_and_not_a_session_s(world: World, certificates: Certificates) -> None:
    """A session that one agent resumes is known to no other; the second one sees the certificate, and refuses."""
    with ChaosServer(ssl_context=certificates.server()) as server:
        trusting = Agent(verify=certificates.client(), max_cached_sessions=100)
        other = Agent(verify=ssl.create_default_context(), max_cached_sessions=100)
        async with world.client(transport=AgentTransport(agent=trusting)) as client:
            await client.get(server.url)
        async with world.client(transport=AgentTransport(agent=other)) as client:
            with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                await client.get(server.url)
        await world.close(trusting)
        await world.close(other)


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http proxy", "https proxy"])
async def test_a_proxy_s_credentials_never_reach_an_origin_through_a_tunnel(
    world: World, certificates: Certificates, proxy_tls: bool
) -> None:
    """And what is the origin's is not told to the proxy: it sees the name of the host, and nothing else."""
    context = certificates.server() if proxy_tls else None
    with Server(tls=certificates.server()) as server, Proxy(tls=context, credentials=("user", SECRET)) as proxy:
        via = httpx.Proxy(proxy.url, auth=("user", SECRET), ssl_context=certificates.client() if proxy_tls else None)
        agent = Agent(proxy=via, verify=certificates.client())
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            for _ in range(2):
                response = await client.get(f"{server.url}/echo?token={SECRET}", headers={"Authorization": SECRET})
                assert response.status_code == 200
        await world.close(agent)
        assert [request.get("proxy-authorization") for request in proxy.requests] == [CREDENTIALS]
        assert [request.get("authorization") for request in proxy.requests] == [""]
        assert SECRET not in proxy.requests[0].target
        for request in server.requests:
            assert request.get("proxy-authorization") == ""
            assert request.get("authorization") == SECRET


async def test_socks_credentials_never_reach_an_origin(world: World, certificates: Certificates) -> None:
    with Server(tls=certificates.server()) as server, Socks(credentials=("user", SECRET)) as socks:
        agent = Agent(proxy=f"socks5://user:{SECRET}@{socks.netloc}", verify=certificates.client())
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            assert SECRET not in (await client.get(f"{server.url}/echo")).text
        await world.close(agent)
        assert SECRET.encode() not in server.requests[0].head


async def test_the_origin_behind_a_tunnel_is_verified(world: World, certificates: Certificates) -> None:
    """A proxy that answers in the origin's place is found out; nothing has left by then but the name of the host."""
    with Server(tls=Certificates().server()) as impostor, Proxy() as proxy:
        agent = Agent(proxy=proxy.url, verify=certificates.client())
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                await client.get(impostor.url)
        await world.close(agent)
        assert impostor.requests == []


@pytest.mark.parametrize("name", ["name.example", "other.example"])
async def test_a_name_given_for_a_tunnel_does_not_weaken_it(
    world: World, certificates: Certificates, name: str
) -> None:
    """There httpcore asks for the host of the URL, and checks that; httpcore2 takes the name for both."""
    trusted = name == "name.example" and httpx.__name__ == "httpx2"
    with ChaosServer(ssl_context=served_by(certificates, "name.example")) as server, Proxy() as proxy:
        agent = Agent(proxy=proxy.url, verify=certificates.client())
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            if trusted:
                assert (await client.get(server.url, extensions={"sni_hostname": name})).text == "ok"
            else:
                with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                    await client.get(server.url, extensions={"sni_hostname": name})
                assert server.requests == []
        await world.close(agent)
