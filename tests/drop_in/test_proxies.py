"""Through proxies and Unix sockets, the agent's transport succeeds and fails as httpx's own does."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.drop_in.compare import Failure, both, outcomes, same
from tests.support.servers import Certificates, Proxy, Server, Socks, refusing_port
from tests.support.worlds import World

pytestmark = [pytest.mark.both_engines, pytest.mark.sweep(strength=1)]

USER = ("user", "pa:ss")
BASIC = "Basic " + base64.b64encode(b"user:pa:ss").decode()


@pytest.mark.rule("R41")
@pytest.mark.parametrize("given", ["http proxy", "https proxy", "http proxy as URL"])
async def test_http_through_an_http_proxy(world: World, server: Server, certificates: Certificates, given: str) -> None:
    tls, as_url = given == "https proxy", given == "http proxy as URL"
    with Proxy(tls=certificates.server() if tls else None, credentials=USER) as proxy:

        def options() -> dict[str, Any]:
            if as_url:
                return {"proxy": f"http://user:pa%3Ass@{proxy.netloc}"}
            context = certificates.client() if tls else None
            return {"proxy": httpx.Proxy(proxy.url, auth=USER, headers={"X-Proxy": "1"}, ssl_context=context)}

        answer = await same(world, "POST", f"{server.url}/echo?a=1", options=options, content=lambda world: b"123")

        seen = json.loads(answer.body)
        headers = {name.lower(): value for name, value in seen["headers"]}
        assert seen["target"] == f"{server.url}/echo?a=1"
        assert headers["proxy-authorization"] == BASIC
        assert ("x-proxy" in headers) == (not as_url)
        assert seen["length"] == 3
        assert [request.method for request in proxy.requests] == ["POST", "POST"]


@pytest.mark.rule("R41")
@pytest.mark.parametrize("tls", [False, True], ids=["http proxy", "https proxy"])
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
async def test_https_through_an_http_proxy(
    world: World, h2_server: Server, certificates: Certificates, tls: bool, http2: bool
) -> None:
    with Proxy(tls=certificates.server() if tls else None, credentials=USER) as proxy:

        def options() -> dict[str, Any]:
            context = certificates.client() if tls else None
            found = httpx.Proxy(proxy.url, auth=USER, headers={"X-Proxy": "1"}, ssl_context=context)
            return {"proxy": found, "verify": certificates.client(), "http2": http2}

        answer = await same(world, "GET", f"{h2_server.url}/echo", options=options)

        seen = json.loads(answer.body)
        assert seen["target"] == "/echo"
        assert not [name for name, _ in seen["headers"] if name.lower() in ("proxy-authorization", "x-proxy")]
        assert answer.extensions["http_version"] == (b"HTTP/2" if http2 else b"HTTP/1.1")
        assert [request.method for request in proxy.requests] == ["CONNECT"] * 2
        assert {request.get("x-proxy") for request in proxy.requests} == {"1"}
        assert {request.target for request in proxy.requests} == {h2_server.netloc}


async def test_a_proxy_that_wants_other_credentials(
    world: World, server: Server, tls_server: Server, certificates: Certificates
) -> None:
    with Proxy(credentials=USER) as proxy:

        def options() -> dict[str, Any]:
            return {"proxy": proxy.url, "verify": certificates.client()}

        forwarded = await same(world, "GET", f"{server.url}/echo", options=options)
        tunnelled = await same(world, "GET", f"{tls_server.url}/echo", options=options)

    assert (forwarded.status, forwarded.body) == (407, b"who?")
    assert tunnelled == Failure(httpx.ProxyError, f"{tls_server.url}/echo")
    assert tls_server.accepted == 0


async def test_a_proxy_that_cannot_reach_the_target(world: World, certificates: Certificates) -> None:
    with Proxy() as proxy, refusing_port() as port:

        def options() -> dict[str, Any]:
            return {"proxy": proxy.url, "verify": certificates.client()}

        forwarded = await same(world, "GET", f"http://127.0.0.1:{port}/", options=options)
        tunnelled = await same(world, "GET", f"https://127.0.0.1:{port}/", options=options)

    assert forwarded.status == 502
    assert tunnelled == Failure(httpx.ProxyError, f"https://127.0.0.1:{port}/")


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
@pytest.mark.parametrize("target", ["http", "https"])
async def test_a_proxy_that_is_not_there(world: World, certificates: Certificates, scheme: str, target: str) -> None:
    with refusing_port() as port:

        def options() -> dict[str, Any]:
            return {"proxy": f"{scheme}://127.0.0.1:{port}", "verify": certificates.client()}

        failure = await same(world, "GET", f"{target}://127.0.0.1:1/", options=options)

    assert failure == Failure(httpx.ConnectError, f"{target}://127.0.0.1:1/")


@pytest.mark.rule("R41")
@pytest.mark.parametrize("credentials", [None, USER], ids=["open", "credentials"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_through_socks(
    world: World,
    server: Server,
    tls_server: Server,
    certificates: Certificates,
    credentials: tuple[str, str] | None,
    tls: bool,
    scheme: str,
) -> None:
    target = tls_server if tls else server
    with Socks(credentials=credentials) as socks:

        def options() -> dict[str, Any]:
            user = "user:pa%3Ass@" if credentials else ""
            return {"proxy": f"{scheme}://{user}{socks.netloc}", "verify": certificates.client()}

        answer = await same(world, "GET", f"{target.url}/echo", options=options)

        assert json.loads(answer.body)["target"] == "/echo"
        assert [port for _, _, port in socks.targets] == [target.port] * 2


@pytest.mark.parametrize(
    "arguments", [{"refuse": 5}, {"credentials": ("other", "one")}], ids=["refused", "other credentials"]
)
async def test_socks_that_says_no(world: World, server: Server, arguments: dict[str, Any]) -> None:
    with Socks(**arguments) as socks:
        failure = await same(world, "GET", server.url, options=lambda: {"proxy": f"socks5://user:pass@{socks.netloc}"})

        assert failure == Failure(httpx.ProxyError, server.url)
        socks.wait_closed()


async def test_a_proxy_of_an_unknown_kind(world: World) -> None:
    raised = []
    for factory in both(world):
        with pytest.raises(ValueError, match="ftp") as info:
            factory(proxy="ftp://127.0.0.1/")
        raised.append(type(info.value))

    assert raised[0] is raised[1]


@pytest.mark.rule("R41")
async def test_reuse_through_proxies(
    world: World, server: Server, tls_server: Server, certificates: Certificates
) -> None:
    found = []
    for factory in both(world):
        with Proxy() as proxy:
            options = {"proxy": proxy.url, "verify": certificates.client()}
            async with world.client(transport=factory(**options)) as client:
                for _ in range(3):
                    for target in (server, tls_server):
                        assert (await client.get(f"{target.url}/bytes/1")).status_code == 200
            found.append((proxy.accepted, [request.method for request in proxy.requests]))

    assert found[0] == found[1] == (2, ["GET", "CONNECT"])


async def test_traces_through_proxies(
    world: World, server: Server, tls_server: Server, certificates: Certificates
) -> None:
    found = []
    for factory in both(world):
        events: list[str] = []
        trace = world.callback(lambda name, info: events.append(name))  # noqa: B023
        with Proxy() as proxy, Socks() as socks:
            for url in (proxy.url, f"socks5://{socks.netloc}"):
                transport = factory(proxy=url, verify=certificates.client())
                async with world.client(transport=transport) as client:
                    for target in (server, tls_server):
                        await client.get(f"{target.url}/bytes/1", extensions={"trace": trace})
        found.append(events)

    assert found[0] == found[1]
    assert [name for name in found[1] if "start_tls.started" in name or "setup_socks5" in name] != []


async def test_over_a_unix_socket(world: World, tmp_path: Path) -> None:
    with Server(uds=str(tmp_path / "socket")) as server:
        answer = await same(world, "GET", "http://some.name/echo", options=lambda: {"uds": server.uds})

        assert ["Host", "some.name"] in json.loads(answer.body)["headers"]
        assert server.accepted == 2


async def test_a_unix_socket_that_is_not_there(world: World, tmp_path: Path) -> None:
    failure = await same(world, "GET", "http://some.name/", options=lambda: {"uds": str(tmp_path / "nothing")})

    assert failure == Failure(httpx.ConnectError, "http://some.name/")


async def test_retries_of_a_connect(world: World) -> None:
    with refusing_port() as port:
        expected, actual = await outcomes(world, "GET", f"http://127.0.0.1:{port}/", options=lambda: {"retries": 1})

    assert expected == actual == Failure(httpx.ConnectError, f"http://127.0.0.1:{port}/")
