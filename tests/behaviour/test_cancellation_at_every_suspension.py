"""A request that is cancelled, wherever that happens, costs neither its slot nor a connection left open."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from httpx_agent import AgentTransport
from tests.support.servers import Certificates, Proxy, Server, Socks
from tests.support.worlds import World, cancel_at

pytestmark = pytest.mark.both_engines

Way = Callable[[Certificates, Path], Any]


@contextmanager
def plain(certificates: Certificates, folder: Path) -> Iterator[tuple[str, dict[str, Any], list[Server]]]:
    with Server() as server:
        yield server.url, {}, [server]


@contextmanager
def tls(certificates: Certificates, folder: Path) -> Iterator[tuple[str, dict[str, Any], list[Server]]]:
    with Server(tls=certificates.server(alpn=["http/1.1"])) as server:
        yield server.url, {}, [server]


@contextmanager
def http2(certificates: Certificates, folder: Path) -> Iterator[tuple[str, dict[str, Any], list[Server]]]:
    with Server(tls=certificates.server(alpn=["h2"])) as server:
        yield server.url, {"http2": True}, [server]


@contextmanager
def forwarded(certificates: Certificates, folder: Path) -> Iterator[tuple[str, dict[str, Any], list[Server]]]:
    with Server() as server, Proxy() as proxy:
        yield server.url, {"proxy": proxy.url}, [server, proxy]


@contextmanager
def tunnelled(certificates: Certificates, folder: Path) -> Iterator[tuple[str, dict[str, Any], list[Server]]]:
    with Server(tls=certificates.server()) as server, Proxy() as proxy:
        yield server.url, {"proxy": proxy.url}, [server, proxy]


@contextmanager
def through_socks(certificates: Certificates, folder: Path) -> Iterator[tuple[str, dict[str, Any], list[Server]]]:
    with Server(tls=certificates.server()) as server, Socks(credentials=("user", "pass")) as socks:
        yield server.url, {"proxy": f"socks5://user:pass@{socks.netloc}"}, [server, socks]


@contextmanager
def unix(certificates: Certificates, folder: Path) -> Iterator[tuple[str, dict[str, Any], list[Server]]]:
    with Server(uds=str(folder / "socket")) as server:
        yield "http://some.name", {"uds": server.uds}, [server]


def balance(transport: AgentTransport) -> tuple[int, int]:
    """The sockets created, and those that are accounted for."""
    status = transport.agent.status()
    gone = status.create_socket_error_count + status.close_socket_count + status.detached_socket_count
    return status.create_socket_count, gone + sum(status.sockets.values()) + sum(status.free_sockets.values())


@pytest.mark.slow
@pytest.mark.rule("R23")
@pytest.mark.in_loops
@pytest.mark.parametrize("fresh", [True, False], ids=["new socket", "reused socket"])
@pytest.mark.parametrize(
    "way", [plain, tls, http2, forwarded, tunnelled, through_socks, unix], ids=lambda way: way.__name__
)
async def test_cancelled_at_every_suspension(
    world: World, certificates: Certificates, tmp_path: Path, way: Way, fresh: bool
) -> None:
    with way(certificates, tmp_path) as (url, options, servers):
        transport = AgentTransport(verify=certificates.client(), max_sockets=1, max_total_sockets=1, **options)
        async with world.client(transport=transport, timeout=5.0) as client:

            async def request() -> None:
                response = await client.post(f"{url}/echo", content=world.body([b"123", b"45"]))
                assert response.status_code == 200

            for step in itertools.count(1):
                if fresh:
                    await transport.agent.aclose()
                else:
                    await request()
                reached = await cancel_at(step, request)

                assert len(transport._pool._requests) == 0
                created, accounted = balance(transport)
                assert created == accounted
                assert sum(transport.agent.status().sockets.values()) == 0
                if not reached:
                    break
            assert step > (1 if not fresh else 2)
            with anyio.fail_after(5):
                await request()
        for server in servers:
            server.wait_closed()
