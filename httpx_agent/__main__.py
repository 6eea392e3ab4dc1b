"""Run `python -m httpx_agent`; the console script `httpx-agent` runs the same `main`."""

from __future__ import annotations

import sys

from httpx_agent._cli.app import main

if __name__ == "__main__":
    sys.exit(main())
