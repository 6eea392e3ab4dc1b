"""Named faults in responses, for the chaos server and scripted networks alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ._scripts import FIN, HANG, RST, Step, respond, trickle


@dataclass(frozen=True)
class Fault:
    """One way in which a server can fail a request.

    Attributes:
        name: The name; `ChaosServer` accepts it as the path of a request.
        what: What the server does, in words.
        steps: The same, as steps of a script.
        early: Whether it happens as soon as the request's head has arrived, before the body is read.
    """

    name: str
    what: str
    steps: tuple[Step, ...]
    early: bool = False


_OK = respond(b"ok")
_START = b"HTTP/1.1 200 OK\r\n"
_HEAD = _START + b"Content-Le"
_BODY = respond(b"half of ", headers=[("Content-Length", "16")], length=False)
_CHUNKED = respond(b"", headers=[("Transfer-Encoding", "chunked")], length=False)
_CHUNK = _CHUNKED + b"5\r\nhel"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
_INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"

#: A response to no request; if a client ever receives it, responses were mixed up.
UNASKED = respond(b"unasked", 299, reason="Nobody Asked")

_MEBIBYTE = 1024 * 1024
_FIELDS = b"X: y\r\n" * (_MEBIBYTE // 6)

_FAULTS = [
    Fault("fin", "hangs up instead of answering", (FIN,)),
    Fault("reset", "resets the connection instead of answering", (RST,)),
    Fault("hang", "never answers", (HANG,)),
    Fault("garbage", "sends something that is not HTTP, then hangs up", (b"SSH-2.0-nonsense\r\n\r\n", FIN)),
    Fault("fin-in-head", "hangs up in the middle of the head", (_HEAD, FIN)),
    Fault("reset-in-head", "resets the connection in the middle of the head", (_HEAD, RST)),
    Fault("hang-in-head", "stalls in the middle of the head", (_HEAD, HANG)),
    Fault("fin-in-body", "hangs up in the middle of a body of known length", (_BODY, FIN)),
    Fault("reset-in-body", "resets the connection in the middle of a body of known length", (_BODY, RST)),
    Fault("hang-in-body", "stalls in the middle of a body of known length", (_BODY, HANG)),
    Fault("fin-in-chunk", "hangs up in the middle of a chunk", (_CHUNK, FIN)),
    Fault("reset-in-chunk", "resets the connection in the middle of a chunk", (_CHUNK, RST)),
    Fault("hang-in-chunk", "stalls in the middle of a chunk", (_CHUNK, HANG)),
    Fault("bad-chunk", "sends a chunk whose size is not a number", (_CHUNKED + b"zz\r\nok\r\n0\r\n\r\n",)),
    Fault("fin-after", "sends a whole response, then hangs up", (_OK, FIN)),
    Fault("reset-after", "sends a whole response, then resets the connection", (_OK, RST)),
    Fault(
        "close", "sends `Connection: close`, then hangs up", (respond(b"ok", headers=[("Connection", "close")]), FIN)
    ),
    Fault("no-length", "sends a body that ends with the connection", (respond(b"ok", length=False), FIN)),
    Fault("trickle", "sends a whole response, byte by byte", tuple(trickle(_OK))),
    Fault("interim", "sends one 100 and two 103 responses, then a whole response", (_CONTINUE + _INTERIM * 2, _OK)),
    Fault(
        "interim-flood",
        "sends a mebibyte of 103 responses, and no final response",
        (_INTERIM * (_MEBIBYTE // len(_INTERIM)), HANG),
    ),
    Fault("interim-fin", "sends a 103, then hangs up", (_INTERIM, FIN)),
    Fault(
        "early",
        "answers before it reads the body, and keeps the connection open",
        (respond(b"ok", 413, reason="No"),),
        early=True,
    ),
    Fault(
        "early-close",
        "answers before it reads the body, then hangs up",
        (respond(b"ok", 413, [("Connection", "close")], reason="No"), FIN),
        early=True,
    ),
    Fault("early-reset", "resets the connection before it reads the body", (RST,), early=True),
    Fault("second", "sends a second response together with the first", (_OK + UNASKED,)),
    Fault("second-later", "sends a second response after the first", (_OK, UNASKED)),
    Fault(
        "split", "sends bytes after the end of the body that look like headers", (_OK + b"Set-Cookie: evil=1\r\n\r\n",)
    ),
    Fault("upgrade", "switches to another protocol without being asked", (_UPGRADE,)),
    Fault(
        "two-lengths", "sends two different lengths", (_START + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\nok",)
    ),
    Fault("bad-length", "sends a length that is not a number", (_START + b"Content-Length: two\r\n\r\nok",)),
    Fault("bad-header", "sends a header without a colon", (_START + b"no colon\r\nContent-Length: 2\r\n\r\nok",)),
    Fault("huge-header", "sends a header of one mebibyte", (respond(b"ok", headers=[("X-Huge", "x" * _MEBIBYTE)]),)),
    Fault("endless-head", "sends a mebibyte of short headers without an end", (_START + _FIELDS, HANG)),
    Fault(
        "huge-extension",
        "sends a chunk extension of one mebibyte",
        (_CHUNKED + b"2;" + b"x" * _MEBIBYTE + b"\r\nok", HANG),
    ),
    Fault("endless-trailers", "sends a mebibyte of trailers without an end", (_CHUNKED + b"0\r\n" + _FIELDS, HANG)),
]

#: Every fault, by name.
FAULTS: Mapping[str, Fault] = MappingProxyType({fault.name: fault for fault in _FAULTS})
