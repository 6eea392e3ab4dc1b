"""respx mocks requests of the agent's transport as it does those of httpx's own, without set-up."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import httpx
import pytest
import respx

from httpx_agent import AgentTransport
from tests.drop_in.compare import CONTEXT, Answer, attempt, both
from tests.support.servers import Proxy, Server
from tests.support.worlds import World, clean_environment

pytestmark = pytest.mark.both_engines

URL = "https://mocked.example/things"
PROXY = "http://127.0.0.1:9"
"""A proxy that must not be asked."""

MODES = pytest.mark.parametrize("using", ["httpcore", "httpx"])


def test_httpcore_is_what_respx_patches_by_default() -> None:
    assert respx.MockRouter().using == "httpcore"


@MODES
@pytest.mark.parametrize("options", [{}, {"proxy": PROXY}, {"http2": True}], ids=["plain", "proxy", "http2"])
async def test_mocked_responses_cost_no_socket(world: World, using: str, options: dict[str, Any]) -> None:
    transport = AgentTransport(verify=CONTEXT, max_sockets=1, max_total_sockets=1, **options)
    async with world.client(transport=transport, timeout=5.0) as client:
        with respx.mock(using=using) as router:
            route = router.get(URL).respond(200, json={"a": 1})
            for _ in range(15):
                assert (await client.get(URL)).json() == {"a": 1}
            await world.gather(*[lambda: client.get(URL) for _ in range(5)])

        assert route.call_count == 20
        assert dict(transport.agent.status().sockets) == {}
        assert dict(transport.agent.status().free_sockets) == {}
        assert dict(transport.agent.status().requests) == {}
        assert len(transport._pool._requests) == 0


@MODES
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxy"])
async def test_mocked_responses_stay_as_the_mock_made_them(world: World, using: str, proxied: bool) -> None:
    found = []
    for factory in both(world):
        extensions = {"http_version": b"HTTP/9", "reason_phrase": b"Mocked", "mine": object}
        mocked = httpx.Response(201, headers=[("X-A", "1"), ("x-a", "2")], content=b"made", extensions=extensions)
        async with world.client(transport=factory(proxy=PROXY if proxied else None)) as client:
            with respx.mock(using=using) as router:
                router.post(URL).mock(return_value=mocked)
                response = await client.post(URL, content=b"123")
                found.append((response.status_code, response.headers.raw, response.content, dict(response.extensions)))
                request = router.calls.last.request
                found.append((str(request.url), request.method, request.content))

    assert found[:2] == found[2:]
    assert found[2][2] == b"made"
    assert "agent" not in found[2][3]


@MODES
async def test_streams_of_a_mock(world: World, using: str) -> None:
    found = []
    for factory in both(world):
        async with world.client(transport=factory()) as client:
            with respx.mock(using=using) as router:
                router.get(URL).mock(side_effect=lambda request: httpx.Response(200, content=world.body([b"1", b"2"])))
                async with client.stream("GET", URL) as response:
                    parts = [part async for part in response.aiter_raw()]
                    found.append((parts, dict(response.extensions), response.is_stream_consumed))

    assert found[0] == found[1]
    assert b"".join(found[1][0]) == b"12"


@MODES
@pytest.mark.parametrize(
    "error", [httpx.ConnectError, httpx.ReadTimeout, httpx.PoolTimeout, KeyError], ids=lambda error: error.__name__
)
async def test_errors_of_a_mock(world: World, using: str, error: type[Exception]) -> None:
    found = []
    for factory in both(world):
        transport = factory()
        async with world.client(transport=transport) as client:
            with respx.mock(using=using) as router:
                router.get(URL).mock(side_effect=error)
                for _ in range(3):
                    found.append(await attempt(lambda: client.get(URL)))
            assert len(transport._pool._requests) == 0

    assert found[:3] == found[3:]
    assert {failure.kind for failure in found} == {error}


@MODES
@pytest.mark.parametrize("error", [httpx.ConnectError, KeyError], ids=lambda error: error.__name__)
@pytest.mark.timeout(10)  # a walk over causes that does not end fills the memory
async def test_a_function_of_a_mock_that_raises(world: World, using: str, error: type[Exception]) -> None:
    """What respx raises then is its own cause's cause."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise error("mine")

    found = []
    for factory in both(world):
        transport = factory()
        async with world.client(transport=transport) as client:
            with respx.mock(using=using) as router:
                router.get(URL).mock(side_effect=fail)
                for _ in range(3):
                    found.append(await attempt(lambda: client.get(URL)))
            assert len(transport._pool._requests) == 0

    assert found[:3] == found[3:]
    assert {failure.kind for failure in found} == {error}


@MODES
async def test_what_is_not_mocked(world: World, using: str) -> None:
    for factory in both(world):
        async with world.client(transport=factory()) as client:
            with respx.mock(using=using) as router:
                router.get(URL).respond(200)
                await client.get(URL)
                with pytest.raises(respx.models.AllMockedAssertionError):
                    await client.get("https://other.example/")


@MODES
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxy"])
async def test_what_is_passed_through(world: World, server: Server, using: str, proxied: bool) -> None:
    """Mocked and real requests take turns on one slot.

    A request that respx passes on to a forwarding proxy is looked at once more by respx's patch of the connection,
    which takes the absolute form for a path and fails. That is respx's, and the same here; but it costs httpx's pool
    a slot each time, which is why only the agent has to do with one.
    """
    found = []
    for slots, factory in zip((100, 1), both(world), strict=True):
        with Proxy() as proxy:
            options = {"proxy": proxy.url} if proxied else {}
            async with world.client(transport=factory(limits=httpx.Limits(max_connections=slots), **options)) as client:
                with respx.mock(using=using, assert_all_called=False) as router:
                    router.get(URL).respond(202)
                    router.route(host="127.0.0.1").pass_through()
                    results: list[int | type[BaseException]] = []
                    for _ in range(3):
                        results.append((await client.get(URL)).status_code)
                        passed = await attempt(lambda: client.get(f"{server.url}/bytes/3"))
                        results.append(passed.status if isinstance(passed, Answer) else passed.kind)
            found.append((results, proxy.accepted))

    assert found[0] == found[1]
    assert found[1][0][::2] == [202] * 3
    if not (proxied and using == "httpcore"):
        assert found[1] == ([202, 200] * 3, int(proxied))
        assert server.requests_per_connection == [3, 3]


@MODES
async def test_a_mock_that_starts_and_ends_while_a_client_lives(world: World, server: Server, using: str) -> None:
    url = f"{server.url}/bytes/3"
    for factory in both(world):
        async with world.client(transport=factory()) as client:
            before = (await client.get(url)).status_code
            with respx.mock(using=using) as router:
                router.get(url).respond(299)
                during = (await client.get(url)).status_code
            after = (await client.get(url)).status_code

        assert (before, during, after) == (200, 299, 200)
    assert server.requests_per_connection == [2, 2]


#: Begins respx at another moment each time, and asks by a proxy where nobody listens.
LATE = """
import asyncio, sys
import httpx
from httpx_agent import AgentTransport

mode, moment, url, proxy = sys.argv[1:]
transport = AgentTransport(proxy=proxy) if moment == "after the transport" else None
import respx

async def ask(transport):
    async with httpx.AsyncClient(transport=transport) as client:
        return await client.get(url)

with respx.mock as router:
    router.get(url).respond(200, text="mocked")
    transport = transport or AgentTransport(proxy=proxy)
    if mode == "async":
        print(asyncio.run(ask(transport)).text)
    else:
        with httpx.Client(transport=transport) as client:
            print(client.get(url).text)
"""


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("moment", ["before the transport", "after the transport"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "https://127.0.0.1:1", "socks5://127.0.0.1:1"])
def test_respx_may_begin_at_any_moment(mode: str, moment: str, proxy: str) -> None:
    """It sees the request itself, and not what is said to the proxy."""
    finished = subprocess.run(
        [sys.executable, "-c", LATE, mode, moment, "https://a.test/", proxy],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
        timeout=20,
    )
    assert (finished.stdout, finished.stderr) == ("mocked\n", "")


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxy"])
async def test_respx_may_begin_when_there_are_sockets(world: World, server: Server, proxied: bool) -> None:
    """It knows nothing of the transport then, and answers in the place of a free socket."""
    url = f"{server.url}/bytes/3"
    with Proxy() as proxy:
        async with world.client(transport=AgentTransport(proxy=proxy.url if proxied else None)) as client:
            before = (await client.get(url)).status_code
            respx.mocks.HTTPCoreMocker.remove_targets("httpx_agent._api.httpx.AgentPool")
            with respx.mock as router:
                router.get(url).respond(299)
                during = (await client.get(url)).status_code
            after = (await client.get(url)).status_code
    assert (before, during, after) == (200, 299, 200)
    assert server.requests_per_connection == [2]


def test_respx_in_the_middle_of_its_import(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    """By another thread: its module is there, and nothing is in it yet."""
    with httpx.Client(transport=AgentTransport()) as client:
        monkeypatch.setitem(sys.modules, "respx.mocks", ModuleType("respx.mocks"))
        assert client.get(f"{server.url}/bytes/3").status_code == 200
