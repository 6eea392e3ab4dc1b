"""Look for differences between the engines, for as long as you like.

python -m tests.unit.protocol.fuzz --minutes 10 --seed 7
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from random import Random

from tests.unit.protocol.cases import cuts, make_case
from tests.unit.protocol.differences import explain
from tests.unit.protocol.drivers import Case, event_loop, through_h11, through_sync


def main() -> None:
    """Look, and tell what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    seen: Counter[str] = Counter()
    seed = arguments.seed
    with event_loop() as through_asyncio:
        while time.monotonic() < end:
            random = Random(seed)
            case = make_case(random)
            other = Case(case.data, cuts(random, case.data), case.method, case.upgrade)
            theirs = through_h11(case)
            for ours in (through_sync(case), through_asyncio(case), through_sync(other), through_asyncio(other)):
                seen["compared"] += 1
                if ours.seen() == theirs.seen():
                    continue
                difference = explain(case, theirs, ours)
                if difference is None:
                    print(f"seed {seed}: {case}\n  h11:  {theirs}\n  ours: {ours}\n  other cuts: {other.cuts}")
                    raise SystemExit(1)
                seen[difference.name] += 1
            seed += 1
    for name, count in seen.most_common():
        print(f"{count:9} {name}")


if __name__ == "__main__":
    main()
