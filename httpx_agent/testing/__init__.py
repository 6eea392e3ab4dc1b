"""Test code that uses an agent: servers and networks that fail on demand, and a clock that the test sets.

Needs only the library itself, except that `http2` needs the extra `http2`, and the fixtures in
`httpx_agent.testing.fixtures` need pytest.
"""

from ._chaos import ChaosServer
from ._clock import VirtualClock
from ._faults import FAULTS, UNASKED, Fault
from ._leaks import assert_no_leaks
from ._scripted_network import Answer, Connection, Network, Op, Script, goaway, http2
from ._scripts import FIN, HANG, REFUSED, RST, TIMEOUT, Gate, Mark, Step, chunked, respond, trickle
from ._server import Peer, ReceivedRequest

__all__ = [
    "FAULTS",
    "FIN",
    "HANG",
    "REFUSED",
    "RST",
    "TIMEOUT",
    "UNASKED",
    "Answer",
    "ChaosServer",
    "Connection",
    "Fault",
    "Gate",
    "Mark",
    "Network",
    "Op",
    "Peer",
    "ReceivedRequest",
    "Script",
    "Step",
    "VirtualClock",
    "assert_no_leaks",
    "chunked",
    "goaway",
    "http2",
    "respond",
    "trickle",
]
