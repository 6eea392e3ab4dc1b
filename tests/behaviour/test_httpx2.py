"""The second family: `httpx_agent.httpx2`, for httpx2 on httpcore2.

What both do alike is in the other tests, which `tests.support.over_httpx2` turns to httpx2. Here stands what tells the
two apart.
"""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from ast import literal_eval
from collections.abc import AsyncIterator
from typing import Any

import httpcore
import httpcore2
import httpx
import httpx2
import pytest

import httpx_agent
import httpx_agent.httpx2
from tests.architecture.test_imports import run_fresh
from tests.support.servers import Server
from tests.support.worlds import World

FIRST: Any = (httpx_agent, httpx, httpcore, "httpx_agent")
SECOND: Any = (httpx_agent.httpx2, httpx2, httpcore2, "httpx_agent.httpx2")
BOTH = pytest.mark.parametrize(("ours", "library", "core", "home"), [FIRST, SECOND], ids=["httpx", "httpx2"])
EACH_BESIDE_THE_OTHER = pytest.mark.parametrize(
    ("one", "other"), [(FIRST, SECOND), (SECOND, FIRST)], ids=["httpx", "httpx2"]
)

#: Sends a request from threads, asyncio and trio, and prints which of the libraries were imported.
USE = """
import asyncio, sys, trio

async def main():
    async with {library}.AsyncClient(transport=AgentTransport()) as client:
        print((await client.get({url!r})).extensions["agent"].reused)

with {library}.Client(transport=AgentTransport()) as client:
    print(client.get({url!r}).extensions["agent"].reused)
asyncio.run(main())
trio.run(main)
print(sorted({{"httpx", "httpcore", "httpx2", "httpcore2"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("head", "library", "imported"),
    [
        ("import httpx; from httpx_agent import Agent, AgentTransport", "httpx", ["httpcore", "httpx"]),
        ("import httpx2; from httpx_agent.httpx2 import Agent, AgentTransport", "httpx2", ["httpcore2", "httpx2"]),
    ],
    ids=["httpx", "httpx2"],
)
def test_a_family_does_without_the_others_packages(
    server: Server, head: str, library: str, imported: list[str]
) -> None:
    done = run_fresh(head + USE.format(library=library, url=f"{server.url}/bytes/3"))
    assert done == f"False\nFalse\nFalse\n{imported}"


def test_where_import_httpx_means_httpx2(server: Server) -> None:
    """In a process of its own: after this there is no httpx in it any more."""
    head = """
import httpx2
httpx2.alias_httpx()
import httpx
from httpx_agent.httpx2 import Agent, AgentTransport
assert httpx.Client is httpx2.Client
assert isinstance(AgentTransport(), httpx.HTTPTransport)
"""
    done = run_fresh(head + USE.format(library="httpx", url=f"{server.url}/bytes/3"))
    assert done == "False\nFalse\nFalse\n['httpcore', 'httpcore2', 'httpx', 'httpx2']"


def test_where_import_httpx_means_httpx2_the_first_familys_names_serve_too(server: Server) -> None:
    head = """
import httpx2
httpx2.alias_httpx()
import httpx
from httpx_agent import Agent, AgentTransport
assert isinstance(AgentTransport(), httpx2.HTTPTransport)
"""
    done = run_fresh(head + USE.format(library="httpx2", url=f"{server.url}/bytes/3"))
    assert done.startswith("False\nFalse\nFalse\n")


@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:1", "socks5://127.0.0.1:1"])
def test_where_import_httpx_means_httpx2_respx_means_it_too(proxy: str | None) -> None:
    """It knows the library by its other name, and sees the request, and not what is said to a proxy."""
    code = f"""
import httpx2
httpx2.alias_httpx()
import httpx
import respx
from httpx_agent.httpx2 import AgentTransport
with respx.mock() as router:
    router.get("https://a.test/").respond(text="mocked")
    with httpx.Client(transport=AgentTransport(proxy={proxy!r})) as client:
        print(client.get("https://a.test/").text)
"""
    assert run_fresh(code) == "mocked"


@pytest.mark.parametrize("missing", ["httpx2", "httpcore2"])
def test_without_httpx2_the_module_says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delitem(sys.modules, "httpx_agent.httpx2")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError) as caught:
        importlib.import_module("httpx_agent.httpx2")
    assert str(caught.value) == "httpx_agent.httpx2 needs the package 'httpx2': pip install \"httpx-agent[httpx2]\""


#: Lets both families work: both engines, in threads and loops, and proxies. Prints the classes of ours that there are
#: then, by the families among their ancestors.
BOTH_AT_WORK = """
import asyncio, gc, trio
import httpx, httpx2, httpx_agent, httpx_agent.httpx2

async def main(library, transport):
    async with library.AsyncClient(transport=transport) as client:
        await client.get({url!r})

for library, ours in ((httpx, httpx_agent), (httpx2, httpx_agent.httpx2)):
    for engine in ("h11", "httptools"):
        with library.Client(transport=ours.AgentTransport(http1_engine=engine)) as client:
            client.get({url!r})
        asyncio.run(main(library, ours.AgentTransport(http1_engine=engine)))
        trio.run(main, library, ours.AgentTransport(http1_engine=engine))
    for proxy in ("http://127.0.0.1:9", "socks5://127.0.0.1:9"):
        ours.AgentTransport(proxy=proxy)

found = {{}}
for kind in gc.get_objects():
    if isinstance(kind, type):
        roots = {{str(base.__module__).partition(".")[0] for base in kind.__mro__}}
        families = ("httpx" if roots & {{"httpx", "httpcore"}} else "",
                    "httpx2" if roots & {{"httpx2", "httpcore2"}} else "")
        if "httpx_agent" in roots and any(families):
            found.setdefault(" ".join(families).strip(), []).append(kind.__name__)
print({{families: sorted(names) for families, names in found.items()}})
"""


def test_no_class_has_ancestors_in_both(server: Server) -> None:
    """Of all classes, those that are made at run time too; and each family has its own of every kind."""
    found = literal_eval(run_fresh(BOTH_AT_WORK.format(url=f"{server.url}/bytes/3")))
    assert found.keys() == {"httpx", "httpx2"}
    assert found["httpx"] == found["httpx2"]
    assert {"AgentTransport", "AgentPool", "SyncStream", "SyncHttp1Connection"} <= {*found["httpx"]}


@BOTH
def test_a_transport_is_one_of_its_librarys(ours: Any, library: Any, core: Any, home: str) -> None:
    transport = ours.AgentTransport()
    for kind in (library.BaseTransport, library.AsyncBaseTransport, library.HTTPTransport, library.AsyncHTTPTransport):
        assert isinstance(transport, kind)
    for name in ("Agent", "AgentTransport"):
        assert getattr(ours, name).__module__ == home
        assert getattr(ours, name).__doc__


def refusal(one: Any, other: Any, name: str = "") -> str:
    """What a transport of one family says to a request of the other."""
    return (
        f"{name or one[3] + '.AgentTransport'} works with {one[1].__name__} clients but got an "
        f"{other[1].__name__} request ({other[1].__name__}.Request); nothing was sent. "
        f"Use `from {other[3]} import AgentTransport`"
    )


@EACH_BESIDE_THE_OTHER
@pytest.mark.parametrize("given_as", ["transport", "mounts"])
async def test_a_client_of_the_other_family_is_told_what_to_write(
    world: World, one: Any, other: Any, given_as: str
) -> None:
    """At once, and before anything is sent; the library's own transports have a bare `AssertionError`."""
    transport, library = one[0].AgentTransport(), other[1]
    given: Any = {given_as: {"http://": transport} if given_as == "mounts" else transport}
    client = (library.Client if world.is_sync else library.AsyncClient)(**given)
    with pytest.raises(TypeError) as caught:
        await world.call(client.get, "http://127.0.0.1:1/")
    await world.close(client)
    assert str(caught.value) == refusal(one, other)
    assert transport.agent.status().create_socket_count == 0


@EACH_BESIDE_THE_OTHER
def test_a_subclass_of_either_is_known(one: Any, other: Any) -> None:
    mine = type("Mine", (one[0].AgentTransport,), {"__module__": "app"})
    theirs = type("Theirs", (other[1].Request,), {"__module__": "app"})
    with pytest.raises(TypeError) as caught:
        mine().handle_request(theirs("GET", "http://127.0.0.1:1/"))
    assert str(caught.value) == refusal(one, other, "app.Mine").replace(f"{other[1].__name__}.Request", "app.Theirs")


def test_the_other_family_is_refused_without_assertions_too(server: Server) -> None:
    """With `-O` the request went out, and its response came back as one of the wrong library."""
    code = """
import httpx2, sys
from httpx_agent import AgentTransport
assert False
with httpx2.Client(transport=AgentTransport()) as client:
    try:
        client.get(sys.argv[1])
    except TypeError as error:
        print(str(error).partition("; ")[2])
"""
    command = [sys.executable, "-O", "-c", code, server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    said = "nothing was sent. Use `from httpx_agent.httpx2 import AgentTransport`\n"
    assert (done.stdout, done.stderr) == (said, "")
    assert not server.requests


async def _never() -> AsyncIterator[bytes]:
    raise AssertionError
    yield b""


@BOTH
async def test_a_body_for_the_other_world_is_refused(
    world: World, ours: Any, library: Any, core: Any, home: str
) -> None:
    """A client looks at that itself; another transport around this one may not, or may change the request."""
    body = _never() if world.is_sync else iter([b"x"])
    request = library.Request("POST", "http://127.0.0.1:1/", content=body)
    transport = ours.AgentTransport()
    with pytest.raises(TypeError) as caught:
        await world.handle(transport, request)
    client = "an AsyncClient" if world.is_sync else "a Client"
    kind = type(request.stream)
    assert str(caught.value) == (
        f"{home}.AgentTransport got a request whose body is for {client} ({kind.__module__}.{kind.__qualname__}); "
        f"nothing was sent. Use {client}, or pass the body as bytes"
    )
    assert transport.agent.status().create_socket_count == 0


@BOTH
@pytest.mark.parametrize("what", ["GET", "URL"])
async def test_what_is_no_request_is_refused(
    world: World, ours: Any, library: Any, core: Any, home: str, what: str
) -> None:
    given = what if what == "GET" else library.URL("http://a.test")
    named = "str" if what == "GET" else f"{library.__name__}.URL"
    with pytest.raises(TypeError) as caught:
        await world.handle(ours.AgentTransport(), given)
    assert str(caught.value) == f"{home}.AgentTransport: expected an {library.__name__}.Request, got {named}"


@EACH_BESIDE_THE_OTHER
@pytest.mark.parametrize(
    ("option", "kind"), [("network_backend", "SyncBackend"), ("async_network_backend", "AnyIOBackend")]
)
def test_a_backend_of_the_other_family_is_refused(one: Any, other: Any, option: str, kind: str) -> None:
    """Its exceptions would reach the caller as they are, which the client takes for no failure of a request."""
    backend = getattr(other[2], kind)()
    with pytest.raises(TypeError) as caught:
        one[0].Agent(**{option: backend})
    expected = "AsyncNetworkBackend" if option.startswith("async") else "NetworkBackend"
    assert str(caught.value) == (
        f"{option}={backend!r}: expected an {one[2].__name__}.{expected} or None, got {type(backend).__module__}.{kind}"
    )


@pytest.mark.parametrize("name", ["Agent", "AgentTransport"])
def test_both_take_the_same_arguments(name: str) -> None:
    first = inspect.signature(getattr(httpx_agent, name))
    assert first == inspect.signature(getattr(httpx_agent.httpx2, name))
    library = list(inspect.signature(httpx.HTTPTransport).parameters)
    assert list(first.parameters)[: len(library)] == library
    assert library == list(inspect.signature(httpx2.HTTPTransport).parameters)


@EACH_BESIDE_THE_OTHER
def test_an_agent_of_the_other_family_is_refused(one: Any, other: Any) -> None:
    agent = other[0].Agent()
    with pytest.raises(TypeError) as caught:
        one[0].AgentTransport(agent=agent)
    assert str(caught.value) == f"agent={agent!r}: expected an {one[3]}.Agent, got {other[3]}.Agent"


@EACH_BESIDE_THE_OTHER
def test_limits_of_the_other_family_are_refused(one: Any, other: Any) -> None:
    limits = other[1].Limits(max_connections=5)
    with pytest.raises(TypeError) as caught:
        one[0].Agent(limits=limits)
    this, that = one[1].__name__, other[1].__name__
    assert str(caught.value) == f"limits={limits!r}: expected {this}.Limits or None, got {that}.Limits"
    assert one[0].Agent(limits=one[1].Limits(max_connections=5)).max_total_sockets == 5


@EACH_BESIDE_THE_OTHER
@pytest.mark.parametrize("kind", ["Proxy", "URL"])
def test_a_proxy_of_the_other_family_is_refused(one: Any, other: Any, kind: str) -> None:
    this, that = one[1].__name__, other[1].__name__
    with pytest.raises(TypeError) as caught:
        one[0].AgentTransport(proxy=getattr(other[1], kind)("http://proxy.test"))
    expected = f"expected a str, {this}.URL or {this}.Proxy of http, https, socks5 or socks5h, or None"
    assert str(caught.value) == f"proxy: {expected}, got {that}.{kind}"
    proxy = one[0].AgentTransport(proxy=getattr(one[1], kind)("http://proxy.test")).agent.proxy
    assert isinstance(proxy, one[1].Proxy)


@BOTH
@pytest.mark.parametrize(
    ("proxy", "is_known"),
    [(None, False), ("http://a.test:1", True), ("https://a.test:1", True), ("socks5://a.test:1", False)],
)
def test_a_pool_with_an_http_proxy_is_known_as_such(
    ours: Any, library: Any, core: Any, home: str, proxy: str | None, is_known: bool
) -> None:
    """As in the library's own transports; pytest-httpx, for one, asks."""
    with ours.Agent(proxy=proxy) as agent:
        for transport in (library.HTTPTransport(proxy=proxy), ours.AgentTransport(agent=agent)):
            assert isinstance(transport._pool, core.HTTPProxy) is is_known
        for pool in (ours.AgentTransport(proxy=proxy)._pool, ours.AgentTransport(agent=agent)._pool):
            assert type(pool).__name__ == "AgentPool"
            assert isinstance(pool, type(ours.AgentTransport()._pool))
            assert repr(pool) == "<AgentPool <Agent sockets: none; requests waiting: 0>>"


@BOTH
def test_a_pool_tells_its_proxy_as_the_librarys_does(ours: Any, library: Any, core: Any, home: str) -> None:
    proxy = library.Proxy("http://user:secret@a.test:1/x", headers={"x-a": "1"})
    theirs, mine = (kind(proxy=proxy)._pool for kind in (library.HTTPTransport, ours.AgentTransport))
    assert bytes(mine._proxy_url) == bytes(theirs._proxy_url) == b"http://a.test:1/x"
    assert mine._proxy_headers == theirs._proxy_headers
    assert len(mine._proxy_headers) == 2
