"""A server that fails at each byte of its response in turn, over real sockets and with both engines.

What an engine reads at once is up to the system, so there are no operations to count; there are bytes, and each is the
last one once; where the test has to wait for something at each, every fifth is. Each connection fails at a limit of one
socket, so a lost slot shows in the next request.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import FIN, HANG, RST, ChaosServer, Fault, Gate, Mark, Peer, Step, assert_no_leaks, respond
from tests.support.servers import Certificates
from tests.support.worlds import H11_WORLDS, WORLDS, World

pytestmark = pytest.mark.sweep

in_every_engine = pytest.mark.parametrize(
    "world", [*WORLDS, *H11_WORLDS, World("uvloop")], ids=lambda world: world.name
)
over_tls_and_not = pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])

INTERIM = b"HTTP/1.1 103 Early Hints\r\n\r\n"
CHUNKED = respond(b"", headers=[("Transfer-Encoding", "chunked")], length=False)
RESPONSES = {
    "length": INTERIM + respond(b"ok"),
    "chunked": CHUNKED + b"2;x=y\r\nok\r\n0\r\nT: v\r\n\r\n",
}
in_every_framing = pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)

#: A reset may overtake what was sent before it; over TLS, Python tells some resets as an end.
BROKEN = (httpx.RemoteProtocolError, httpx.ReadError)
#: What is sent meets it, too.
BROKEN_OFF = (*BROKEN, httpx.WriteError)
ENDS: dict[str, tuple[Mark, Any]] = {
    "fin": (FIN, httpx.RemoteProtocolError),
    "reset": (RST, BROKEN),
    "hang": (HANG, httpx.ReadTimeout),
}


#: For what is meant to hang.
BRIEF = 0.02


def make(world: World, certificates: Certificates) -> tuple[Agent, Any]:
    agent = Agent(max_sockets=1, max_total_sockets=1, verify=certificates.client())
    return agent, world.client(transport=AgentTransport(agent=agent), timeout=10)


def serve(certificates: Certificates, tls: bool) -> ChaosServer:
    return ChaosServer(ssl_context=certificates.server() if tls else None, must_be_closed=True)


async def check_that_it_works(client: Any, agent: Agent, server: ChaosServer) -> None:
    """Nothing is left, and the next request is served by a connection of its own, the only one."""
    assert_no_leaks(agent)
    response = await client.get(f"{server.url}/next")
    assert (response.text, response.headers["X-Target"]) == ("ok", "/next")
    assert len(agent.sockets()) == 1


@in_every_engine
@over_tls_and_not
@in_every_framing
@pytest.mark.parametrize("end", ENDS)
async def test_a_response_that_ends_at_each_byte(
    world: World, certificates: Certificates, tls: bool, response: bytes, end: str
) -> None:
    """Only the whole of it is a response."""
    mark, error = ENDS[end]
    timeout = httpx.Timeout(10, read=BRIEF if mark is HANG else 10)
    with serve(certificates, tls) as server:
        agent, client = make(world, certificates)
        async with client:
            for cut in range(0, len(response), 5 if mark is HANG else 1):
                server.next([response[:cut], mark])
                with pytest.raises(error) as caught:
                    await client.post(server.url, timeout=timeout)
                server.wait_for(lambda: not server._next)  # a client may give up before a busy server has looked
                assert str(caught.value).startswith(f"POST {server.url}: "), cut
                await check_that_it_works(client, agent, server)
            server.next([response])
            assert (await client.post(server.url)).text == "ok"
        await world.close(agent)
        assert agent.sockets() == ()


@in_every_engine
@over_tls_and_not
@in_every_framing
@pytest.mark.parametrize("end", ["cancelled", "agent closed"])
async def test_a_request_that_is_ended_at_each_byte_of_its_response(
    world: World, certificates: Certificates, tls: bool, response: bytes, end: str
) -> None:
    """By its caller, or by the end of the agent, which can be used again."""
    if end == "cancelled" and not world.can_cancel:
        end = "agent closed"  # what a thread can do
    with serve(certificates, tls) as server:
        agent, client = make(world, certificates)
        async with client:
            for cut in range(0, len(response), 5):
                server.next([response[:cut], HANG])
                seen = len(server.requests)
                async with world.tasks() as tasks:
                    job = tasks.start(client.post, server.url)
                    await world.until(lambda seen=seen: len(server.requests) > seen)
                    await world.settle()
                    if end == "cancelled":
                        job.cancel()
                    else:
                        await world.close(agent)
                if end == "cancelled":
                    assert job.cancelled
                else:
                    assert isinstance(job.exception, httpx.ReadError)
                    assert "the agent was closed while the request was in flight" in str(job.exception)
                await check_that_it_works(client, agent, server)
        await world.close(agent)


@in_every_engine
@over_tls_and_not
@in_every_framing
async def test_a_response_that_comes_byte_by_byte(
    world: World, certificates: Certificates, tls: bool, response: bytes
) -> None:
    """And whose second half waits for a while, at each byte."""
    with serve(certificates, tls) as server:
        agent, client = make(world, certificates)
        async with client:
            server.next([response[at : at + 1] for at in range(len(response))])
            assert (await client.get(server.url)).text == "ok"
            for cut in range(1, len(response), 5):
                gate = Gate()
                server.next([response[:cut], gate, response[cut:]])
                seen = len(server.requests)
                async with world.tasks() as tasks:
                    job = tasks.start(client.get, server.url)
                    await world.until(lambda seen=seen: len(server.requests) > seen)
                    await world.settle()
                    gate.open()
                assert job.result().text == "ok"
            assert server.accepted == 1
        await world.close(agent)


def upload(world: World, sent: list[int]) -> Any:
    """More than the buffers on the way hold; counts what was taken of it."""

    def parts() -> Iterator[bytes]:
        for _ in range(2000):
            sent[0] += 1
            yield b"x" * 65536

    return world.body(parts())


@in_every_engine
@over_tls_and_not
@pytest.mark.parametrize("end", ["timeout", "cancelled", "agent closed", "reset", "fin", "refused", "early"])
async def test_a_body_that_nobody_reads(world: World, certificates: Certificates, tls: bool, end: str) -> None:
    """The server stops after the head of the request; the client is held up as soon as all buffers are full."""
    if end == "cancelled" and not world.can_cancel:
        end = "agent closed"
    refusal = respond(b"no", 413, reason="No")
    after: dict[str, list[Step]] = {"reset": [RST], "fin": [FIN], "refused": [refusal, RST], "early": [refusal, FIN]}
    with serve(certificates, tls) as server:
        agent, client = make(world, certificates)
        async with client, world.tasks() as tasks:
            gate, sent = Gate(), [0]
            server.next(Fault("", "", (gate, *after.get(end, [RST])), early=True))
            timeout = httpx.Timeout(10, write=BRIEF if end == "timeout" else 10)
            job = tasks.start(client.post, server.url, content=upload(world, sent), timeout=timeout)
            if end != "timeout":
                await world.until(lambda: len(server.requests) == 1 and sent[0] > 1)
            if end == "cancelled":
                job.cancel()
            elif end == "agent closed":
                await world.close(agent)
            elif end != "timeout":
                gate.open()
            await job.wait()
            gate.open()
            assert sent[0] < 2000
            if end == "cancelled":
                assert job.cancelled
            elif end == "timeout":
                assert isinstance(job.exception, httpx.WriteTimeout)
            elif end == "agent closed":
                assert "the agent was closed" in str(job.exception)
            elif job.exception is None:  # it has read why
                assert end in ("refused", "early")
                assert job.result().status_code == 413
            else:
                assert isinstance(job.exception, BROKEN_OFF)
            await check_that_it_works(client, agent, server)
        await world.close(agent)


class HalfShaken(ChaosServer):
    """Begins a TLS handshake, and breaks it off.

    Args:
        context: What it begins it with.
    """

    scheme = "https"

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(must_be_closed=True)
        self.context = context
        self.flight = 0
        """Bytes that it would send in all."""
        self.plan: tuple[int, Mark] | None = None
        """How many of them it sends, and what then."""
        self.hellos = 0

    def welcome(self, peer: Peer) -> None:
        """Do what the plan says; without one, shake hands."""
        if self.plan is None:
            peer.sock = self.context.wrap_socket(peer.sock, server_side=True)
            return
        cut, mark = self.plan
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        half = self.context.wrap_bio(incoming, outgoing, server_side=True)
        while not outgoing.pending:
            incoming.write(peer.more())
            with pytest.raises(ssl.SSLWantReadError):
                half.do_handshake()
        flight = outgoing.read()
        self.flight = len(flight)
        self._play(peer, [flight[:cut]])
        with self.changes:
            self.hellos += 1
        self._play(peer, [mark])


@in_every_engine
@pytest.mark.parametrize("end", [*ENDS, "cancelled", "agent closed"])
async def test_a_handshake_that_ends_at_many_bytes(world: World, certificates: Certificates, end: str) -> None:
    """It is a socket that was never usable; nothing of the request has left."""
    if end == "cancelled" and not world.can_cancel:
        end = "agent closed"
    mark = ENDS[end][0] if end in ENDS else HANG
    errors: Any = httpx.ConnectTimeout if end == "hang" else httpx.ConnectError
    with HalfShaken(certificates.server()) as server:
        agent, client = make(world, certificates)
        timeout = httpx.Timeout(10, connect=BRIEF if end == "hang" else 10)
        cut = 0
        async with client:
            for number in itertools.count():
                server.plan = (cut, mark)
                if end in ENDS:
                    with pytest.raises(errors):
                        await client.get(server.url, timeout=timeout)
                else:
                    async with world.tasks() as tasks:
                        job = tasks.start(client.get, server.url)
                        await world.until(lambda number=number: server.hellos > number)
                        await world.settle()
                        if end == "cancelled":
                            job.cancel()
                        else:
                            await world.close(agent)
                    if end == "cancelled":
                        assert job.cancelled
                    else:
                        assert isinstance(job.exception, httpx.ConnectError)
                        assert str(job.exception).endswith("the agent was closed; nothing was sent")
                assert_no_leaks(agent)
                assert agent.status().create_socket_error_count == number + 1
                # The first bytes are those of a record's head; within the rest, some of each message.
                cut += 1 if cut < 6 else 211
                if cut >= server.flight > 0:
                    break
            assert number > 6
            assert server.requests == []
            server.plan = None
            await check_that_it_works(client, agent, server)
        await world.close(agent)
