"""Bytes in and out: sockets, TLS, and the streams of event loops.

Begin with `wire.py`, the byte side of one socket and how to interrupt whatever waits on it. `sync.py` and `anyio.py`
have the backends and streams for threads and for event loops; `asyncio.py` is our own protocol for asyncio. Opening a
socket: `resolver.py` looks up names, `racing.py` decides which address is tried when (RFC 8305), `connecting.py` does
it, `opening.py` keeps its deadline and records how far it came, `descriptor_limit.py` recognises that no file
descriptor was left. TLS: `tls.py`, `sessions.py`, `certificates.py`, `trio_tls.py`. `upload.py` sends a body while it
listens for an early response; `poll.py` asks the system whether a socket is readable.

May import `_values` and everything below it. It knows neither connections nor the pool.
"""
