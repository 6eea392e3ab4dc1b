"""The servers of a soak, in a separate process, so that their memory is not counted as the agent's.

    python -m tests.soak.server FOLDER

Writes the authority of its certificate into the folder, prints its two ports (http, https) as one line of JSON, then
answers each line of its input with the number of connections that are open; ends with its input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from httpx_agent.testing import ChaosServer, Peer
from tests.support.servers import Certificates


class ForgetfulServer(ChaosServer):
    """Remembers only the connections that are open, so that it can run for hours."""

    def serve(self, peer: Peer) -> None:
        """Serve one connection, and forget it."""
        try:
            super().serve(peer)
        finally:
            with self.changes:
                self.requests.clear()
                self.peers[:] = [other for other in self.peers if other.is_open and other is not peer]


def main(folder: Path) -> None:
    """Serve until the input ends."""
    certificates = Certificates()
    certificates.write(folder)
    # What a connection's thread is still doing when it is forgotten is closing it.
    with ForgetfulServer() as plain, ForgetfulServer(ssl_context=certificates.server()) as tls:
        print(json.dumps([plain.port, tls.port]), flush=True)
        for _ in sys.stdin:
            print(plain.open + tls.open, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
