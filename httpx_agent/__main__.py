"""`python -m httpx_agent`, and the console script `httpx-agent`."""

from __future__ import annotations

import sys

from httpx_agent._cli.app import main

if __name__ == "__main__":
    sys.exit(main())
