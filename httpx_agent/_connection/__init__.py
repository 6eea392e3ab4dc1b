"""One protocol conversation over one socket.

Begin with `interface.py`, the `Connection` protocol, and `factory.py`, which chooses its implementation for an origin.
`http1.py` is our HTTP/1.1 connection, with `http1_sync.py` for threads and `http1_asyncio.py` for asyncio.
`httpcore.py` wraps httpcore's, for HTTP/2, proxies and trio. `trace.py` emits httpcore's trace events and log lines.

May import `_network` and everything below it. A connection knows its wire, but no pool.
"""
