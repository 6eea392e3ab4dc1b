#!/usr/bin/env bash
# asyncio (CPython 3.11.7) and trio 0.34.0: connecting to a Unix socket whose queue is full "succeeds" at once.
#
# On Linux a non-blocking connect to such a socket fails with EAGAIN: unlike EINPROGRESS it starts nothing that could
# finish later. Both libraries take it for a connection under way, wait until the socket is writable, find no pending
# error, and hand out a socket that is connected to nobody. The failure comes later, at the first write or read, as an
# error that says nothing of the queue. A blocking socket waits for room instead.
#
# Seen: asyncio: connected to nobody; trio: connected to nobody
set -euo pipefail
[ "$(uname)" = Linux ] || { echo "only Linux answers EAGAIN here"; exit 0; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q trio==0.34.0 2> /dev/null

cat > "$folder/show.py" << 'PYTHON'
import asyncio
import contextlib
import socket
import sys

import trio

path = sys.argv[1]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(0)
clients = []
with contextlib.suppress(BlockingIOError):
    while True:
        clients.append(socket.socket(socket.AF_UNIX))
        clients[-1].setblocking(False)
        clients[-1].connect(path)


def peer_of(sock):
    try:
        return f"connected to {sock.getpeername()!r}"
    except OSError:
        return "connected to nobody"


async def by_asyncio():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, path), 5)
        return peer_of(sock)


async def by_trio():
    with trio.fail_after(5):
        async with await trio.open_unix_socket(path) as stream:
            return peer_of(stream.socket)


print(f"asyncio: {asyncio.run(by_asyncio())}; trio: {trio.run(by_trio)}")
PYTHON

found=$("$folder/venv/bin/python" "$folder/show.py" "$folder/socket")
echo "$found"
[ "$found" = "asyncio: connected to nobody; trio: connected to nobody" ]
