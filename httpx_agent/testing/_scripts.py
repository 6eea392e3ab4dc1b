"""A server's behaviour as data: bytes, marks and gates, for the scripted network and the chaos server alike."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Protocol, TypeAlias


class Mark(enum.Enum):
    """A step of a script other than bytes, gates and exceptions."""

    FIN = "the server closes its end: from here on, reads return nothing"
    RST = "the server resets the connection: from here on, reads and writes raise"
    HANG = "nothing more happens until a timeout, a cancellation or a close"
    TIMEOUT = "the operation times out at once"
    REFUSED = "the connection is refused, or the handshake fails"


FIN = Mark.FIN
RST = Mark.RST
HANG = Mark.HANG
TIMEOUT = Mark.TIMEOUT
REFUSED = Mark.REFUSED


class Stage(Protocol):
    """A server or network that plays scripts."""

    def changed(self) -> None:
        """Check the gates again, because one has opened."""


class Gate:
    """A step that holds up those after it until the test opens it. One gate may be part of several scripts."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.is_open = False
        self._stages: set[Stage] = set()

    def open(self) -> None:
        """Let through everything that waits at this gate, and everything that comes later."""
        self.is_open = True
        for stage in list(self._stages):
            stage.changed()

    def tell(self, stage: Stage) -> None:
        """Notify a stage when this gate opens."""
        self._stages.add(stage)

    def __repr__(self) -> str:
        return f"<Gate {self.name} {'open' if self.is_open else 'shut'}>"


Step: TypeAlias = bytes | Gate | Mark | Exception


def respond(
    body: bytes = b"ok",
    status: int = 200,
    headers: Iterable[tuple[str, str]] = (),
    *,
    reason: str = "OK",
    length: bool = True,
) -> bytes:
    """Return an HTTP/1.1 response, with its `Content-Length` unless `length` is false."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def trickle(data: bytes) -> list[Step]:
    """Return the bytes one by one, as steps."""
    return [data[at : at + 1] for at in range(len(data))]


def chunked(*parts: Step, end: bool = True) -> list[Step]:
    """Return a chunked response: each `bytes` becomes a chunk, other steps stay, `end` adds the last chunk."""
    steps: list[Step] = [respond(b"", headers=[("Transfer-Encoding", "chunked")], length=False)]
    steps += [b"%x\r\n%s\r\n" % (len(part), part) if isinstance(part, bytes) else part for part in parts]
    return [*steps, b"0\r\n\r\n"] if end else steps
