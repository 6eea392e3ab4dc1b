"""The threads that look up names, in isolation."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from httpx_agent._network import resolver as _resolver
from httpx_agent._network.resolver import LookUp, Resolver, without_zone_escape
from tests.support.interrupting import Interrupted

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]


class Silence:
    """Look-ups that wait until they may speak."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.speak = threading.Event()

    def __call__(self, host: str, *args: Any) -> Any:
        self.asked.append(host)
        self.speak.wait(10)
        return FOUND


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silence]:
    found = Silence()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    monkeypatch.setattr(_resolver, "_IDLE", 0.01)
    yield found
    found.speak.set()


def until(predicate: Any) -> None:
    deadline = time.monotonic() + 10
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_result_is_shared_and_told_once(silence: Silence) -> None:
    resolver = Resolver()
    told: list[int] = []
    first = resolver.look_up(("a.test", 80), lambda: told.append(1))
    second = resolver.look_up(("a.test", 80), lambda: told.append(2))
    other = resolver.look_up(("a.test", 81), lambda: told.append(3))
    assert first is second is not other
    silence.speak.set()
    until(lambda: len(told) == 3)
    assert first.result() == FOUND
    assert sorted(told) == [1, 2, 3]
    assert sorted(silence.asked) == ["a.test", "a.test"]


def test_its_threads_end_when_they_are_idle(silence: Silence) -> None:
    silence.speak.set()
    resolver = Resolver()
    done = threading.Event()
    resolver.look_up(("a.test", 80), done.set)
    assert done.wait(10)
    until(lambda: resolver._threads == 0)


def test_an_idle_thread_serves_again(silence: Silence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_resolver, "_IDLE", 10.0)
    silence.speak.set()
    resolver = Resolver()
    for number in range(3):
        done = threading.Event()
        resolver.look_up((f"{number}.test", 80), done.set)
        assert done.wait(10)
        until(lambda: resolver._idle == 1)
    assert resolver._threads == 1


def test_no_more_threads_than_there_may_be(silence: Silence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait for one are served in turn; one that nobody waits for any more is not looked up."""
    monkeypatch.setattr(_resolver, "MAX_THREADS", 1)
    resolver = Resolver()
    done, left = threading.Event(), threading.Event()
    resolver.look_up(("first.test", 80), lambda: None)
    until(lambda: silence.asked == ["first.test"])
    dropped = resolver.look_up(("dropped.test", 80), left.set)
    resolver.look_up(("last.test", 80), done.set)
    resolver.leave(dropped, left.set)
    silence.speak.set()
    assert done.wait(10)
    assert silence.asked == ["first.test", "last.test"]
    assert not left.is_set()
    assert ("dropped.test", 80) not in resolver._look_ups


def test_who_leaves_is_not_told(silence: Silence) -> None:
    resolver = Resolver()
    stays, leaves = threading.Event(), threading.Event()
    found = resolver.look_up(("a.test", 80), stays.set)
    resolver.look_up(("a.test", 80), leaves.set)
    until(lambda: silence.asked == ["a.test"])
    resolver.leave(found, leaves.set)
    silence.speak.set()
    assert stays.wait(10)
    assert not leaves.is_set()
    resolver.leave(found, stays.set)  # which was told already


def test_no_thread_can_be_had(silence: Silence, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one that runs, a name waits for it; with none it cannot be looked up."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver = Resolver()
    done = threading.Event()
    resolver.look_up(("first.test", 80), lambda: None)
    until(lambda: silence.asked == ["first.test"])
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        resolver.look_up(("second.test", 80), done.set)
        with pytest.raises(OSError, match="cannot start a thread for the name look-up"):
            Resolver().look_up(("third.test", 80), lambda: None)
    silence.speak.set()
    assert done.wait(10)


def test_each_who_asks_gets_an_error_of_his_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback grows with each raise."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(_resolver, "_IDLE", 0.01)
    done = threading.Event()
    found: LookUp = Resolver().look_up(("a.test", 80), done.set)
    assert done.wait(10)
    errors = []
    for _ in range(2):
        with pytest.raises(socket.gaierror, match="Name or service not known") as caught:
            found.result()
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert errors[0].errno == socket.EAI_NONAME


class Uncopyable(Exception):
    """As of a package that forbids the network in tests: its class takes other arguments than it keeps."""

    def __init__(self, host: str, allowed: list[str]) -> None:
        super().__init__(f"{host} is not among {allowed}")


def test_an_error_that_cannot_be_copied_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(host: str, *args: Any) -> Any:
        raise Uncopyable(host, [])

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(_resolver, "_IDLE", 0.01)
    done = threading.Event()
    found = Resolver().look_up(("a.test", 80), done.set)
    assert done.wait(10)
    with pytest.raises(Uncopyable, match="is not among"):
        found.result()


class Collected:
    """Runs a finaliser when the collector comes by, in the middle of the next `LookUp` that is made."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def in_the_next_look_up(self, finaliser: Any) -> None:
        class Garbage:
            def __init__(self) -> None:
                self.itself = self

            def __del__(self) -> None:
                finaliser()

        def make(name: Any) -> LookUp:
            self._patch.setattr(_resolver, "LookUp", LookUp)
            Garbage()
            gc.collect()
            return LookUp(name)

        self._patch.setattr(_resolver, "LookUp", make)


def test_who_leaves_in_a_finaliser_waits_for_no_lock(silence: Silence, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that waits is dropped; the collector finds it in a thread that has the resolver's lock."""
    resolver = Resolver()
    left = threading.Event()
    dropped = resolver.look_up(("dropped.test", 80), left.set)
    Collected(monkeypatch).in_the_next_look_up(lambda: resolver.leave(dropped, left.set))
    done = threading.Event()
    thread = threading.Thread(target=resolver.look_up, args=(("a.test", 80), done.set), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    silence.speak.set()
    assert done.wait(10)
    assert not left.is_set()


def test_a_finaliser_that_looks_up_the_same_name(silence: Silence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are told, and nothing is left of either."""
    resolver = Resolver()
    outer, inner = threading.Event(), threading.Event()
    Collected(monkeypatch).in_the_next_look_up(lambda: resolver.look_up(("a.test", 80), inner.set))
    thread = threading.Thread(target=resolver.look_up, args=(("a.test", 80), outer.set), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    silence.speak.set()
    assert outer.wait(10)
    assert inner.wait(10)
    assert resolver._look_ups == {}
    until(lambda: resolver._threads == 0)


@pytest.mark.both_engines
@pytest.mark.parametrize(
    ("host", "system"),
    [
        ("fe80::1%25eth0", "fe80::1%eth0"),
        ("fe80::1%252", "fe80::1%2"),
        ("fe80::1%25my%2Dlink", "fe80::1%my-link"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("::1", "::1"),
        ("a%25b.test", "a%25b.test"),
    ],
)
def test_how_a_zone_is_decoded(host: str, system: str) -> None:
    assert without_zone_escape(host) == system


def test_a_thread_whose_start_is_interrupted_is_not_counted(silence: Silence, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets the exception; whoever asks next has the name looked up."""
    resolver = Resolver()

    def interrupt(thread: threading.Thread) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(Interrupted):
            resolver.look_up(("a.test", 80), lambda: None)
    done = threading.Event()
    silence.speak.set()
    assert resolver.look_up(("a.test", 80), done.set).name == ("a.test", 80)
    assert done.wait(5)
