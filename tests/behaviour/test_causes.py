"""Errors whose causes lead back to themselves, and what is looked for among the causes of an error."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Callable
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._causes import walk_causes
from httpx_agent._descriptors import is_out_of_descriptors
from httpx_agent._network import close_forgotten
from httpx_agent.testing import Network, Script, assert_no_leaks
from tests.support.worlds import World

# A walk that does not end is ended before it has filled the memory.
pytestmark = pytest.mark.timeout(10)

TOO_MANY = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def caught(function: Callable[[], object]) -> Exception:
    """Return what a function raises."""
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def ring(*errors: Exception) -> Exception:
    """Make each error the cause of the one before, and the first that of the last."""
    for error, cause in zip(errors, [*errors[1:], errors[0]], strict=True):
        error.__cause__ = cause
    return errors[0]


def raise_first_from_last() -> None:
    """Raise as respx does what a `side_effect` function raised: the first error, from the one it was wrapped in."""
    first = httpcore.ConnectError("refused")
    try:
        try:
            raise first
        except httpcore.ConnectError as error:
            raise RuntimeError("wrapped") from error
    except RuntimeError as error:
        raise first from error


# The walk -------------------------------------------------------------------------------------------------------------


def test_every_error_of_a_ring_is_met_once() -> None:
    one, two, three = ValueError("1"), ValueError("2"), ValueError("3")
    assert list(walk_causes(ring(one, two, three))) == [one, two, three]
    assert list(walk_causes(ring(one))) == [one]


def test_a_group_is_looked_into_and_may_be_part_of_a_ring() -> None:
    one, two = ValueError("1"), ValueError("2")
    group = ExceptionGroup("both", [one, ExceptionGroup("inner", [two])])
    two.__cause__ = group
    assert list(walk_causes(group)) == [group, one, group.exceptions[1], two]


def test_an_error_raised_while_another_was_handled_leads_to_it() -> None:
    first = OSError("first")

    def fail() -> None:
        try:
            raise first
        except OSError:
            raise RuntimeError("then")  # noqa: B904

    error = caught(fail)
    assert list(walk_causes(error)) == [error, first]


def test_what_a_caller_handles_while_he_makes_a_request_is_no_cause() -> None:
    """Python calls it the context of all that fails meanwhile; it has nothing to do with that."""

    def fail() -> None:
        raise RuntimeError("then")

    try:
        raise TOO_MANY
    except OSError:
        error = caught(fail)
    assert error.__context__ is TOO_MANY
    assert list(walk_causes(error)) == [error]


def test_a_context_that_was_put_away_or_never_raised_is_no_cause() -> None:
    def fail() -> None:
        try:
            raise OSError("first")
        except OSError:
            raise RuntimeError("then") from None

    error = caught(fail)
    assert list(walk_causes(error)) == [error]
    error = ValueError("made by hand")
    error.__context__ = OSError("made by hand")
    assert list(walk_causes(error)) == [error]


# Whoever walks --------------------------------------------------------------------------------------------------------


def test_the_limit_on_open_files_is_found_in_a_ring() -> None:
    assert is_out_of_descriptors(ring(httpcore.ConnectError("1"), RuntimeError("2"), TOO_MANY))
    assert not is_out_of_descriptors(caught(raise_first_from_last))


def test_a_socket_in_the_frames_of_a_ring_is_closed() -> None:
    """Whichever error of the ring it was that a handshake left it in; it may be half made, as `ssl` makes it."""

    class Handshake(ssl.SSLSocket):
        def __init__(self) -> None:
            super(ssl.SSLSocket, self).__init__()

        def fail(self) -> None:
            del self._io_refs  # type: ignore[attr-defined]
            raise ConnectionResetError("reset")

    forgotten = Handshake()
    reset = caught(forgotten.fail)
    close_forgotten(ring(RuntimeError("no socket is here")))
    assert forgotten.fileno() >= 0
    close_forgotten(ring(httpcore.ConnectError("1"), RuntimeError("2"), reset))
    assert forgotten.fileno() == -1


@pytest.mark.parametrize(
    "error",
    [
        ring(httpcore.ConnectError("refused"), RuntimeError("later")),
        ring(httpcore.ConnectError("refused")),
        ring(OSError("refused"), RuntimeError("later")),
    ],
    ids=["of two", "its own cause", "of the system"],
)
@pytest.mark.parametrize("step", ["connect", "tls"])
async def test_a_backend_that_raises_its_first_error_from_a_later_one(
    world: World, step: str, error: Exception
) -> None:
    network = Network(Script(**{step: error}), Script())
    agent = Agent(verify=ssl.create_default_context(), **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=5) as client:
        with pytest.raises(httpx.ConnectError, match=r"a\.test.*: refused"):
            await client.get("https://a.test/")
        assert (await client.get("https://a.test/")).text == "ok"
    await world.close(agent)
    assert_no_leaks(agent)


async def test_a_ring_without_words(world: World) -> None:
    """An error that says nothing is given the words of its cause; where none has any, the usual ones."""
    silent = ring(httpcore.ConnectError(), RuntimeError())
    telling = ring(httpcore.ConnectError(), RuntimeError(), ValueError("no route"))
    network = Network(Script(connect=silent), Script(connect=telling))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=5) as client:
        for words in ("the connection broke", "no route"):
            with pytest.raises(httpx.ConnectError) as failed:
                await client.get("http://a.test/")
            assert str(failed.value) == f"GET http://a.test:80: {words} (connect to a.test:80)"
    await world.close(agent)
    assert_no_leaks(agent)


@pytest.mark.parametrize("event", ["connection.connect_tcp.started", "http11.send_request_headers.started"])
async def test_a_trace_callback_that_raises_its_first_error_from_a_later_one(world: World, event: str) -> None:
    network = Network()
    agent = Agent(**network.options)

    def callback(name: str, info: Any) -> None:
        if name == event:
            raise ring(ValueError("mine"), RuntimeError("later"))

    async with world.client(transport=AgentTransport(agent=agent), timeout=5) as client:
        with pytest.raises(ValueError, match="mine"):
            await client.get("http://a.test/", extensions={"trace": world.callback(callback)})
        assert (await client.get("http://a.test/")).text == "ok"
    await world.close(agent)
    assert_no_leaks(agent)


async def test_a_request_made_while_the_limit_on_open_files_is_handled(world: World) -> None:
    """That was the caller's own; a server that refuses closes no free socket, and is not said to be for that."""
    network = Network(Script(), Script(connect=httpcore.ConnectError("refused")))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=5) as client:
        await client.get("http://a.test/")
        try:
            raise TOO_MANY
        except OSError:
            with pytest.raises(httpx.ConnectError, match=r"http://b\.test:80: refused"):
                await client.get("http://b.test/")
        assert agent.status().free_sockets == {"http://a.test:80": 1}
    await world.close(agent)
    assert_no_leaks(agent)


class NoFiles:
    """A backend that says what went wrong, but not why."""

    def __init__(self) -> None:
        self.attempts = 0

    def connect_tcp(self, *_: object, **__: object) -> Any:
        self.attempts += 1
        try:
            raise TOO_MANY
        except OSError:
            raise httpcore.ConnectError("no connection")  # noqa: B904


def test_a_backend_that_does_not_name_the_cause() -> None:
    """What it handled when it raised is looked at, too."""
    backend = NoFiles()
    with httpx.Client(transport=AgentTransport(network_backend=backend)) as client:
        with pytest.raises(httpx.ConnectError, match="no file descriptor is left"):
            client.get("http://a.test/")
    assert backend.attempts == 2
