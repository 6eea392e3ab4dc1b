"""A server on loopback that fails as it is told."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import TypeAlias

from ._faults import FAULTS, Fault
from ._scripts import FIN, HANG, RST, Gate, Mark, Step
from ._server import Hangup, LoopbackServer, Peer, ReceivedRequest

#: Seconds that a client gets to close what it holds.
GRACE = 5.0

Answer: TypeAlias = str | Fault | Step | Sequence[Step]

#: What a real server can do; a scripted network can do more.
_EXPECTED = "expected the name of a fault, bytes, FIN, RST, HANG, a Gate, or a sequence of these steps"


class ChaosServer(LoopbackServer):
    """An HTTP/1.1 server on loopback that fails as it is told, by real sockets, each connection in a thread.

    A request is answered by what `next` was given; else, if its path is the name of a fault (``/reset-in-body``), by
    that; else by a 200 whose body is ``ok``, and whose header ``X-Target`` repeats the request's target.

        with ChaosServer() as server:
            server.next("reset")
            with pytest.raises(httpx.ReadError):
                httpx.get(server.url)
            httpx.get(f"{server.url}/trickle")

    At the end of the block all connections are closed, and all threads have ended.

    Args:
        ssl_context: A server's TLS context; with it the server speaks TLS.
        pace: Seconds between two steps of an answer.
        must_be_closed: Whether the end of the block fails if the client has left connections open; it is given five
            seconds to close them.
    """

    def __init__(
        self, *, ssl_context: ssl.SSLContext | None = None, pace: float = 0.0, must_be_closed: bool = False
    ) -> None:
        super().__init__(tls=ssl_context)
        self.pace = pace
        self.must_be_closed = must_be_closed
        self._next: deque[Fault] = deque()
        self._next_connection: deque[tuple[Step, ...]] = deque()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self.must_be_closed and exc is None:
                self.wait_closed(GRACE)
        finally:
            super().__exit__(exc_type, exc, traceback)

    # -- What the test asks and does ----------------------------------------------------------------------------------

    def url_of(self, fault: str) -> str:
        """Return a URL that meets a fault.

        Raises:
            KeyError: If there is none of that name.
        """
        return f"{self.url}/{FAULTS[fault].name}"

    def next(self, *answers: Answer) -> None:
        """Set what the next requests meet, one after the other, on whatever connection.

        Args:
            answers: For each request the name of a fault, a `Fault`, a step, or several steps.

        Raises:
            TypeError: For what only a scripted network can do.
            KeyError: If there is no fault of a name.
        """
        faults = [_as_fault(answer) for answer in answers]
        self._adopt(step for fault in faults for step in fault.steps)
        self._next.extend(faults)

    def next_connection(self, *steps: Step) -> None:
        """Set what the next connection meets as soon as it is accepted, before TLS; called again, the one after it."""
        self._next_connection.append(_as_fault(steps).steps)
        self._adopt(steps)

    # -- Serving ------------------------------------------------------------------------------------------------------

    def welcome(self, peer: Peer) -> None:
        """Do what `next_connection` said."""
        if self._next_connection:
            self._play(peer, self._next_connection.popleft())

    def serve(self, peer: Peer) -> None:
        """Answers one request after the other."""
        while True:
            peer.wait_idle()
            request = peer.read_request()
            fault = self._next.popleft() if self._next else FAULTS.get(request.path.lstrip("/"))
            if fault is None:
                peer.read_body(request)
                peer.respond(request, b"ok", headers=[("X-Target", request.target)])
            else:
                self._fail(peer, request, fault)
            if request.get("connection").lower() == "close":
                raise Hangup

    def release(self) -> None:
        """Lets go whoever waits at a gate."""
        self.changed()

    def changed(self) -> None:
        """Look again: a gate was opened."""
        with self.changes:
            self.changes.notify_all()

    def _fail(self, peer: Peer, request: ReceivedRequest, fault: Fault) -> None:
        if not fault.early:
            peer.read_body(request)
        self._play(peer, fault.steps)
        if fault.early:
            peer.read_body(request)

    def _play(self, peer: Peer, steps: Sequence[Step]) -> None:
        for number, step in enumerate(steps):
            if number and self.pace:
                self._stopping.wait(self.pace)
            if isinstance(step, bytes):
                peer.send(step, last=number == len(steps) - 1)
            elif isinstance(step, Gate):
                with self.changes:
                    self.changes.wait_for(partial(self._may_pass, step))
            elif step is HANG:
                peer.wait_for_end()
            else:
                raise Hangup(reset=step is RST)

    def _may_pass(self, gate: Gate) -> bool:
        return gate.is_open or self._stopping.is_set()

    def _adopt(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, Gate):
                step.tell(self)


def _as_fault(answer: Answer) -> Fault:
    if isinstance(answer, Fault):
        return answer
    if isinstance(answer, str):
        return FAULTS[answer]
    steps = (answer,) if isinstance(answer, (bytes, Gate, Mark, Exception)) else tuple(answer)
    for step in steps:
        if not isinstance(step, (bytes, Gate)) and step not in (FIN, RST, HANG):
            raise TypeError(f"{step!r}: {_EXPECTED}")
    return Fault("", "what the test says", steps)
