"""A scripted network that fails at each operation in turn; after each failure nothing is left, and the agent works.

The table is generated: what the network can do at an operation, for each operation of a request. A response is read in
pieces, so that "each read" means before its first byte, within its head, within its body, and after its end.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import (
    FIN,
    HANG,
    REFUSED,
    RST,
    TIMEOUT,
    UNASKED,
    Network,
    Script,
    assert_no_leaks,
    respond,
    trickle,
)
from tests.support.worlds import World

pytestmark = pytest.mark.sweep

CONTEXT = ssl.create_default_context()
URLS = ["http://a.test/", "https://a.test/"]
ORIGINS = dict(zip(URLS, ["http://a.test:80", "https://a.test:443"], strict=True))
OK = respond(b"ok")
CLOSED = {"connect": httpx.ConnectError, "tls": httpx.ConnectError}

#: A response in pieces; a fault can come before each, and after the last.
PIECES = [OK[:5], OK[5:20], OK[20:-2], OK[-2:-1], OK[-1:]]
COMPLETE = len(PIECES)

#: Head and two parts of a body that has no length.
WRITES = 4


@dataclass(frozen=True)
class Case:
    """A fault at an operation, and what a request on a new socket makes of it: an exception, or a response."""

    operation: str
    number: int
    fault: str
    step: Any
    outcome: type[Exception] | None

    @property
    def name(self) -> str:
        return f"{self.operation} {self.number}: {self.fault}"

    def script(self, before: int = 0) -> Script:
        """The script of a connection that fails so, after it has served some requests well."""
        if self.operation == "connect":
            return Script(connect=self.step)
        if self.operation == "tls":
            return Script(tls=self.step)
        if self.operation == "write":
            return Script(writes={before * WRITES + self.number: self.step})
        step = self.step if isinstance(self.step, list) else [self.step]
        return Script(*[OK] * before, [*PIECES[: self.number], *step])


def cases() -> Iterator[Case]:
    connecting = [
        ("refused", REFUSED, httpx.ConnectError),
        ("reset", RST, httpx.ConnectError),
        ("timeout", TIMEOUT, httpx.ConnectTimeout),
        ("hang", HANG, httpx.ConnectTimeout),
        ("error", OSError("broken"), httpx.ConnectError),
    ]
    for operation in ("connect", "tls"):
        for fault, step, outcome in connecting:
            yield Case(operation, 0, fault, step, outcome)
    yield Case("tls", 0, "not trusted", ssl.SSLCertVerificationError("self-signed"), httpx.ConnectError)
    for number in range(WRITES):
        # httpcore reads on after a write that failed, for the server may have said why: here it has not.
        yield Case("write", number, "reset", RST, httpx.ReadError)
        yield Case("write", number, "timeout", TIMEOUT, httpx.WriteTimeout)
        yield Case("write", number, "hang", HANG, httpx.WriteTimeout)
    for number in range(COMPLETE):
        for fault, step, outcome in [
            ("fin", FIN, httpx.RemoteProtocolError),
            ("reset", RST, httpx.ReadError),
            ("timeout", TIMEOUT, httpx.ReadTimeout),
            ("hang", HANG, httpx.ReadTimeout),
            ("error", httpcore.ReadError("broken"), httpx.ReadError),
        ]:
            yield Case("read", number, fault, step, outcome)
    yield Case("read", 0, "garbage", b"\x16\x03\x01\x02\x00\r\n\r\n", httpx.RemoteProtocolError)
    yield Case("read", 0, "interim", [b"HTTP/1.1 103 Early Hints\r\n\r\n", OK], None)
    yield Case(
        "read", 0, "interim, then the end", [b"HTTP/1.1 103 Early Hints\r\n\r\n", FIN], httpx.RemoteProtocolError
    )
    yield Case("read", 0, "byte by byte", trickle(OK), None)
    yield Case("read", 2, "garbage", b"no colon\r\n\r\n", httpx.RemoteProtocolError)
    yield Case("read", COMPLETE, "fin", FIN, None)
    yield Case("read", COMPLETE, "reset", RST, None)
    yield Case("read", COMPLETE, "a second response", UNASKED, None)
    yield Case("read", COMPLETE - 1, "a second response with the first", PIECES[-1] + UNASKED, None)


CASES = {case.name: case for case in cases()}

#: Each case over plain TCP, where there is no handshake to fail, and over TLS.
WAYS = [(url, name) for url in URLS for name, case in CASES.items() if case.operation != "tls" or url == URLS[1]]


def heal(network: Network) -> None:
    """From here on every connection serves well, those that are open as well."""
    network.scripts, network.default = (), Script()


async def check_that_it_works(world: World, client: Any, agent: Agent, network: Network, url: str) -> None:
    """Nothing is left, the agent and the network agree, and requests are served, within limits of 1."""
    assert_no_leaks(agent)
    status = agent.status()
    assert not status.sockets
    assert network.open == sum(status.free_sockets.values())
    heal(network)
    for target in (url, url.replace("a.test", "b.test"), url):
        response = await client.get(target, timeout=httpx.Timeout(5, pool=1))
        assert (response.status_code, response.text) == (200, "ok")
    assert network.open == 1
    assert network.peak == 1
    await world.close(agent)
    assert_no_leaks(agent)
    assert agent.sockets() == ()
    assert network.open == 0


def make(world: World, *scripts: Script) -> tuple[Network, Agent, Any]:
    network = Network(*scripts)
    agent = Agent(max_sockets=1, max_total_sockets=1, verify=CONTEXT, **network.options)
    # What hangs is ended by its timeout; everything else comes at once.
    timeout = httpx.Timeout(0.02, pool=5)
    return network, agent, world.client(transport=AgentTransport(agent=agent), timeout=timeout)


@pytest.mark.parametrize(("url", "name"), WAYS)
async def test_a_request_on_a_new_socket(world: World, url: str, name: str) -> None:
    case = CASES[name]
    network, agent, client = make(world, case.script())
    async with client:
        if case.outcome is None:
            response = await client.post(url, content=world.body([b"one", b"two"]))
            assert (response.status_code, response.text) == (200, "ok")
        else:
            with pytest.raises(case.outcome) as caught:
                await client.post(url, content=world.body([b"one", b"two"]))
            assert type(caught.value) is case.outcome
            assert str(caught.value).startswith(f"POST {ORIGINS[url]}: ")
            assert agent.status().request_error_count == 1
            assert network.open == 0
        await check_that_it_works(world, client, agent, network, url)


@pytest.mark.parametrize(("url", "name"), [way for way in WAYS if CASES[way[1]].operation not in ("connect", "tls")])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_on_a_used_socket(world: World, url: str, name: str, method: str) -> None:
    """One that may be sent again, and meets a dead socket, is; it is none of the caller's business."""
    case = CASES[name]
    network, agent, client = make(world, case.script(before=1))
    ended = case.fault in ("fin", "reset", "error") and (case.operation == "write" or case.number == 0)
    garbled = case.fault == "garbage" and case.number == 0
    async with client:
        first = await client.post(url, content=world.body([b"one", b"two"]))
        assert first.text == "ok"
        content = None if method == "GET" else world.body([b"one", b"two"])
        request = client.build_request(method, url, content=content)
        if method == "GET" and case.operation == "write" and case.number > 0:
            network.connections[0].script.writes.clear()  # it has one write only
            response = await client.send(request)
            assert response.text == "ok"
        elif case.outcome is None or (method == "GET" and ended):
            response = await client.send(request)
            assert response.text == "ok"
            assert response.extensions["agent"].retried == (case.outcome is not None)
            assert response.extensions["agent"].reused == (case.outcome is None)
        else:
            with pytest.raises(case.outcome) as caught:
                await client.send(request)
            assert ("The socket was stale: it had served" in str(caught.value)) == (ended and not garbled)
        await check_that_it_works(world, client, agent, network, url)


@pytest.mark.parametrize(("url", "name"), [way for way in WAYS if CASES[way[1]].step is HANG])
@pytest.mark.parametrize("end", ["cancelled", "agent closed"])
async def test_a_request_that_hangs_is_ended(world: World, url: str, name: str, end: str) -> None:
    """At each operation: cancelled, or by the end of the agent, which can be used again."""
    case = CASES[name]
    if end == "cancelled" and not world.can_cancel:
        end = "agent closed"  # what a thread can do
    network, agent, client = make(world, case.script())
    # Nothing wakes a thread in a user's own connect or handshake; there the timeout ends what the agent gave up.
    timeout = 1 if world.is_sync and case.operation in CLOSED else 60
    start = 1 + (url == URLS[1])  # the operations before the first write
    count = {"connect": 0, "tls": 1, "write": start + case.number, "read": start + WRITES + case.number}[case.operation]
    async with client:
        async with world.tasks() as tasks:
            job = tasks.start(client.post, url, content=world.body([b"one", b"two"]), timeout=timeout)
            await world.until(lambda: len(network.ops) == count + 1 and network.ops[-1].outcome == "pending")
            await world.settle()
            if end == "cancelled":
                job.cancel()
            else:
                await world.close(agent)
            await job.wait()
        if end == "agent closed":
            with pytest.raises(CLOSED.get(case.operation, httpx.ReadError), match="the agent was closed"):
                job.result()
        else:
            assert job.cancelled
        assert network.open == 0
        await check_that_it_works(world, client, agent, network, url)


IDLE: dict[str, Callable[[Any], None]] = {
    "fin": lambda connection: connection.fin(),
    "reset": lambda connection: connection.rst(),
    "bytes": lambda connection: connection.send(b"\0"),
    "a response": lambda connection: connection.send(UNASKED),
    "a response, then the end": lambda connection: connection.send(UNASKED, FIN),
}


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("what", IDLE)
async def test_something_comes_on_an_idle_socket(world: World, what: str, method: str, url: str) -> None:
    """The socket is not used again, whatever the method; the bytes reach nobody."""
    network, agent, client = make(world)
    async with client:
        assert (await client.get(url)).text == "ok"
        IDLE[what](network.connections[0])
        response = await client.request(method, url)
        assert (response.status_code, response.text) == (200, "ok")
        assert not response.extensions["agent"].reused
        await check_that_it_works(world, client, agent, network, url)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("early", [[OK], [OK, FIN], [OK, RST], [respond(b"ok", headers=[("Connection", "close")])]])
async def test_a_response_before_the_body_was_sent(world: World, early: list[Any], url: str) -> None:
    """It is given, the rest of the body is not sent, and what comes next has a socket of its own."""
    network, agent, client = make(world, Script(early, early=[0]))
    async with client:
        response = await client.post(url, content=world.body([b"one", b"two"]), timeout=5)
        assert response.text == "ok"
        assert network.connections[0].op_names.count("write") == 1
        await check_that_it_works(world, client, agent, network, url)
        assert len(network.connections) > 1


#: What a request meets before its socket is closed, and what comes of it.
BEFORE_A_CLOSE: dict[str, tuple[Script, type[Exception] | None]] = {
    "a response with Connection: close": (Script(respond(b"ok", headers=[("Connection", "close")])), None),
    "a response without a length": (Script([respond(b"ok", length=False), FIN]), None),
    "an error": (Script([PIECES[0], FIN]), httpx.RemoteProtocolError),
    "a timeout": (Script([*PIECES[:3], HANG]), httpx.ReadTimeout),
    "another origin that needs the slot": (Script(), None),
}


@pytest.mark.parametrize("what", BEFORE_A_CLOSE)
@pytest.mark.parametrize("close", [OSError("broken"), httpcore.WriteError("broken")], ids=["OSError", "WriteError"])
async def test_a_close_that_fails(world: World, what: str, close: Any) -> None:
    """It changes nothing: neither what the caller gets, nor that the slot is free."""
    script, outcome = BEFORE_A_CLOSE[what]
    network, agent, client = make(world, Script(*script.answers, close=close))
    async with client:
        if outcome is None:
            assert (await client.get(URLS[0])).text == "ok"
        else:
            with pytest.raises(outcome):
                await client.get(URLS[0])
        if what.startswith("another"):
            assert (await client.get("http://b.test/")).text == "ok"
        assert network.connections[0].op_names.count("close") >= 1
        await check_that_it_works(world, client, agent, network, URLS[0])


@pytest.mark.parametrize("what", ["an error", "another origin that needs the slot"])
async def test_a_close_that_hangs(world: World, what: str) -> None:
    """It is given a second; then the next request has the slot. A thread is not held up by a close."""
    script, outcome = BEFORE_A_CLOSE[what]
    network, agent, client = make(world, Script(*script.answers, close=HANG))
    async with client:
        if outcome is None:
            assert (await client.get(URLS[0])).text == "ok"
        else:
            with pytest.raises(outcome):
                await client.get(URLS[0])
        assert (await client.get("http://b.test/")).text == "ok"
        assert "close" in network.connections[0].op_names
        await check_that_it_works(world, client, agent, network, URLS[0])


def test_the_table_has_every_operation_of_a_request() -> None:
    """What it calls an operation is what the network sees of one request, and each has its faults."""
    network = Network(Script(PIECES))
    agent = Agent(verify=CONTEXT, **network.options)
    with httpx.Client(transport=AgentTransport(agent=agent)) as client:
        client.post(URLS[1], content=iter([b"one", b"two"]))
    agent.close()
    seen = [name for name, _ in itertools.groupby(op.name for op in network.ops)]
    assert seen == ["connect", "start_tls", "write", "read", "close"]
    counts = {name: sum(op.name == name for op in network.ops) for name in seen}
    assert counts == {"connect": 1, "start_tls": 1, "write": WRITES, "read": len(PIECES), "close": 1}
    for operation, count in [("connect", 1), ("tls", 1), ("write", WRITES), ("read", len(PIECES))]:
        for number in range(count):
            faults = {case.fault for case in CASES.values() if (case.operation, case.number) == (operation, number)}
            assert {"reset", "timeout", "hang"} <= faults
