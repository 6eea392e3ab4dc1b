"""The servers of the examples, for the tests too."""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAMS = Path(__file__).parents[2] / "examples" / "integrations"

sys.path.append(str(PROGRAMS))
