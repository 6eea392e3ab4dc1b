"""Choose how to draw: with `rich` on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import importlib
import os
from typing import TextIO

from .screen import Screen


def screen_for(stream: TextIO) -> Screen:
    """Return the screen for a stream: drawn by `rich` if it is a terminal and `rich` is installed, otherwise plain."""
    if stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
        try:
            importlib.import_module("rich")
            from .rich_screen import RichScreen
        except ImportError:
            pass
        else:
            return RichScreen(stream)
    return Screen(stream)
