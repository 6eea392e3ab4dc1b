"""A server on loopback that fails on demand."""

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

#: Seconds that a client has to close its connections.
GRACE = 5.0

Answer: TypeAlias = str | Fault | Step | Sequence[Step]

#: The answers that a real server can give; a scripted network has more.
_EXPECTED = "expected the name of a fault, bytes, FIN, RST, HANG, a Gate, or a sequence of these steps"


class ChaosServer(LoopbackServer):
    """An HTTP/1.1 server on loopback that fails on demand, with real sockets and one thread per connection.

    It answers each request with what was passed to `next`; otherwise, if the path is the name of a fault
    (``/reset-in-body``), with that fault; otherwise with a 200 whose body is ``ok`` and whose header ``X-Target``
    repeats the request's target.

        with ChaosServer() as server:
            server.next("reset")
            with pytest.raises(httpx.ReadError):
                httpx.get(server.url)
            httpx.get(f"{server.url}/trickle")

    When the block ends, the server closes all connections and ends all threads.

    Args:
        ssl_context: A server-side TLS context; if given, the server uses TLS.
        pace: Seconds between two steps of an answer.
        must_be_closed: Whether to raise `AssertionError` at the end of the block if the client leaves connections open
            for more than five seconds.
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

    # -- For the test -------------------------------------------------------------------------------------------------

    def url_of(self, fault: str) -> str:
        """Return a URL whose requests meet a fault.

        Raises:
            KeyError: If there is no fault with that name.
        """
        return f"{self.url}/{FAULTS[fault].name}"

    def next(self, *answers: Answer) -> None:
        """Set the answers to the next requests, in order, on any connection.

        Args:
            answers: One for each request: the name of a fault, a `Fault`, a step, or several steps.

        Raises:
            TypeError: If an answer contains a step that only a scripted network supports.
            KeyError: If there is no fault with a given name.
        """
        faults = [_as_fault(answer) for answer in answers]
        self._adopt(step for fault in faults for step in fault.steps)
        self._next.extend(faults)

    def next_connection(self, *steps: Step) -> None:
        """Set what happens to the next connection as soon as it is accepted, before TLS.

        A second call sets the same for the connection after that, and so on.
        """
        self._next_connection.append(_as_fault(steps).steps)
        self._adopt(steps)

    # -- Serving ------------------------------------------------------------------------------------------------------

    def welcome(self, peer: Peer) -> None:
        """Play the steps that `next_connection` set."""
        if self._next_connection:
            self._play(peer, self._next_connection.popleft())

    def serve(self, peer: Peer) -> None:
        """Answer requests one after another."""
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
        """Release the threads that wait at a gate."""
        self.changed()

    def changed(self) -> None:
        """Check the gates again, because one has opened."""
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
