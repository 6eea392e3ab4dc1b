"""Tests of code that uses an agent; nothing reaches the network."""

# --8<-- [start:code]
import httpx
import httpx2

import httpx_agent
import httpx_agent.httpx2

URL = "https://api.example/greeting"


def greeting() -> str:
    """The code under test."""
    transport = httpx_agent.AgentTransport(max_sockets=10)
    with httpx.Client(transport=transport) as client:
        return str(client.get(URL).json()["text"])


async def greeting_by_httpx2() -> str:
    """The same with httpx2, through a proxy."""
    transport = httpx_agent.httpx2.AgentTransport(proxy="http://proxy.example:3128")
    async with httpx2.AsyncClient(transport=transport) as client:
        return str((await client.get(URL)).json()["text"])


# --8<-- [end:code]
# --8<-- [start:respx]
import respx


def test_with_respx() -> None:
    with respx.mock as router:
        router.get(URL).respond(json={"text": "hello"})
        assert greeting() == "hello"


# --8<-- [end:respx]
# --8<-- [start:told]
def how_it_was_got(response: httpx.Response | httpx2.Response) -> str:
    """More code under test."""
    info = httpx_agent.request_info(response)
    return "not by an agent" if info is None else f"by socket {info.socket_id}"


def test_a_mock_uses_no_socket() -> None:
    with (
        respx.mock as router,
        httpx.Client(transport=httpx_agent.AgentTransport()) as client,
    ):
        router.get(URL).respond(json={"text": "hello"})
        assert how_it_was_got(client.get(URL)) == "not by an agent"


# --8<-- [end:told]
# --8<-- [start:pytest_httpx]
from pytest_httpx import HTTPXMock


def test_with_pytest_httpx(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url=URL, json={"text": "hello"})
    assert greeting() == "hello"


# --8<-- [end:pytest_httpx]
# --8<-- [start:pytest_httpx2]
import asyncio


def test_with_pytest_httpx2(httpx2_mock: respx.Router) -> None:
    httpx2_mock.get(URL).respond(json={"text": "hello"})
    assert asyncio.run(greeting_by_httpx2()) == "hello"


# --8<-- [end:pytest_httpx2]
# --8<-- [start:vcrpy]
import vcr


def test_with_vcrpy() -> None:
    with vcr.use_cassette("greeting.yaml", allow_playback_repeats=True):
        assert greeting() == "hello"
        assert asyncio.run(greeting_by_httpx2()) == "hello"


# --8<-- [end:vcrpy]
