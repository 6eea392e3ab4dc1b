"""Write output. On a terminal `rich` draws it, if it is installed; elsewhere the output is plain lines.

Everything printed is safe: characters that cannot be printed or encoded are escaped, so a server's response can neither
break the run nor control the terminal.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import TextIO

from httpx_agent._values.status import format_table

#: Width of paragraphs, in characters.
WIDTH = 88

_BAR_WIDTH = 30

#: Seconds between two redraws of a progress bar.
_REFRESH = 0.1


class Screen:
    """A screen of plain text.

    Args:
        stream: The stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._has_gap = True

    def heading(self, text: str) -> None:
        """Begin a section, after an empty line."""
        self.gap()
        self.line(text)
        self.line("=" * len(text))

    def paragraph(self, text: str) -> None:
        """Print text, wrapped."""
        for line in textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False):
            self.line(line)
        self.gap()

    def line(self, text: str) -> None:
        """Print one line, and flush."""
        self.stream.write(self.safe(text) + "\n")
        self.stream.flush()
        self._has_gap = not text

    def gap(self) -> None:
        """Print an empty line, unless the last line is empty or nothing has been printed."""
        if not self._has_gap:
            self.line("")

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table and an empty line."""
        for line in format_table(heads, rows).splitlines():
            self.line(line)
        self.gap()

    @contextmanager
    def progress(self, total: int, noun: str) -> Iterator[Callable[[], None]]:
        """Show progress; call the yielded function once per step, from one thread at a time."""
        meter = (_Bar if self.stream.isatty() else _Lines)(self, total, noun)
        try:
            yield meter.advance
        finally:
            meter.finish()

    def safe(self, text: str) -> str:
        """Return the text with characters escaped that cannot be printed or encoded."""
        text = one_line(text)
        encoding = self.stream.encoding or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)


class _Lines:
    """Progress where nothing can be redrawn: one line per quarter."""

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
    """Progress as one line that is redrawn."""

    def __init__(self, screen: Screen, total: int, noun: str) -> None:
        self._stream = screen.stream
        self._total = total
        self._noun = noun
        self._done = 0
        self._next_draw = time.monotonic()

    def advance(self) -> None:
        self._done += 1
        if time.monotonic() >= self._next_draw:
            self._draw()
            self._next_draw = time.monotonic() + _REFRESH

    def finish(self) -> None:
        self._draw()
        self._stream.write("\n")
        self._stream.flush()

    def _draw(self) -> None:
        bar = "#" * (_BAR_WIDTH * self._done // self._total)
        self._stream.write(f"\r[{bar:.<{_BAR_WIDTH}}] {self._done}/{self._total} {self._noun}")
        self._stream.flush()


def one_line(text: str) -> str:
    """Return the text as one line, with unprintable characters escaped."""
    text = " ".join(text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
