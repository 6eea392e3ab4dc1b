"""Which address is tried when (RFC 8305), with literal times, and what happens to attempts in an event loop."""

from __future__ import annotations

import errno
import math
import os
import socket
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from httpx_agent._network import connecting as _connecting
from httpx_agent._network.opening import Opening
from httpx_agent._network.racing import AddressInfo, Race, describe, interleave, literal
from tests.support.worlds import World

in_loops = pytest.mark.in_loops

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")

TOO_MANY = OSError(errno.EMFILE, "too many open files")


def four(host: str) -> AddressInfo:
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 80)


def six(host: str) -> AddressInfo:
    return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (host, 80, 0, 0)


def hosts(addresses: list[AddressInfo]) -> list[str]:
    return [entry[4][0] for entry in addresses]


def test_families_take_turns_and_the_preferred_one_begins() -> None:
    """RFC 8305, 4; what is preferred is the system's decision (RFC 6724)."""
    assert hosts(interleave([six("a"), six("b"), six("c"), four("1"), four("2")])) == ["a", "1", "b", "2", "c"]
    assert hosts(interleave([four("1"), four("2"), six("a"), four("3")])) == ["1", "a", "2", "3"]
    assert hosts(interleave([four("1"), four("2")])) == ["1", "2"]
    assert interleave([]) == []


def test_an_address_that_comes_twice_is_tried_once() -> None:
    """As for a name that stands in the hosts file on two lines."""
    assert hosts(interleave([four("1"), four("1"), six("a"), four("2"), six("a")])) == ["1", "a", "2"]


def test_each_attempt_has_a_quarter_of_a_second_to_itself() -> None:
    race = Race([four("1"), four("2"), four("3")])
    assert race.next(100.0) == four("1")
    assert race.next(100.0) is None
    assert race.next_start() == 100.25
    assert race.next(100.24) is None
    assert race.next(100.25) == four("2")
    assert race.next_start() == 100.5
    assert race.next(101.0) == four("3")
    assert race.next_start() == math.inf
    assert race.next(200.0) is None
    assert not race.is_lost()


def test_the_next_attempt_starts_when_one_fails() -> None:
    race = Race([four("1"), six("a")])
    assert race.next(100.0) == four("1")
    race.failed(OSError())
    assert not race.is_lost()
    assert race.next(100.01) == six("a")
    assert race.next_start() == math.inf
    race.failed(OSError())
    assert race.is_lost()


UNREACHABLE = OSError(errno.ENETUNREACH, "unreachable")


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([UNREACHABLE, REFUSED], REFUSED),
        ([RuntimeError(), UNREACHABLE], UNREACHABLE),
        ([UNREACHABLE, TOO_MANY, REFUSED], TOO_MANY),  # the agent can close its free sockets for another try
    ],
)
def test_which_error_a_lost_race_ends_with(errors: list[Exception], told: Exception) -> None:
    race = Race([four(str(number)) for number in range(len(errors))])
    for error in errors:
        race.next(100.0)
        race.failed(error)
    assert race.is_lost()
    assert race.error() is told


def test_addresses_in_words() -> None:
    assert describe(four("10.0.0.1")) == "10.0.0.1:80"
    assert describe(six("::1")) == "[::1]:80"
    linked = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 80, 0, 2))
    assert describe(linked) == "[fe80::1%2]:80"
    assert describe((socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 80))) == "[::1]:80"
    assert [literal(entry) for entry in (four("10.0.0.1"), six("::1"), linked)] == ["10.0.0.1", "::1", "fe80::1%2"]


class Attempts:
    """Attempts to connect that do as they are told; what one opens is its address."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.gates: dict[str, anyio.Event] = {}
        self.wire: Any = SimpleNamespace(opening=Opening(""))

    async def connect(self, entry: AddressInfo) -> str:
        host: str = entry[4][0]
        self.begun.append(host)
        if host in self.gates:
            with anyio.CancelScope(shield=host.startswith("stubborn")):
                await self.gates[host].wait()
        if host in self.fail:
            raise self.fail[host]
        self.opened.append(host)
        return host

    async def close(self, opened: str) -> None:
        self.closed.append(opened)

    async def race(self, *addresses: str) -> str:
        return await _connecting.race(self.wire, [four(host) for host in addresses], self.connect, self.close)


@in_loops
async def test_the_next_address_is_tried_when_one_fails(world: World) -> None:
    attempts = Attempts()
    attempts.fail["first"] = REFUSED
    assert await attempts.race("first", "second", "third") == "second"
    assert attempts.begun == ["first", "second"]


@in_loops
async def test_the_next_address_is_tried_when_one_takes_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("httpx_agent._network.racing.ATTEMPT_DELAY", 0.01)
    attempts = Attempts()
    attempts.gates["first"] = anyio.Event()
    assert await attempts.race("first", "second") == "second"
    assert attempts.closed == []


def test_a_loop_takes_a_quarter_of_a_second_by_its_own_clock() -> None:
    """Nothing else passes there where time is virtual."""
    begun_at: dict[str, float] = {}

    async def connect(entry: AddressInfo) -> str:
        host: str = entry[4][0]
        begun_at[host] = trio.current_time() - start
        if host != "third":
            await trio.sleep_forever()
        return host

    async def main() -> None:
        nonlocal start
        start = trio.current_time()
        attempts = Attempts()
        addresses = [four("first"), four("second"), four("third")]
        assert await _connecting.race(attempts.wire, addresses, connect, attempts.close) == "third"

    start = 0.0
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert begun_at == {"first": 0.0, "second": pytest.approx(0.25), "third": pytest.approx(0.5)}


@in_loops
@pytest.mark.parametrize("last", [UNREACHABLE, RuntimeError("sockets are forbidden here")], ids=["system", "other"])
async def test_all_that_fail(world: World, last: Exception) -> None:
    """The last one's error comes out as it is, never in a group."""
    attempts = Attempts()
    attempts.fail.update({"first": REFUSED, "second": last})
    with pytest.raises(type(last)) as caught:
        await attempts.race("first", "second")
    assert getattr(caught.value, "errno", None) == getattr(last, "errno", None)


@in_loops
async def test_the_only_one_fails_for_no_reason_of_the_system(world: World) -> None:
    attempts = Attempts()
    attempts.fail["only"] = RuntimeError("sockets are forbidden here")
    with pytest.raises(RuntimeError, match="forbidden"):
        await attempts.race("only")


@in_loops
async def test_one_that_succeeds_although_it_was_cancelled_is_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("httpx_agent._network.racing.ATTEMPT_DELAY", 0.01)
    attempts = Attempts()
    gate = attempts.gates["stubborn"] = anyio.Event()

    async def open_later() -> None:
        while len(attempts.begun) < 2:
            await anyio.sleep(0.001)
        gate.set()

    async with anyio.create_task_group() as group:
        group.start_soon(open_later)
        assert await attempts.race("stubborn", "second") == "second"
    assert attempts.closed == ["stubborn"]


@in_loops
async def test_a_race_that_is_cancelled_when_it_is_won(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("httpx_agent._network.racing.ATTEMPT_DELAY", 0.01)
    attempts = Attempts()
    gate = attempts.gates["stubborn"] = anyio.Event()
    got: list[str] = []
    with anyio.CancelScope() as scope:

        async def cancel() -> None:
            while len(attempts.begun) < 2:
                await anyio.sleep(0.001)
            scope.cancel()
            gate.set()

        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            got.append(await attempts.race("stubborn", "second"))
    assert sorted(attempts.opened) == ["second", "stubborn"]
    assert sorted(attempts.closed + got) == ["second", "stubborn"]


@in_loops
async def test_an_error_does_not_lead_back_to_itself(world: World) -> None:
    """Trio's own has the system's among its causes, and that is what is told."""
    system = OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))

    async def connect(entry: AddressInfo) -> str:
        raise RuntimeError("no words of the system's") from system

    async def close(opened: str) -> None:
        raise AssertionError

    wire: Any = SimpleNamespace(opening=Opening(""))
    with pytest.raises(ConnectionRefusedError) as caught:
        await _connecting.race(wire, [four("1")], connect, close)

    def check(error: BaseException | None, above: tuple[int, ...]) -> None:
        if error is not None:
            assert id(error) not in above, "a ring"
            for one in (error.__cause__, error.__context__):
                check(one, (*above, id(error)))

    check(caught.value, ())
