"""Over TLS and HTTP/2, the agent's transport succeeds and fails as httpx's own does."""

from __future__ import annotations

import hashlib
import json
import ssl
import warnings
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.drop_in.compare import Failure, attempt, both, outcomes, same
from tests.support.servers import BLOCK, Certificates, Server
from tests.support.worlds import World

pytestmark = [pytest.mark.both_engines, pytest.mark.sweep(strength=1)]


async def test_answers_over_tls(world: World, tls_server: Server, certificates: Certificates) -> None:
    answer = await same(world, "GET", f"{tls_server.url}/chunked/3", options=lambda: {"verify": certificates.client()})

    assert (answer.status, answer.body) == (200, b"chunk 0;chunk 1;chunk 2;")
    assert answer.extensions == {"http_version": b"HTTP/1.1", "reason_phrase": b"OK"}


async def test_verification_can_be_off(world: World, tls_server: Server) -> None:
    answer = await same(world, "GET", f"{tls_server.url}/bytes/1", options=lambda: {"verify": False})

    assert answer.status == 200


@pytest.mark.rule("R21")
async def test_a_certificate_of_an_unknown_authority(world: World, tls_server: Server) -> None:
    failure = await same(world, "GET", f"{tls_server.url}/", options=lambda: {"verify": True, "trust_env": False})

    assert failure == Failure(httpx.ConnectError, f"{tls_server.url}/")
    tls_server.wait_for(lambda: len(tls_server.handshake_errors) == 2)


async def test_a_certificate_of_another_name(world: World, tls_server: Server, certificates: Certificates) -> None:
    url = f"https://127.0.0.1:{tls_server.port}/"
    extensions = {"sni_hostname": "other.example"}

    failure = await same(world, "GET", url, options=lambda: {"verify": certificates.client()}, extensions=extensions)

    assert failure == Failure(httpx.ConnectError, url)
    assert tls_server.server_names == ["other.example"] * 2


async def test_a_server_name_of_its_own(world: World, tls_server: Server, certificates: Certificates) -> None:
    answer = await same(
        world,
        "GET",
        f"{tls_server.url}/bytes/1",
        options=lambda: {"verify": certificates.client()},
        extensions={"sni_hostname": "name.example"},
    )

    assert answer.status == 200
    assert tls_server.server_names == ["name.example"] * 2


async def test_trust_in_the_file_that_the_environment_names(
    world: World, tls_server: Server, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certificates.write(tmp_path)["ca"])

    trusting = await same(world, "GET", f"{tls_server.url}/bytes/1", options=lambda: {"verify": True})
    untrusting = await same(
        world, "GET", f"{tls_server.url}/bytes/1", options=lambda: {"verify": True, "trust_env": False}
    )

    assert trusting.status == 200
    assert untrusting.kind is httpx.ConnectError


async def test_client_certificates(world: World, certificates: Certificates, tmp_path: Path) -> None:
    paths = certificates.write(tmp_path)

    def with_files() -> dict[str, Any]:
        return {"verify": certificates.client(), "cert": (paths["cert"], paths["key"])}

    with Server(tls=certificates.server(client_certificate=True)) as server:
        url = f"{server.url}/bytes/1"
        in_context = await same(world, "GET", url, options=lambda: {"verify": certificates.client(certificate=True)})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # httpx: "`cert=...` is deprecated"
            in_files = await same(world, "GET", url, options=with_files)

        assert (in_context.status, in_files.status) == (200, 200)
        assert [peer.client_certificate is not None for peer in server.peers] == [True] * 4


async def test_a_client_certificate_that_is_missing(world: World, certificates: Certificates) -> None:
    """Httpx lets the `ssl.SSLError` out on asyncio and trio; the agent gives one of httpx's exceptions everywhere."""
    with Server(tls=certificates.server(client_certificate=True)) as server:
        expected, actual = await outcomes(
            world, "GET", f"{server.url}/bytes/1", options=lambda: {"verify": certificates.client()}
        )

    assert isinstance(expected, Failure)
    assert isinstance(actual, Failure)
    assert issubclass(actual.kind, httpx.NetworkError)
    assert actual.url == f"{server.url}/bytes/1"
    if not issubclass(expected.kind, ssl.SSLError):
        assert expected == actual


async def test_tls_to_a_server_that_does_not_speak_it(world: World, server: Server) -> None:
    url = f"https://{server.netloc}/"

    silent = await same(world, "GET", url, timeout=httpx.Timeout(5.0, connect=0.05))
    with Server(h2=True) as talkative:
        other = f"https://{talkative.netloc}/"
        answering = await same(world, "GET", other)

    assert silent == Failure(httpx.ConnectTimeout, url)
    assert answering == Failure(httpx.ConnectError, other)


async def test_http_to_a_server_of_tls(world: World, tls_server: Server) -> None:
    expected, actual = await outcomes(world, "GET", f"http://{tls_server.netloc}/")

    assert expected == actual
    assert isinstance(actual, Failure)


async def test_the_ssl_object(world: World, h2_server: Server, certificates: Certificates) -> None:
    for http2, protocol in ((False, "http/1.1"), (True, "h2")):
        for factory in both(world):
            transport = factory(verify=certificates.client(), http2=http2)
            async with world.client(transport=transport) as client:
                async with client.stream("GET", f"{h2_server.url}/bytes/1") as response:
                    tls = response.extensions["network_stream"].get_extra_info("ssl_object")
                    assert (tls.selected_alpn_protocol(), tls.version()) == (protocol, "TLSv1.3")
                    await response.aread()


H2 = {
    "ALPN": lambda certificates: {"verify": certificates.client(), "http2": True},
    "only HTTP/2": lambda certificates: {"verify": certificates.client(), "http1": False, "http2": True},
    "only HTTP/1.1": lambda certificates: {"verify": certificates.client()},
}


@pytest.mark.parametrize("how", H2)
async def test_protocols(world: World, h2_server: Server, certificates: Certificates, how: str) -> None:
    answer = await same(world, "GET", f"{h2_server.url}/bytes/100000", options=lambda: H2[how](certificates))

    assert (answer.status, answer.body) == (200, (BLOCK * 2)[:100_000])
    assert answer.has_network_stream
    assert answer.extensions == (
        {"http_version": b"HTTP/1.1", "reason_phrase": b"OK"}
        if how == "only HTTP/1.1"
        else {"http_version": b"HTTP/2", "stream_id": 1}
    )


async def test_http2_by_prior_knowledge(world: World) -> None:
    with Server(h2=True) as server:
        answer = await same(
            world, "GET", f"{server.url}/echo", options=lambda: {"verify": False, "http1": False, "http2": True}
        )

    assert answer.extensions == {"http_version": b"HTTP/2", "stream_id": 1}


async def test_http2_where_the_server_has_only_http1(
    world: World, tls_server: Server, certificates: Certificates
) -> None:
    answer = await same(world, "GET", f"{tls_server.url}/bytes/1", options=lambda: H2["ALPN"](certificates))

    assert answer.extensions["http_version"] == b"HTTP/1.1"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_requests_over_http2(world: World, h2_server: Server, certificates: Certificates, method: str) -> None:
    headers = [("X-Second", "2"), ("x-FIRST", "1"), ("X-Twice", "a"), ("X-Twice", "b")]
    body = (lambda world: world.body([BLOCK] * 4)) if method == "POST" else None

    answer = await same(
        world,
        method,
        f"{h2_server.url}/echo?a=%20",
        options=lambda: H2["ALPN"](certificates),
        headers=headers,
        content=body,
    )

    if method == "HEAD":
        assert (answer.status, answer.body) == (200, b"")
        return
    seen = json.loads(answer.body)
    assert seen["target"] == "/echo?a=%20"
    assert [pair for pair in seen["headers"] if pair[0].startswith("x-")] == [
        ["x-second", "2"],
        ["x-first", "1"],
        ["x-twice", "a"],
        ["x-twice", "b"],
    ]
    expected = BLOCK * 4 if method == "POST" else b""
    assert seen["sha256"] == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize(("path", "error"), [("/reset", httpx.RemoteProtocolError), ("/silence", httpx.ReadTimeout)])
async def test_failures_over_http2(
    world: World, h2_server: Server, certificates: Certificates, path: str, error: type[Exception]
) -> None:
    failure = await same(
        world,
        "GET",
        h2_server.url + path,
        options=lambda: H2["ALPN"](certificates),
        timeout=httpx.Timeout(5.0, read=0.05),
    )

    assert failure == Failure(error, h2_server.url + path)


async def test_one_http2_connection_serves_requests_one_after_the_other(
    world: World, h2_server: Server, certificates: Certificates
) -> None:
    found = []
    for factory in both(world):
        before = h2_server.accepted
        async with world.client(transport=factory(**H2["ALPN"](certificates))) as client:
            responses = [await client.get(f"{h2_server.url}/bytes/10") for _ in range(3)]
        streams = [response.extensions["stream_id"] for response in responses]
        found.append((streams, h2_server.requests_per_connection[before:]))

    assert found == [([1, 3, 5], [3])] * 2


@pytest.mark.parametrize("http2", [False, True])
async def test_traces_over_tls(world: World, h2_server: Server, certificates: Certificates, http2: bool) -> None:
    found = []
    for factory in both(world):
        events: list[str] = []
        trace = world.callback(lambda name, info: events.append(name))  # noqa: B023
        async with world.client(transport=factory(verify=certificates.client(), http2=http2)) as client:
            for _ in range(2):
                await attempt(lambda: client.get(f"{h2_server.url}/bytes/10", extensions={"trace": trace}))  # noqa: B023
        found.append(events)

    assert found[0] == found[1]
    assert found[1][:4] == [
        "connection.connect_tcp.started",
        "connection.connect_tcp.complete",
        "connection.start_tls.started",
        "connection.start_tls.complete",
    ]
    assert ("http2.send_request_headers.started" in found[1]) == http2


async def test_the_trace_of_a_handshake_that_fails(world: World, tls_server: Server) -> None:
    found = []
    for factory in both(world):
        events: list[str] = []
        trace = world.callback(lambda name, info: events.append(name))  # noqa: B023
        async with world.client(transport=factory(verify=True, trust_env=False)) as client:
            await attempt(lambda: client.get(f"{tls_server.url}/", extensions={"trace": trace}))  # noqa: B023
        found.append(events)

    assert found[0] == found[1]
    assert found[1][-1] == "connection.start_tls.failed"
