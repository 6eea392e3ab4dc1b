"""`python -m benchmarks.page run.json`: draw the plots and write the tables that ``docs/performance.md`` includes.

What a run did not measure stays as it was: the pool's own cost may be of another run than the rest.
No figure on that page is typed by hand.
"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path

from . import plots, tables
from .results import Run

ASSETS = Path(__file__).parent.parent / "docs" / "assets" / "benchmarks"


def write_cost(run: Run, directory: Path) -> None:
    """Write the table of the pool's own cost, and from which run it is."""
    table = tables.markdown(tables.COST_HEAD, tables.cost_rows(run))
    conditions = "\n".join(f"- {line}" for line in tables.conditions(run))
    (directory / "cost.md").write_text(f"{table}\n\n{conditions}\n")
    run.write(directory / "cost.json")


def write_tables(run: Run, directory: Path) -> None:
    """Write tables, and the results themselves, into a directory."""
    parts = {
        "conditions.md": "\n".join(f"- {line}" for line in tables.conditions(run)),
        "ratios.md": _ratios(run),
        "tables.md": "\n\n".join(
            f"**{case.title}**\n\n{tables.markdown(tables.case_head(case), tables.case_rows(run, case))}"
            for case in run.compared()
        ),
        "remarks.md": "\n".join(f"- {line}" for line in tables.remarks(run)) or "Nothing was left out or went wrong.",
    }
    for name, content in parts.items():
        (directory / name).write_text(f"{content}\n")
    run.write(directory / "run.json")


def _ratios(run: Run) -> str:
    """The ratios in one table; a group's name stands in its first row only."""
    rows: list[tables.Row] = []
    for group, members in groupby(tables.ratio_rows(run), key=lambda row: row[0]):
        rows += [
            (group if first else "", *row[1:]) for first, row in ((not index, row) for index, row in enumerate(members))
        ]
    return tables.markdown(tables.RATIO_HEAD, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("file", type=Path, help="the JSON file of a run")
    parser.add_argument("directory", type=Path, nargs="?", default=ASSETS, help="where to write; default: docs/")
    arguments = parser.parse_args()
    run = Run.read(arguments.file)
    if run.compared():
        plots.draw(run, arguments.directory)
        write_tables(run, arguments.directory)
    if run.cases("cost"):
        write_cost(run, arguments.directory)


if __name__ == "__main__":
    main()
