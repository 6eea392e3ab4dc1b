"""A screen drawn by `rich`; the only module that imports it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from httpx_agent._values.status import is_number

from .screen import Screen


class RichScreen(Screen):
    """Headings, tables and progress in colour.

    Args:
        stream: The terminal to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._console = Console(file=stream, force_terminal=True, highlight=False)

    def heading(self, text: str) -> None:
        """Begin a section, after an empty line."""
        self.gap()
        self._console.print(Text(self.safe(text), style="bold cyan"))
        self._has_gap = False

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table and an empty line."""
        cells = [[self.safe(cell) for cell in row] for row in rows]
        table = Table()
        for number, head in enumerate(heads):
            numeric = all(is_number(row[number]) for row in cells)
            table.add_column(Text(head), justify="right" if numeric else "left", overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))  # as `Text`, because an IPv6 address in brackets is not markup
        self._console.print(table)
        self._has_gap = False
        self.gap()

    @contextmanager
    def progress(self, total: int, noun: str) -> Iterator[Callable[[], None]]:
        """Show progress; call the yielded function once per step."""
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn(noun), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task("", total=total)
            yield lambda: progress.advance(task)
