"""Which address is tried when (RFC 8305), with literal times, and what becomes of attempts in an event loop."""

from __future__ import annotations

import math
import socket
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from httpx_agent import _connecting
from httpx_agent._opening import Opening
from httpx_agent._racing import AddressInfo, Race, describe, interleave
from tests.support.worlds import World

in_loops = pytest.mark.in_loops


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
    race.failed()
    assert not race.is_lost()
    assert race.next(100.01) == six("a")
    assert race.next_start() == math.inf
    race.failed()
    assert race.is_lost()


def test_no_address_is_a_lost_race() -> None:
    assert Race([]).is_lost()


def test_addresses_in_words() -> None:
    assert describe(four("10.0.0.1")) == "10.0.0.1:80"
    assert describe(six("::1")) == "[::1]:80"
    assert describe((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", "/tmp/s")) == "/tmp/s"


class Attempts:
    """Attempts to connect that do as they are told; what one opens is its address."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.fail: set[str] = set()
        self.gates: dict[str, anyio.Event] = {}
        self.wire: Any = SimpleNamespace(opening=Opening(""))

    async def connect(self, entry: AddressInfo) -> str:
        host: str = entry[4][0]
        self.begun.append(host)
        if host in self.gates:
            with anyio.CancelScope(shield=host.startswith("stubborn")):
                await self.gates[host].wait()
        if host in self.fail:
            raise OSError(host)
        self.opened.append(host)
        return host

    async def close(self, opened: str) -> None:
        self.closed.append(opened)

    async def race(self, *addresses: str) -> str:
        return await _connecting.race(
            self.wire, [four(host) for host in addresses], self.connect, self.close, (OSError,)
        )


@in_loops
async def test_the_next_address_is_tried_when_one_fails(world: World) -> None:
    attempts = Attempts()
    attempts.fail.add("first")
    assert await attempts.race("first", "second", "third") == "second"
    assert attempts.begun == ["first", "second"]


@in_loops
async def test_the_next_address_is_tried_when_one_takes_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("httpx_agent._racing.ATTEMPT_DELAY", 0.01)
    attempts = Attempts()
    attempts.gates["first"] = anyio.Event()
    assert await attempts.race("first", "second") == "second"
    assert attempts.closed == []


@in_loops
async def test_all_that_fail(world: World) -> None:
    attempts = Attempts()
    attempts.fail.update({"first", "second"})
    with pytest.raises(OSError, match="second"):
        await attempts.race("first", "second")


@in_loops
async def test_one_that_succeeds_although_it_was_cancelled_is_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("httpx_agent._racing.ATTEMPT_DELAY", 0.01)
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
    monkeypatch.setattr("httpx_agent._racing.ATTEMPT_DELAY", 0.01)
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
