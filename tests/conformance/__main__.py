"""Explain recorded traces: `python -m tests.conformance FILE...`.

For each trace: whether the model without repairs does what was recorded, by which repairs our answers differ from it,
and whether the core gives those answers. `--verbose` names the steps. A file is what the recorder wrote, compressed or
not; the name of a corpus will do too. To play traces over real sockets: `pytest tests/conformance --traces FILE`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import corpus, on_core
from .compare import OF_THE_CORE, as_an_agent_shows_it, differences
from .explain import repairs_shown
from .model import ALL_REPAIRS, play
from .trace import Trace, read_file


def main(arguments: list[str] | None = None) -> int:
    """Prints a line per trace; 1 if anything is unexplained."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("traces", nargs="+", metavar="FILE", help=f"a file of traces, or {', '.join(corpus.CORPORA)}")
    parser.add_argument("-v", "--verbose", action="store_true", help="name the steps where our answers differ")
    options = parser.parse_args(arguments)
    unexplained = 0
    for name in options.traces:
        for trace in corpus.traces(name) if name in corpus.CORPORA else read_file(Path(name)):
            lines = explain(trace, verbose=options.verbose)
            unexplained += any(line.startswith("  !") for line in lines)
            print(*lines, sep="\n")
    print(f"unexplained: {unexplained}")
    return 1 if unexplained else 0


def explain(trace: Trace, *, verbose: bool) -> list[str]:
    """What there is to say of a trace; a line that begins with ``!`` is a failure."""
    ours = play(trace, ALL_REPAIRS)
    shown = sorted(repairs_shown(trace), key=lambda repair: (repair[0] != "N", int(repair[1:])))
    first = f"{trace.name} ({trace.agent}): {' '.join(shown) or 'as in Node'}"
    failures = []
    if corpus.is_fragile(trace):
        first += "; depends on timing"
    else:
        found = differences(trace, trace.record, play(trace, ()))
        failures += [f"  ! the model is not Node: {line}" for line in found]
    if trace.name in corpus.MODEL_ONLY:
        first += f"; model only: {corpus.MODEL_ONLY[trace.name]}"
    else:
        found = differences(trace, as_an_agent_shows_it(ours), on_core.play(trace), OF_THE_CORE)
        failures += [f"  ! the core is not the model: {line}" for line in found]
    what = frozenset(("pools", "created", "closed", "requests"))
    steps = [f"    {line}" for line in differences(trace, trace.record, ours, what)] if verbose else []
    return [first, *failures, *steps]


if __name__ == "__main__":
    sys.exit(main())
