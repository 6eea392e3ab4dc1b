"""How the event loop's own backend opens a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import AgentTransport
from httpx_agent._network.asyncio import AsyncioConnector
from httpx_agent._protocol.http1 import RecentFields
from tests.support.raw import Peer, raw_server
from tests.support.worlds import World
from tests.unit.protocol.drivers import (
    ASYNCIO,
    KEY,
    OPTIONS,
    URL,
    in_loop,
)
from tests.unit.protocol.drivers import _wire as new_wire

pytestmark = pytest.mark.fast_engine


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def request(**extensions: Any) -> httpcore.Request:
    return httpcore.Request("GET", URL, headers=[("Host", "a")], extensions=extensions)


async def _silent(name: str, info: Any) -> None:
    pass


@in_loop
async def test_a_request_that_is_dropped_while_it_connects() -> None:
    class Slow:
        async def connect_tcp(self, **_: Any) -> Any:
            await asyncio.get_running_loop().create_future()

    connection: Any = ASYNCIO(KEY, new_wire(), Slow(), OPTIONS, None, RecentFields())
    coroutine = connection.handle_async_request(request(trace=_silent))
    coroutine.send(None)
    coroutine.close()
    assert connection.is_idle()  # never opened: as httpcore's says it
    await connection.aclose()


@pytest.mark.both_engines
async def test_when_it_is_told_that_a_body_is_read(world: World) -> None:
    """Before the first part is taken, and after the last one, though all of it has arrived."""
    told: list[str] = []

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(OK)
        peer.wait_closed()

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport()) as client:
            listen = world.callback(lambda name, info: told.append(name))
            async with client.stream("GET", url, extensions={"trace": listen}) as response:
                assert told[-1] == "http11.receive_response_headers.complete"
                parts = response.aiter_raw()
                assert await anext(parts) == b"ok"
                assert told[-1] == "http11.receive_response_body.started"
                assert [part async for part in parts] == []
                body = [name for name in told if "body" in name and "receive" in name]
                assert body == [f"http11.receive_response_body.{event}" for event in ("started", "complete")]


async def test_a_name_with_several_addresses(world: World) -> None:
    """The one that answers serves."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(OK)

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport()) as client:
            response = await client.get(url.replace("127.0.0.1", "localhost"))
            assert response.text == "ok"


async def test_a_zone_comes_to_the_socket(world: World) -> None:
    """For uvloop it must stand in the host; other loops take it from where the system has it."""
    async with world.client(transport=AgentTransport()) as client:
        with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)) as caught:
            await client.get("http://[fe80::1%251]:9/", timeout=0.05)
    assert "Invalid argument" not in str(caught.value)
    assert "tried [fe80::1%1]:9" in str(caught.value)


@in_loop
async def test_a_socket_that_cannot_be_prepared_is_closed() -> None:
    with raw_server(lambda peer: peer.wait_closed()) as url:
        port = httpx.URL(url).port
        assert port is not None
        connector = AsyncioConnector(new_wire(), asyncio.get_running_loop().call_soon)
        with pytest.raises(httpcore.ConnectError):
            await connector.connect_tcp("127.0.0.1", port, 5.0, None, [(-1, -1, 0)])
