"""The command line: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import rounds, tables
from .cases import CASES, SUITES

QUICK = ("async", "sync")


def parser() -> argparse.ArgumentParser:
    """The options."""
    names = sorted({name for case in CASES.values() for name in case.contenders})
    options = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure HTTP clients side by side against a server on loopback, and print ratios.",
        epilog=f"Suites: {', '.join(SUITES)}. Contenders: {', '.join(names)}. "
        'What is not installed is left out with the reason; `pip install "httpx-agent[bench]"` brings most. '
        "niquests brings a package that takes the place of urllib3, so install it apart, "
        "`pip install --target DIRECTORY niquests`, and give `--path niquests=DIRECTORY`.",
    )
    options.add_argument("suites", nargs="*", metavar="SUITE", help="what to measure; default: all")
    options.add_argument("--rounds", type=int, help="how many rounds; default: 5")
    options.add_argument("--seconds", type=float, help="how long a measurement goes on; default: 1")
    options.add_argument("--quick", action="store_true", help=f"a minute: {' and '.join(QUICK)}, one short round")
    options.add_argument(
        "--only", action="append", default=[], metavar="NAME", choices=names, help="a contender; may be repeated"
    )
    options.add_argument(
        "--path",
        action="append",
        default=[],
        metavar="NAME=DIRECTORY",
        help="where this contender is imported from first; may be repeated",
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    options.add_argument("--plots", type=Path, metavar="DIRECTORY", help="draw the results; needs matplotlib")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    options = parser()
    given = options.parse_args(arguments)
    suites = given.suites or (QUICK if given.quick else SUITES)
    if unknown := [suite for suite in suites if suite not in SUITES]:
        options.error(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    if wrong := [path for path in given.path if "=" not in path]:
        options.error(f"--path takes NAME=DIRECTORY, not {wrong[0]}")
    count = given.rounds if given.rounds is not None else 1 if given.quick else 5
    seconds = given.seconds if given.seconds is not None else 0.2 if given.quick else 1.0
    if count < 1 or seconds <= 0:
        options.error("--rounds is at least 1, and --seconds above 0")
    run = rounds.run(
        [case for case in CASES.values() if case.suite in suites],
        rounds=count,
        seconds=seconds,
        only=given.only,
        paths=dict(path.split("=", 1) for path in given.path),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if given.json:
        run.write(given.json)
    if given.plots:
        from . import plots

        plots.draw(run, given.plots)
    print(tables.report(run))


if __name__ == "__main__":
    main()
