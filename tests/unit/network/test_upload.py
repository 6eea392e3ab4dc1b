"""Listening while sending, in isolation: what ends an upload, and what happens to an abandoned write."""

from __future__ import annotations

import socket
from typing import Any

import anyio
import httpcore
import pytest

from httpx_agent._connection.http1 import Parts
from httpx_agent._network.poll import Poll
from httpx_agent._network.upload import NoRoomError, Overheard, awrite_listening, write_listening
from httpx_agent._protocol.http1 import MAX_BEFORE_RESPONSE
from tests.support.worlds import World
from tests.unit.protocol.drivers import FAMILY, KEY, OPTIONS, SYNC, _Backend, _Socket, _SyncStream, _wire

pytestmark = pytest.mark.fast_engine

INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

in_loops = pytest.mark.parametrize("world", [World("asyncio"), World("trio")], ids=["asyncio", "trio"])


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        (b"HTTP/1.1 200 OK", True),
        (b"HTTP/1.1 20", False),
        (b"HTTP/1.0 413 Too Large\r\n", True),
        (b"HTTP/1.1 101 Switching Protocols", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False),
        (INTERIM * 3, False),
        (INTERIM * 3 + b"HTTP/1.1 30", False),
        (INTERIM * 3 + b"HTTP/1.1 307 ", True),
        (b"HTTP/1.1 100 Continue\n\nHTTP/1.1 204", True),
        (b"\x16\x03\x01 this is TLS", True),
        (b"", True),
    ],
)
def test_what_ends_an_upload(said: bytes, ends: bool) -> None:
    """However it comes in."""
    whole = Overheard()
    assert whole.feed(said) == ends
    assert whole.take() == said
    assert whole.take() == b""
    pieces = Overheard()
    for at in range(len(said)):
        pieces.feed(said[at : at + 1])
    assert pieces.is_final == (ends and said != b"")


def test_interim_responses_without_end_end_it() -> None:
    overheard = Overheard()
    while not overheard.feed(INTERIM):
        assert len(overheard.data) <= MAX_BEFORE_RESPONSE
    assert len(overheard.data) > MAX_BEFORE_RESPONSE


class Stream:
    """A stream of an event loop that does as it is told."""

    def __init__(self, *, says: bytes | None = b"", fails: bool = False, blocks: bool = False) -> None:
        self.says = says
        self.fails = fails
        self.blocks = blocks
        self.written = b""

    def get_extra_info(self, info: str) -> Any:
        return False

    async def read(self, max_bytes: int, timeout: float | None) -> bytes:
        await anyio.sleep(0)
        if self.says is None:
            raise httpcore.ReadError
        if not self.says:
            await anyio.sleep_forever()
        said, self.says = self.says, b""
        return said

    async def write(self, data: bytes, timeout: float | None) -> None:
        for _ in range(10):
            await anyio.sleep(0)
        if self.fails:
            raise httpcore.WriteError("broken")
        if self.blocks:
            await anyio.sleep_forever()
        self.written += data


@in_loops
@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_a_write_goes_on_when_nothing_can_be_heard(world: World, timeout: float | None) -> None:
    stream = Stream(says=None)
    assert await awrite_listening(stream, b"data" * 100_000, timeout, Overheard().feed)
    assert stream.written == b"data" * 100_000


@in_loops
async def test_a_write_that_fails(world: World) -> None:
    for says in (None, b""):
        with pytest.raises(httpcore.WriteError, match="broken"):
            await awrite_listening(Stream(says=says, fails=True), b"data", None, Overheard().feed)


@in_loops
async def test_a_write_that_takes_too_long(world: World) -> None:
    for says in (None, b"", INTERIM):
        with pytest.raises(NoRoomError):
            await awrite_listening(Stream(says=says, blocks=True), b"data", 0.01, Overheard().feed)


@in_loops
async def test_a_write_that_is_left_alone(world: World) -> None:
    overheard = Overheard()
    assert not await awrite_listening(Stream(says=b"HTTP/1.1 200 OK", blocks=True), b"data", 60.0, overheard.feed)
    assert overheard.take() == b"HTTP/1.1 200 OK"


@in_loops
async def test_a_write_that_ends_when_the_answer_comes(world: World) -> None:
    """All has left, so it is an ordinary one."""

    class Answering(Stream):
        async def read(self, max_bytes: int, timeout: float | None) -> bytes:
            await begun.wait()
            return b"HTTP/1.1 200 OK"

        async def write(self, data: bytes, timeout: float | None) -> None:
            begun.set()
            await anyio.sleep(0)

    begun = anyio.Event()
    assert await awrite_listening(Answering(), b"data", 60.0, Overheard().feed)


def test_a_thread_that_finds_no_room() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        stream = FAMILY.socket_stream(ours)
        with pytest.raises(NoRoomError):
            write_listening(stream, Poll(ours), bytes(1 << 24), 0.01, lambda: False)


def test_a_response_that_was_closed_is_not_read_on() -> None:
    """Whoever still has it: the connection is another request's by then."""
    parts = [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", b"body"]
    stream = _SyncStream(_Socket(parts))
    connection: Any = SYNC(KEY, _wire(), _Backend(stream), OPTIONS, None, _recent())
    response = connection.handle_request(httpcore.Request("GET", "http://a.test/", headers=[("Host", "a")]))
    body: Parts = response.stream
    assert next(body) == b"hello"  # type: ignore[call-overload]
    response.stream.close()
    with pytest.raises(httpcore.ReadError, match="closed by this side"):
        next(body)  # type: ignore[call-overload]
    assert stream.sock.parts == [b"body"]


def _recent() -> Any:
    from httpx_agent._protocol.http1 import RecentFields

    return RecentFields()
