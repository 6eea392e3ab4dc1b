"""Mocks that answer below the pool, at httpcore's connections."""

from __future__ import annotations

from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import AgentTransport
from httpx_agent._family import Originals
from tests.support.raw import Peer, raw_server
from tests.support.worlds import World

URL = "http://a.test/"

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_a_mock_that_answers_at_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """As others than respx may do; the socket that was meant for the request is forgotten."""

    def answer(connection: object, request: object) -> httpcore.Response:
        return httpcore.Response(200, content=b"mocked", extensions={"mine": 1})

    transport = AgentTransport(max_sockets=1)
    monkeypatch.setattr(httpcore.HTTPConnection, "handle_request", answer)
    with httpx.Client(transport=transport) as client:
        for _ in range(15):
            response = client.get(URL)
            assert response.text == "mocked"
            assert response.extensions == {"mine": 1}
    assert transport.agent.sockets() == ()
    assert transport.agent.status().create_socket_error_count == 15


def test_without_respx_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "respx.mocks")
    AgentTransport().close()


@pytest.mark.fast_engine
def test_methods_that_are_replaced() -> None:
    """Whatever it is called, and whenever it comes."""
    originals = Originals((httpcore.HTTPConnection,), "handle_request")
    own = httpcore.HTTPConnection.handle_request

    def handle_request(self: Any, request: Any) -> Any: ...

    handle_request.__module__ = own.__module__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore.HTTPConnection, "handle_request", handle_request)
        assert originals.are_replaced()
    assert not originals.are_replaced()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore.HTTPConnection, "handle_request", handle_request)
        assert originals.are_replaced()
    assert not originals.are_replaced()


@pytest.mark.fast_engine
async def test_a_mock_at_a_free_socket(world: World) -> None:
    """The engine steps aside, and no byte leaves: the mock stands on httpcore's connection, for a new socket."""
    requests: list[bytes] = []

    def serve(peer: Peer) -> None:
        while True:
            requests.append(peer.read_head())
            peer.send(OK)

    def mocked(self: Any, request: Any) -> Any:
        return httpcore.Response(299, content=b"")

    async def amocked(self: Any, request: Any) -> Any:
        return httpcore.Response(299, content=b"")

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport()) as client:
            assert (await client.get(url)).status_code == 200
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(httpcore.HTTPConnection, "handle_request", mocked)
                patch.setattr(httpcore.AsyncHTTPConnection, "handle_async_request", amocked)
                assert (await client.get(url)).status_code == 299
            assert (await client.get(url)).status_code == 200
    assert len(requests) == 2
