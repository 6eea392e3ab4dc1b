"""Over plain HTTP/1.1, the agent's transport succeeds and fails as httpx's own does."""

from __future__ import annotations

import hashlib
import io
import json
import socket
from typing import Any

import h11
import httpx
import pytest

from tests.drop_in.compare import Answer, Failure, attempt, both, network_stream, outcomes, same
from tests.support.servers import BLOCK, Server, hanging_port, refusing_port
from tests.support.worlds import World

pytestmark = [pytest.mark.both_engines, pytest.mark.sweep(strength=1)]

ANSWERS: list[tuple[str, str, int, bytes | None]] = [
    ("GET", "/echo", 200, None),
    ("GET", "/echo?a=1&b=%20%2F", 200, None),
    ("HEAD", "/echo", 200, b""),
    ("HEAD", "/bytes/1000", 200, b""),
    ("OPTIONS", "/echo", 200, None),
    ("DELETE", "/echo", 200, None),
    ("PURGE", "/echo", 200, None),
    ("GET", "/bytes/0", 200, b""),
    ("GET", "/bytes/1", 200, b"\0"),
    ("GET", "/bytes/200000", 200, (BLOCK * 4)[:200_000]),
    ("GET", "/status/204", 204, b""),
    ("GET", "/status/304", 304, b""),
    ("GET", "/status/404", 404, b""),
    ("GET", "/status/599", 599, b""),
    ("GET", "/chunked/0", 200, b""),
    ("GET", "/chunked/3", 200, b"chunk 0;chunk 1;chunk 2;"),
    ("GET", "/trailers", 200, b"hello"),
    ("GET", "/close-delimited", 200, b"until the end"),
    ("GET", "/http10", 200, b"old"),
    ("GET", "/http10/keep-alive", 200, b"old"),
    ("GET", "/close", 200, b"bye"),
    ("GET", "/keep-alive/5", 200, b"ok"),
    ("GET", "/early-hints", 200, b"final"),
    ("GET", "/half-close", 200, b"half"),
    ("GET", "/gzip", 200, b"hello " * 100),
    ("GET", "/huge-headers/50000", 200, b"ok"),
    ("GET", "/nothing-here", 404, b"no such route"),
]


@pytest.mark.parametrize(
    ("method", "path", "status", "body"), ANSWERS, ids=[f"{case[0]} {case[1]}" for case in ANSWERS]
)
async def test_answers(world: World, server: Server, method: str, path: str, status: int, body: bytes | None) -> None:
    answer = await same(world, method, server.url + path)

    assert answer.status == status
    assert body is None or answer.body == body
    assert answer.has_network_stream


async def test_headers_arrive_in_order_and_in_their_case_and_so_do_those_of_the_response(
    world: World, server: Server
) -> None:
    headers = [("X-Second", "2"), ("x-FIRST", "1"), ("X-Twice", "a"), ("X-Twice", "b"), ("X-Bytes", b"caf\xe9")]

    answer = await same(world, "GET", f"{server.url}/echo", headers=headers)

    sent = json.loads(answer.body)["headers"]
    assert [name for name, _ in sent][-5:] == ["X-Second", "x-FIRST", "X-Twice", "X-Twice", "X-Bytes"]
    assert [name for name, _ in answer.headers][:4] == [b"Content-Type", b"X-MiXed-Case", b"X-Twice", b"x-twice"]
    assert answer.extensions == {"http_version": b"HTTP/1.1", "reason_phrase": b"OK"}


@pytest.mark.parametrize(
    ("path", "extensions"),
    [
        ("/http10", {"http_version": b"HTTP/1.0", "reason_phrase": b"OK"}),
        ("/status/499", {"http_version": b"HTTP/1.1", "reason_phrase": b"Reason 499"}),
    ],
)
async def test_version_and_reason(world: World, server: Server, path: str, extensions: dict[str, bytes]) -> None:
    answer = await same(world, "GET", server.url + path)

    assert answer.extensions == extensions


BODIES: dict[str, tuple[Any, bytes]] = {
    "none": (lambda world: None, b""),
    "bytes": (lambda world: b"12345", b"12345"),
    "empty": (lambda world: b"", b""),
    "generator": (lambda world: world.body([b"1", b"", b"2345"]), b"12345"),
    "large": (lambda world: BLOCK * 16, BLOCK * 16),
    "large generator": (lambda world: world.body([BLOCK] * 16), BLOCK * 16),
}


@pytest.mark.parametrize("body", BODIES)
async def test_uploads(world: World, server: Server, body: str) -> None:
    content, expected = BODIES[body]

    answer = await same(world, "POST", f"{server.url}/sink", content=content)

    seen = json.loads(answer.body)
    assert (seen["length"], seen["sha256"]) == (len(expected), hashlib.sha256(expected).hexdigest())
    names = [name for name, _ in seen["headers"]]
    assert ("Transfer-Encoding" in names) == ("generator" in body)


@pytest.mark.parametrize(
    "kind",
    [
        lambda: {"json": {"a": [1, 2]}},
        lambda: {"data": {"a": "1", "b": "ü"}},
        lambda: {"files": {"f": ("name.txt", io.BytesIO(BLOCK), "text/plain")}, "data": {"a": "1"}},
        lambda: {"files": {"f": ("name.txt", b"bytes")}},
    ],
    ids=["json", "form", "multipart", "multipart of bytes"],
)
async def test_encoded_uploads(world: World, server: Server, kind: Any) -> None:
    bodies = []
    for factory in both(world):
        headers = {"Content-Type": "multipart/form-data; boundary=abc"} if "files" in kind() else {}
        async with world.client(transport=factory()) as client:
            bodies.append((await client.post(f"{server.url}/sink", headers=headers, **kind())).json())

    assert bodies[0] == bodies[1]
    assert bodies[1]["length"] > 0


async def test_an_upload_that_waits_to_be_asked(world: World, server: Server) -> None:
    answer = await same(
        world, "POST", f"{server.url}/sink", headers={"Expect": "100-continue"}, content=lambda world: b"12345"
    )

    assert json.loads(answer.body)["length"] == 5


def sync_only_file(world: World) -> Any:
    return io.BytesIO(BLOCK * 2) if world.is_sync else world.body([BLOCK] * 2)


async def test_an_upload_from_a_file(world: World, server: Server) -> None:
    answer = await same(world, "PUT", f"{server.url}/sink", content=sync_only_file)

    assert json.loads(answer.body)["length"] == 2 * len(BLOCK)


SLOW = {"timeout": httpx.Timeout(5.0, read=0.05)}
FAILURES: list[tuple[str, type[Exception], dict[str, Any]]] = [
    ("/silence", httpx.ReadTimeout, SLOW),
    ("/garbage", httpx.RemoteProtocolError, {}),
    ("/bad-header", httpx.RemoteProtocolError, {}),
    ("/bad-chunk", httpx.RemoteProtocolError, {}),
    ("/huge-headers/200000", httpx.RemoteProtocolError, {}),
    ("/disconnect", httpx.RemoteProtocolError, {}),
    ("/reset", httpx.ReadError, {}),
    ("/truncated", httpx.RemoteProtocolError, {}),
    ("/truncated/chunked", httpx.RemoteProtocolError, {}),
    ("/truncated/head", httpx.RemoteProtocolError, {}),
    ("/hold-body/never", httpx.ReadTimeout, SLOW),
]


@pytest.mark.rule("R20")
@pytest.mark.parametrize(("path", "error", "kwargs"), FAILURES, ids=[case[0] for case in FAILURES])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_failures(
    world: World, server: Server, method: str, path: str, error: type[Exception], kwargs: dict[str, Any]
) -> None:
    failure = await same(world, method, server.url + path, **kwargs)

    assert failure == Failure(error, server.url + path)
    server.wait_for(lambda: all(not peer.is_open for peer in server.peers) or path == "/hold-body/never")


@pytest.mark.rule("R20")
async def test_a_reset_within_a_body(world: World, server: Server) -> None:
    found = []
    for number, factory in enumerate(both(world)):
        async with world.client(transport=factory()) as client:
            async with client.stream("GET", f"{server.url}/truncated/reset") as response:
                server.gate("truncated").open()
                server.wait_for(lambda: not server.peers[number].is_open)  # noqa: B023
                found.append(await attempt(response.aread))

    assert found[0] == found[1]
    assert isinstance(found[1], Failure)
    assert found[1].kind in (httpx.ReadError, httpx.RemoteProtocolError)


@pytest.mark.rule("R21")
async def test_a_connect_that_is_refused(world: World) -> None:
    with refusing_port() as port:
        url = f"http://127.0.0.1:{port}/"

        assert await same(world, "GET", url) == Failure(httpx.ConnectError, url)


async def test_a_connect_that_hangs(world: World) -> None:
    with hanging_port() as port:
        url = f"http://127.0.0.1:{port}/"
        failure = await same(world, "GET", url, timeout=httpx.Timeout(5.0, connect=0.05))

    assert failure == Failure(httpx.ConnectTimeout, url)


async def test_a_name_that_does_not_resolve(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    assert await same(world, "GET", "http://name.example/") == Failure(httpx.ConnectError, "http://name.example/")


async def test_an_upload_that_is_not_taken(world: World, server: Server) -> None:
    failure = await same(
        world,
        "POST",
        f"{server.url}/deaf",
        content=lambda world: world.body([BLOCK] * 400),
        timeout=httpx.Timeout(5.0, write=0.1),
    )

    assert failure == Failure(httpx.WriteTimeout, f"{server.url}/deaf")


async def test_a_refusal_before_the_upload_has_ended(world: World, server: Server) -> None:
    answer = await same(world, "POST", f"{server.url}/early", content=lambda world: world.body([BLOCK] * 4))

    assert (answer.status, answer.body) == (413, b"no")


async def test_a_wait_for_a_connection_that_is_too_long(world: World, server: Server) -> None:
    found = []
    for number, factory in enumerate(both(world)):
        gate = server.gate(str(number))
        limited = factory(limits=httpx.Limits(max_connections=1))
        async with world.client(transport=limited) as client, world.tasks() as tasks:
            held = tasks.start(client.get, f"{server.url}/hold/{number}")
            await world.until(lambda: gate.waiting == 1)  # noqa: B023
            found.append(await attempt(lambda: client.get(server.url, timeout=httpx.Timeout(5.0, pool=0.05))))
            gate.open()
            await held.wait()
            assert held.result().status_code == 200

    assert found == [Failure(httpx.PoolTimeout, server.url)] * 2


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "127.0.0.1/no-scheme", "/only/path", "custom://127.0.0.1:80/"])
async def test_schemes_that_are_not_supported(world: World, url: str) -> None:
    failure = await same(world, "GET", url)

    assert failure.kind is httpx.UnsupportedProtocol


@pytest.mark.parametrize(
    ("headers", "has_body"),
    [
        ({"X-Bad": "a\nb"}, False),
        ({"X-Bad": "a\rb"}, False),
        ({"X-Bad": "a\0b"}, False),
        ({"X-Bad": " a"}, False),
        ({"X-Bad": "a "}, False),
        ({"X Bad": "a"}, False),
        ({"X-Bad:": "a"}, False),
        ({"": "a"}, False),
        ({"X-Tab": "a\tb"}, False),
        ({"Content-Length": "3"}, True),
        ({"Content-Length": "8"}, True),
        ({"Content-Length": "x"}, True),
        ({"Transfer-Encoding": "gzip"}, True),
        ({"Host": "a", "host": "b"}, False),
    ],
    ids=repr,
)
async def test_requests_against_the_rules(
    world: World, server: Server, headers: dict[str, str], has_body: bool
) -> None:
    """Which of these are refused is h11's decision; the agent must decide the same whatever engine it uses."""
    url = f"{server.url}/echo"
    content = (lambda world: world.body([b"12345"])) if has_body else None
    expected, actual = await outcomes(world, "POST", url, headers=headers, content=content)

    if expected == Failure(h11.LocalProtocolError, None) and actual != expected:
        # httpcore lets it through as it is. The fast engine's is httpx's: see `tests.unit.protocol.differences.OTHERS`.
        expected = Failure(httpx.LocalProtocolError, url)
    assert expected == actual


@pytest.mark.parametrize("method", ["GE T", "G\nET", "", "GÉT"])
async def test_methods_against_the_rules(world: World, server: Server, method: str) -> None:
    expected, actual = await outcomes(world, method, f"{server.url}/echo")

    assert expected == actual
    assert isinstance(actual, Failure)


async def test_a_request_without_host_is_refused(world: World, server: Server) -> None:
    found = []
    for factory in both(world):
        transport = factory()
        request = httpx.Request("GET", f"{server.url}/echo")
        del request.headers["Host"]
        found.append(await attempt(lambda: world.handle(transport, request)))  # noqa: B023
        await world.close(transport)

    assert found[0] == found[1]
    assert found[1].kind is httpx.LocalProtocolError


async def test_a_body_that_can_be_read_once_is_not_sent_twice(world: World, server: Server) -> None:
    found = []
    for factory in both(world):
        async with world.client(transport=factory()) as client:
            request = client.sync.build_request if world.is_sync else client.build_request
            built = request("POST", f"{server.url}/sink", content=world.body([b"123"]))
            assert (await client.send(built)).json()["length"] == 3
            found.append(await attempt(lambda: client.send(built)))  # noqa: B023

    assert [failure.kind for failure in found] == [httpx.StreamConsumed] * 2


async def test_an_error_in_the_body_comes_out_as_it_is_and_costs_no_socket(world: World, server: Server) -> None:
    class OwnError(Exception):
        pass

    def parts() -> Any:
        yield b"1"
        raise OwnError

    for factory in both(world):
        async with world.client(transport=factory(limits=httpx.Limits(max_connections=1))) as client:
            for _ in range(3):
                with pytest.raises(OwnError):
                    await client.post(f"{server.url}/sink", content=world.body(parts()))
            assert (await client.get(server.url)).status_code == 200


async def test_a_response_is_streamed_as_it_comes(world: World, server: Server) -> None:
    for number, factory in enumerate(both(world)):
        async with world.client(transport=factory()) as client:
            async with client.stream("GET", f"{server.url}/hold-body/{number}") as response:
                parts = response.aiter_bytes()
                assert await anext(parts) == b"first "
                server.gate(str(number)).open()
                assert [part async for part in parts] == [b"last"]
                with pytest.raises(httpx.StreamConsumed):
                    await response.aread()
            assert response.is_closed


async def test_a_response_that_is_closed_early_and_one_that_is_never_read(world: World, server: Server) -> None:
    for factory in both(world):
        async with world.client(transport=factory(limits=httpx.Limits(max_connections=1))) as client:
            async with client.stream("GET", f"{server.url}/stream/10000000") as response:
                parts = response.aiter_raw()
                assert len(await anext(parts)) > 0
                await response.aclose()
                await parts.aclose()
            async with client.stream("GET", f"{server.url}/stream/10000000"):
                pass
            assert (await client.get(server.url)).status_code == 200


async def test_an_upgrade(world: World, server: Server) -> None:
    for factory in both(world):
        transport = factory()
        async with world.client(transport=transport) as client:
            headers = {"Connection": "upgrade", "Upgrade": "echo"}
            async with client.stream("GET", f"{server.url}/upgrade", headers=headers) as response:
                assert (response.status_code, response.headers["upgrade"]) == (101, "echo")
                stream = network_stream(world, response)
                assert await stream.read(100) == b"hello "
                await stream.write(b"123")
                assert await stream.read(100) == b"123"
                assert response.extensions["network_stream"].get_extra_info("server_addr")[1] == server.port
                await stream.aclose()
            assert (await client.get(server.url)).status_code == 200


async def test_what_the_network_stream_tells(world: World, server: Server) -> None:
    found = []
    for factory in both(world):
        async with world.client(transport=factory()) as client:
            async with client.stream("GET", f"{server.url}/bytes/5") as response:
                ask = response.extensions["network_stream"].get_extra_info
                sock = ask("socket")
                found.append(
                    (
                        ask("ssl_object"),
                        ask("server_addr")[:2],
                        ask("client_addr")[0],
                        ask("client_addr")[1] == sock.getsockname()[1],
                        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0,
                        ask("nonsense"),
                    )
                )
                await response.aread()

    assert found == [(None, ("127.0.0.1", server.port), "127.0.0.1", True, True, None)] * 2


@pytest.mark.parametrize("target", [b"*", b"/echo?\xc3\xa9=1", b"http://elsewhere/echo", b"/echo#a", b"/ech o", b""])
async def test_a_target_of_its_own(world: World, server: Server, target: bytes) -> None:
    answer = await same(world, "OPTIONS", f"{server.url}/echo", extensions={"target": target})

    if target in (b"http://elsewhere/echo", b"/echo#a"):
        assert answer.status == (200 if b"#" not in target else 404)
        assert server.requests[-1].target.encode() == target


async def test_the_timeout_extension(world: World, server: Server) -> None:
    slow = {"timeout": {"connect": 5.0, "read": 0.05, "write": 5.0, "pool": 5.0}}

    failure = await same(world, "GET", f"{server.url}/silence", extensions=slow)

    assert failure.kind is httpx.ReadTimeout


TRACED = ["/echo", "/status/204", "/close", "/chunked/2", "/early-hints", "/disconnect", "/garbage", "/truncated"]


@pytest.mark.parametrize("path", TRACED)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_traces(world: World, server: Server, method: str, path: str) -> None:
    """The events have the same names, in the same order, with the same details, on a new and on a reused connection."""
    found: list[list[tuple[str, list[str]]]] = []
    for factory in both(world):
        events: list[tuple[str, list[str]]] = []
        trace = world.callback(lambda name, info: events.append((name, sorted(info))))  # noqa: B023
        async with world.client(transport=factory()) as client:
            for _ in range(2):
                body = world.body([b"1", b"2"]) if method == "POST" else None
                await attempt(
                    lambda: client.request(method, server.url + path, content=body, extensions={"trace": trace})  # noqa: B023
                )
        found.append(events)

    assert found[0] == found[1]
    assert found[1][0][0] == "connection.connect_tcp.started"
    assert len(found[1]) > 10


async def test_the_trace_of_a_connect_that_fails(world: World) -> None:
    found: list[list[str]] = []
    with refusing_port() as port:
        for factory in both(world):
            events: list[str] = []
            trace = world.callback(lambda name, info: events.append(name))  # noqa: B023
            async with world.client(transport=factory(retries=1)) as client:
                await attempt(lambda: client.get(f"http://127.0.0.1:{port}/", extensions={"trace": trace}))  # noqa: B023
            found.append(events)

    assert found[0] == found[1]
    assert found[1].count("connection.connect_tcp.failed") == 2


async def test_connections_are_reused_alike(world: World, server: Server) -> None:
    """Which responses leave a connection that serves the next request, and which do not."""
    paths = [
        "/bytes/1",
        "/status/204",
        "/chunked/2",
        "/trailers",
        "/close",
        "/http10",
    ]  # with keep-alive the agent keeps it, as Node
    paths += ["/early-hints", "/status/304", "/gzip", "/close-delimited", "/bytes/0", "/keep-alive/60", "/bytes/100000"]
    counts = []
    for factory in both(world):
        before = server.accepted
        async with world.client(transport=factory()) as client:
            for path in paths:
                for method in ("GET", "HEAD"):
                    assert (await client.request(method, server.url + path)).status_code < 400
        counts.append(server.requests_per_connection[before:])

    assert counts[0] == counts[1]


async def test_local_address_and_socket_options(world: World, server: Server) -> None:
    options = {"local_address": "127.0.0.2", "socket_options": [(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)]}
    options["socket_options"] += [(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 37), (socket.SOL_SOCKET, 9, 1)]
    found = []
    for factory in both(world):
        async with world.client(transport=factory(**options)) as client:
            async with client.stream("GET", f"{server.url}/bytes/5") as response:
                ask = response.extensions["network_stream"].get_extra_info
                interval = ask("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
                found.append((ask("client_addr")[0], interval, ask("socket").getsockopt(socket.SOL_SOCKET, 9)))

    assert found == [("127.0.0.2", 37, 1)] * 2


async def test_answers_have_no_difference_that_the_table_would_miss(world: World, server: Server) -> None:
    """The comparison itself: two different answers are told apart, and so are an answer and a failure."""
    first = await same(world, "GET", f"{server.url}/bytes/1")
    second = await same(world, "GET", f"{server.url}/bytes/2")
    failure = await same(world, "GET", f"{server.url}/disconnect")

    assert isinstance(first, Answer)
    assert first != second
    assert first != failure
