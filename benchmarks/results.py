"""What a run measured, as it stands in the JSON file, and the arithmetic on it: ratios, medians and spreads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

from .cases import CASES, Case, Ratio

FORMAT = 1
"""The version of the JSON file's form."""


@dataclass(frozen=True)
class Measurement:
    """One contender on one case in one round; the fields are those of `measure.Answer`."""

    case: str
    contender: str
    round: int
    value: float | None
    requests: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    client_cpu: float | None = None
    server_cpu: float | None = None
    cpu_per_request: float | None = None
    peak_memory: int | None = None
    limited: bool = False


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, the lowest and the highest, and how many rounds there were."""

    median: float
    low: float
    high: float
    rounds: int


def spread(values: Iterable[float]) -> Spread | None:
    """The spread of the values; `None` of none."""
    known = sorted(values)
    return Spread(median(known), known[0], known[-1], len(known)) if known else None


@dataclass
class Run:
    """A run of the benchmark.

    Attributes:
        settings: Rounds, seconds, the commit, and when the run began and ended.
        machine: What it ran on.
        servers: The servers, by what they were used for.
        packages: The versions of the contenders' packages.
        labels: What each contender is called in tables and plots.
        left_out: Why contenders took no part, by world and name: ``"async/aiohttp"``.
        measurements: What was measured, in order.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    servers: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)

    def cases(self, suite: str | None = None) -> list[Case]:
        """The cases that were measured, in order."""
        measured = {measurement.case for measurement in self.measurements}
        return [case for case in CASES.values() if case.name in measured and suite in (None, case.suite)]

    def compared(self, suite: str | None = None) -> list[Case]:
        """Those of them in which contenders are compared, and not cases."""
        return [case for case in self.cases(suite) if case.kind != "cost"]

    def of(self, case: str, contender: str) -> list[Measurement]:
        """The measurements of a contender on a case, one a round."""
        return [one for one in self.measurements if (one.case, one.contender) == (case, contender)]

    def values(self, case: str, contender: str) -> dict[int, float]:
        """What a contender reached on a case, by round."""
        return {one.round: one.value for one in self.of(case, contender) if one.value is not None}

    def value(self, case: str, contender: str) -> Spread | None:
        """The spread over the rounds."""
        return spread(self.values(case, contender).values())

    def ratio(self, ratio: Ratio) -> Spread | None:
        """The spread of a ratio: of each round's own, never of medians."""
        above = self.values(ratio.case, ratio.contender)
        below = [(CASES[case], self.values(case, contender)) for case, contender in ratio.against]
        ratios = []
        for number, value in above.items():
            others = [values[number] for _, values in below if number in values]
            if others:
                best = min(others) if below[0][0].less_is_better else max(others)
                ratios.append(value / best)
        return spread(ratios)

    def against(self, case: str, contender: str, other: str) -> Spread | None:
        """The spread of one contender's ratio to another on a case."""
        return self.ratio(Ratio("", case, contender, ((case, other),)))

    def errors(self, case: str, contender: str) -> dict[str, int]:
        """What went wrong, and how often, over all rounds."""
        total: dict[str, int] = {}
        for measurement in self.of(case, contender):
            for error, count in measurement.errors.items():
                total[error] = total.get(error, 0) + count
        return total

    def write(self, path: Path) -> None:
        """Write the JSON file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, **asdict(self)}
        measurements = ",\n".join("  " + json.dumps(_rounded(one)) for one in content.pop("measurements"))
        head = json.dumps(content, indent=1).removesuffix("\n}")
        path.write_text(f'{head},\n "measurements": [\n{measurements}\n ]\n}}\n')

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a JSON file that `write` wrote."""
        content = json.loads(path.read_text())
        if content.pop("format", None) != FORMAT:
            raise ValueError(f"{path.name} is not a result of this version of the benchmark")
        measurements = [Measurement(**one) for one in content.pop("measurements")]
        return cls(**content, measurements=measurements)


def _rounded(measurement: dict[str, Any]) -> dict[str, Any]:
    """Five digits: more is noise."""
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in measurement.items()}
