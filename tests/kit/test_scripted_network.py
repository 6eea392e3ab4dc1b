"""Features of the scripted network that the tests of the agent do not use all the time."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import httpcore
import pytest

from httpx_agent.testing import HANG, Gate, Network, Script, http2, respond
from httpx_agent.testing import _scripted_network as module
from tests.support.worlds import AwaitableStream, World

URL = "http://a.test/"


async def connect(world: World, network: Network) -> AwaitableStream:
    backend = network.backend if world.is_sync else network.async_backend
    return AwaitableStream(world, await world.call(backend.connect_tcp, "a.test", 80))


async def test_what_is_open_can_be_read_off(world: World) -> None:
    network = Network()
    stream = await connect(world, network)
    await stream.write(b"GET / HTTP/1.1\r\n\r\n")
    assert repr(network.connections[0]) == "<Connection 0 to a.test:80, open, 1 requests>"
    assert (stream.inner.get_extra_info("is_readable"), network.polls) == (True, 1)
    assert repr(network) == f"<Network 1 open, 1 at most, {network.connections}>"
    await stream.aclose()
    assert repr(network.connections[0]) == "<Connection 0 to a.test:80, closed, 1 requests>"


async def test_a_chunk_may_come_in_pieces(world: World) -> None:
    network = Network(Script(respond(b"all of it")))
    stream = await connect(world, network)
    for piece in (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"5", b"\r\nhel", b"lo\r\n0", b"\r\n\r\n"):
        assert network.connections[0].requests == []
        await stream.write(piece)
    assert (await stream.read(1000)).endswith(b"all of it")
    assert len(network.connections[0].requests) == 1
    await stream.aclose()


async def test_waiting_for_nothing_is_an_error_that_says_where(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 0.01)
    network = Network()
    stream = await connect(world, network)
    with pytest.raises(AssertionError, match="timed out after 0 s: <Network 1 open"):
        await stream.read(1, None)
    await stream.aclose()


async def test_a_stream_that_was_closed_does_no_tls(world: World) -> None:
    network = Network()
    stream = await connect(world, network)
    await stream.aclose()
    with pytest.raises(httpcore.ConnectError, match="the stream was closed"):
        await world.call(stream.inner.start_tls, None)


async def test_tls_says_its_version(world: World) -> None:
    stream = await connect(world, Network())
    secured = await world.call(stream.inner.start_tls, None)
    assert secured.get_extra_info("ssl_object").version() == "TLSv1.3"
    await world.close(secured)


async def test_the_time_between_attempts_is_noted_and_does_not_pass(world: World) -> None:
    network = Network()
    await world.call((network.backend if world.is_sync else network.async_backend).sleep, 60.0)
    assert network.sleeps == [60.0]


async def test_an_http2_server_does_not_answer_a_stream_that_was_given_up(world: World) -> None:
    gate = Gate()
    network = Network(http2(hold=gate))
    stream = await connect(world, network)
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    for number in (1, 3):
        headers = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/")]
        client.send_headers(number, headers, end_stream=True)
    await stream.write(client.data_to_send())
    client.reset_stream(1)
    await stream.write(client.data_to_send())
    assert network.connections[0].reset_streams == [1]
    gate.open()
    answered = []
    while not answered:
        events = client.receive_data(await stream.read(65536))
        answered = [event.stream_id for event in events if isinstance(event, h2.events.ResponseReceived)]
    assert answered == [3]
    await stream.aclose()


@pytest.mark.parametrize("close", [HANG, OSError("broken")], ids=["HANG", "OSError"])
def test_a_close_in_a_thread_is_never_held_up(close: object) -> None:
    network = Network(Script(close=close))  # type: ignore[arg-type]
    stream = network.backend.connect_tcp("a.test", 80)
    if close is HANG:
        stream.close()
    else:
        with pytest.raises(OSError, match="broken"):
            stream.close()
    assert network.open == 0
    stream.close()
