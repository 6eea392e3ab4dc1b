"""A pooled socket in isolation: what it asks its stream, and how it uses the results."""

from __future__ import annotations

from typing import Any

from httpx_agent import Agent
from httpx_agent._pool.socket import Socket
from httpx_agent._protocol.http2 import Frames, GoawayHold
from tests.support.worlds import World


def test_settings_that_come_in_pieces() -> None:
    """The first frame of an HTTP/2 server is read as it comes."""
    told: list[int | None] = []
    frames = Frames(GoawayHold(), told.append)
    frame = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 42])
    passed = [frames.received(frame[at : at + 1]) for at in range(len(frame))]
    assert passed == [None] * 14 + [frame]
    assert told == [42]
    assert frames.received(frame) == frame  # a later one
    assert told == [42]
    frames = Frames(None, told.append)
    odd = bytes([0, 0, 0, 6, 0, 0, 0, 0, 0])  # not what it should be
    frames.sent(odd)
    assert frames.received(odd) == odd
    assert told == [42, None]
    assert (frames.due(), frames.longest_heads, frames.are_ending) == (None, 0, False)


class FakeRequest:
    """As much of httpcore's request as a key needs."""

    class url:
        scheme, host, port = b"https", b"a.test", None

    extensions: dict[str, Any] = {}  # noqa: RUF012


async def test_a_connection_that_is_gone_before_its_address_was_asked(world: World) -> None:
    class Stream:
        def get_extra_info(self, info: str) -> Any:
            if info == "client_addr":
                raise OSError("not connected")
            return b"\0abstract" if info == "server_addr" else None

    agent = Agent()
    one = Socket(agent._dispatcher, 0, agent._dispatcher.sync_home, agent._dispatcher.key_of(FakeRequest()))
    one.connected(Stream())
    assert (one.local_address, one.peer_address) == (None, "\0abstract")


async def test_a_connection_that_should_be_secure_and_is_not_has_no_session(world: World) -> None:
    """As httpcore's `wss` by a SOCKS proxy."""

    class Stream:
        def get_extra_info(self, info: str) -> None:
            return None

    class Response:
        extensions = {"http_version": b"HTTP/1.1"}  # noqa: RUF012

    agent = Agent()
    one = Socket(agent._dispatcher, 0, agent._dispatcher.sync_home, agent._dispatcher.key_of(FakeRequest()))
    one.connection = agent._dispatcher.factory.sync_connection(one.key, one.wire)
    one.wire.stream = Stream()
    one.note_response(Response())
    assert agent._dispatcher.factory.sessions.get(one.key) is None


def test_a_stream_that_tells_nothing_any_more_is_not_watched() -> None:
    """It may be a user's, and what it says is asked for in the watcher's own thread."""

    class Mute:
        def get_extra_info(self, info: str) -> Any:
            raise RuntimeError("closed")

    agent = Agent()
    one = Socket(agent._dispatcher, 0, agent._dispatcher.sync_home, agent._dispatcher.key_of(FakeRequest()))
    one.wire.stream = Mute()
    assert one.wire.descriptor() is None


def test_what_is_told_of_a_socket_that_is_gone() -> None:
    agent = Agent()
    agent._dispatcher.socket_lost(99)
    one = Socket(agent._dispatcher, 0, agent._dispatcher.sync_home, agent._dispatcher.key_of(FakeRequest()))
    one.wire.close_raw()  # there is nothing to close yet
    assert agent.sockets() == ()
