"""Where output goes. Here is decided whether `rich` draws it: on a terminal, if it is installed.

Everything that is printed is safe: characters that cannot be printed or encoded are escaped, so a server's answer can
neither break the run nor steer the terminal. What is no terminal gets plain lines, with `rich` and without.
"""

from __future__ import annotations

import importlib
import os
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import TextIO

from httpx_agent._status import format_table

#: How wide paragraphs are set.
WIDTH = 88

_BAR_WIDTH = 30

#: Seconds between two looks of a progress bar.
_REFRESH = 0.1


class Screen:
    """Plain text.

    Args:
        stream: Where it goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._has_gap = True

    def heading(self, text: str) -> None:
        """Begins a section, after an empty line."""
        self.gap()
        self.line(text)
        self.line("=" * len(text))

    def paragraph(self, text: str) -> None:
        """Prints sentences, wrapped."""
        for line in textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False):
            self.line(line)
        self.gap()

    def line(self, text: str) -> None:
        """Prints one line, at once."""
        self.stream.write(self.safe(text) + "\n")
        self.stream.flush()
        self._has_gap = not text

    def gap(self) -> None:
        """Prints an empty line, unless there is one already, or nothing yet."""
        if not self._has_gap:
            self.line("")

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Prints a table and an empty line."""
        for line in format_table(heads, rows).splitlines():
            self.line(line)
        self.gap()

    @contextmanager
    def progress(self, total: int, noun: str) -> Iterator[Callable[[], None]]:
        """Shows how far something is; what it gives is to be called once per step, by one thread at a time."""
        meter = (_Bar if self.stream.isatty() else _Lines)(self, total, noun)
        try:
            yield meter.advance
        finally:
            meter.finish()

    def safe(self, text: str) -> str:
        """The text with what cannot be printed, or not in this encoding, escaped."""
        text = one_line(text)
        encoding = self.stream.encoding or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)


class _Lines:
    """Progress where nothing can be drawn: one line per quarter."""

    def __init__(self, screen: Screen, total: int, noun: str) -> None:
        self._screen = screen
        self._total = total
        self._noun = noun
        self._done = 0
        self._stops = {ceil(total * quarter / 4) for quarter in (1, 2, 3, 4)}

    def advance(self) -> None:
        self._done += 1
        if self._done in self._stops:
            self._screen.line(f"{self._done} of {self._total} {self._noun} done")

    def finish(self) -> None:
        pass


class _Bar:
    """Progress as one line that is drawn over and over."""

    def __init__(self, screen: Screen, total: int, noun: str) -> None:
        self._stream = screen.stream
        self._total = total
        self._noun = noun
        self._done = 0
        self._next_look = time.monotonic()

    def advance(self) -> None:
        self._done += 1
        if time.monotonic() >= self._next_look:
            self._draw()
            self._next_look = time.monotonic() + _REFRESH

    def finish(self) -> None:
        self._draw()
        self._stream.write("\n")
        self._stream.flush()

    def _draw(self) -> None:
        bar = "#" * (_BAR_WIDTH * self._done // self._total)
        self._stream.write(f"\r[{bar:.<{_BAR_WIDTH}}] {self._done}/{self._total} {self._noun}")
        self._stream.flush()


def screen_for(stream: TextIO) -> Screen:
    """The screen for a stream: drawn by `rich` if it is a terminal and `rich` is installed, else plain."""
    if stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
        try:
            importlib.import_module("rich")
            from .rich_screen import RichScreen
        except ImportError:
            pass
        else:
            return RichScreen(stream)
    return Screen(stream)


def one_line(text: str) -> str:
    """The text in one line, and what cannot be printed escaped."""
    text = " ".join(text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
