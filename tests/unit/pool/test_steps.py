"""The steps of flows that touch sockets: what they let out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import pytest

from httpx_agent import Agent
from httpx_agent._pool.steps import DRAIN_LIMIT, Drain, Send
from tests.support.interrupting import SoftLimit


class Connection:
    """Raises what a codec written in Python makes of an exception, until Python 3.11."""

    def __init__(self, raised: BaseException) -> None:
        self.raised = raised

    def handle_request(self, request: Any) -> Any:
        raise SoftLimit("encoding with 'idna' codec failed (SoftLimit: now)") from self.raised


def test_what_a_codec_makes_of_an_exception_is_undone() -> None:
    limit = SoftLimit("now")
    with pytest.raises(SoftLimit) as caught:
        Send(Connection(limit), None).run()
    assert caught.value is limit


class Pooled:
    """As much of a socket as draining needs."""

    class wire:
        family = Agent.family

    @contextmanager
    def impatient(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize(
    ("parts", "left"),
    [([b"abc", b"de"], 5), ([], 0), ([b"x" * DRAIN_LIMIT, b"x"], None), ([b"abc", httpcore.ReadError()], None)],
)
def test_draining(parts: list[Any], left: int | None) -> None:
    assert Drain(read(parts), Pooled()).run() == left  # type: ignore[arg-type]


def test_draining_lets_out_what_is_not_the_networks() -> None:
    """A handler's exception is the caller's."""
    limit = SoftLimit("now")
    with pytest.raises(SoftLimit) as caught:
        Drain(read([b"abc", limit]), Pooled()).run()  # type: ignore[arg-type]
    assert caught.value is limit


def read(parts: list[Any]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, Exception):
            raise part
        yield part
