"""No secret of a request appears in anything from the agent: messages, warnings, logs, values, `repr`."""

from __future__ import annotations

import gc
import logging
import ssl
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import FAULTS, REFUSED, ChaosServer, Network, Script, assert_no_leaks, respond
from tests.support.servers import Certificates, Proxy, Server, Socks
from tests.support.worlds import World

pytestmark = pytest.mark.both_engines

SECRET = "hunter2"
HEADERS = {
    "Authorization": f"Bearer {SECRET}",
    "Cookie": f"session={SECRET}",
    "X-Api-Key": SECRET,
    "Proxy-Authorization": f"Basic {SECRET}",
}
PATH = f"/{SECRET}?token={SECRET}"


#: httpx's line for each request names the URL; httpcore tells, at level DEBUG, the password for a SOCKS proxy.
NOT_OURS = {"httpx", "httpx2", "httpcore.socks", "httpcore2.socks"}


class Listener(logging.Handler):
    """Everything that is logged but by those who tell what they should not."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name not in NOT_OURS:
            self.lines.append(record.getMessage() + (str(record.exc_info) if record.exc_info else ""))


@pytest.fixture
def logs() -> Iterator[list[str]]:
    listener = Listener()
    root = logging.getLogger()
    level = root.level
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    yield listener.lines
    root.removeHandler(listener)
    root.setLevel(level)


def told_by(agent: Agent) -> str:
    """All that an agent and its transport say of themselves."""
    transport = AgentTransport(agent=agent)
    things = [agent, transport, transport._pool, agent.options, agent.sockets(), agent.status()]
    return "\n".join([*map(repr, things), str(agent.status()), str(agent.options)])


async def send(client: Any, url: str, **kwargs: Any) -> str:
    """All that comes of a request except its response: what was raised, with every cause that is shown."""
    content = SECRET.encode() if "content" not in kwargs else kwargs.pop("content")
    try:
        response = await client.put(url, headers={**HEADERS, **kwargs.pop("headers", {})}, content=content, **kwargs)
    except httpx.HTTPError as error:
        shown = traceback.format_exception(error)
        return "\n".join([str(error), repr(error), *(line for line in shown if not line.startswith("  "))])
    return repr(response.extensions["agent"])


def check(texts: list[str]) -> None:
    for text in texts:
        assert SECRET not in text
        assert "token=" not in text


@pytest.mark.parametrize("name", ["fine", *FAULTS])
async def test_a_fault(world: World, certificates: Certificates, logs: list[str], name: str) -> None:
    with ChaosServer(ssl_context=certificates.server()) as server:
        agent = Agent(verify=certificates.client(), debug=True)
        async with world.client(transport=AgentTransport(agent=agent), timeout=httpx.Timeout(5, read=0.1)) as client:
            for _ in range(2):  # the second time on a used socket, if it lasts
                server.next(name if name in FAULTS else respond(b"fine"))
                said = await send(client, server.url + PATH)
                check([said, told_by(agent)])
            server.wait_for(lambda: server.requests)  # a client may give up before a busy server has looked
            assert server.requests[0].get("authorization") == f"Bearer {SECRET}"
        await world.close(agent)
    assert logs
    check(logs)


async def test_a_header_value_that_cannot_be_sent(world: World, logs: list[str]) -> None:
    """A key that was read from a file with its line break: the message names the header, not the key."""
    agent = Agent()
    with ChaosServer() as server:
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            said = await send(client, server.url + PATH, headers={"Authorization": f"Bearer {SECRET}\n"})
            assert f"PUT {server.url}: Illegal header value of Authorization" in said
            check([said])
        await world.close(agent)
        assert server.requests == []
    if "h11" not in world.name and world.name != "trio":  # there httpcore's own log, at level DEBUG, repeats the value
        check(logs)


async def test_what_never_reaches_a_server(world: World, logs: list[str]) -> None:
    """Refused, no socket, agent closed, no such scheme."""
    network = Network(default=Script(connect=REFUSED))
    agent = Agent(debug=True, max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        said = [
            await send(client, "http://a.test" + PATH),
            await send(client, f"http://{SECRET}-user:{SECRET}@a.test" + PATH),
            await send(client, "gopher://a.test" + PATH),
        ]
        network.default = Script()
        async with client.stream("GET", "http://a.test" + PATH, headers=HEADERS):
            said.append(await send(client, "http://a.test" + PATH, timeout=httpx.Timeout(5, pool=0.01)))
            with pytest.raises(AssertionError) as caught:
                assert_no_leaks(agent)
            said += [str(caught.value), told_by(agent)]
    await world.close(agent)
    assert "ConnectError" in said[0]
    assert "UnsupportedProtocol" in said[2]
    assert "PoolTimeout" in said[3]
    check([*said, *logs])


def test_a_response_that_is_dropped() -> None:
    agent = Agent(debug=True, **Network(default=Script((b"HTTP/1.1 200 OK\r\n\r\npart",))).options)
    transport = AgentTransport(agent=agent)
    response = transport.handle_request(httpx.Request("GET", "http://a.test" + PATH, headers=HEADERS))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del response
        gc.collect()
    told = [str(warning.message) for warning in caught]
    assert any("was neither read nor closed" in text for text in told)
    check(told)
    agent.close()


@pytest.mark.parametrize("kind", ["url", "proxy"])
async def test_a_proxy_s_password(world: World, certificates: Certificates, logs: list[str], kind: str) -> None:
    """Accepted and refused, tunnelled and not; as part of the URL and as `httpx.Proxy`."""
    said = []
    with Server() as plain, Server(tls=certificates.server()) as tls:
        for password in (SECRET, SECRET + "-not"):
            with Proxy(credentials=("user", password)) as proxy:
                with_password = proxy.url.replace("://", f"://user:{SECRET}@")
                given = with_password if kind == "url" else httpx.Proxy(proxy.url, auth=("user", SECRET))
                agent = Agent(proxy=given, verify=certificates.client(), debug=True)
                async with world.client(transport=AgentTransport(agent=agent)) as client:
                    for url in (plain.url, tls.url):
                        said += [await send(client, f"{url}/echo?token={SECRET}"), told_by(agent)]
                await world.close(agent)
        with Socks(credentials=("user", SECRET + "-not")) as socks:
            agent = Agent(proxy=f"socks5://user:{SECRET}@{socks.netloc}")
            async with world.client(transport=AgentTransport(agent=agent)) as client:
                said += [await send(client, plain.url), told_by(agent)]
            await world.close(agent)
    assert any("407" in text for text in said)
    check([*said, *logs])


@pytest.mark.parametrize(
    "options",
    [
        {"proxy": f"ftp://user:{SECRET}@proxy.test"},
        {"proxy": f"http://user:{SECRET}@"},
        {"proxy": f"http://user:{SECRET}@proxy.test:port"},
        {"proxy": SECRET.encode()},
        {"cert": ("cert.pem", "key.pem", SECRET, SECRET)},
        {"cert": {"password": SECRET}},
    ],
    ids=str,
)
def test_options_that_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        Agent(**options)
    check([str(caught.value)])


@pytest.mark.filterwarnings("ignore:.*cert=:DeprecationWarning")
@pytest.mark.parametrize("password", [SECRET, SECRET + "-not"], ids=["right", "wrong"])
def test_a_key_s_password(certificates: Certificates, tmp_path: Path, password: str) -> None:
    """In no `repr`, and not in the error if it is wrong."""
    paths = certificates.write(tmp_path)
    key = load_pem_private_key(Path(paths["key"]).read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(SECRET.encode()))
    Path(paths["key"]).write_bytes(locked)
    with ChaosServer(ssl_context=certificates.server()) as server:
        said = []
        try:
            with Agent(cert=(paths["cert"], paths["key"], password)) as agent:
                said.append(told_by(agent))
                with httpx.Client(transport=AgentTransport(agent=agent)) as client:
                    client.get(server.url)
        except (httpx.ConnectError, ssl.SSLError) as error:
            said += [str(error), repr(error), "".join(traceback.format_exception_only(error))]
        assert len(said) > 1
        check(said)
