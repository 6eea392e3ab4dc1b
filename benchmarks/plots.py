"""Plots of results: one SVG per suite, the same bytes for the same results, readable on light and on dark pages."""

from __future__ import annotations

from pathlib import Path

from .cases import SUITES, Case
from .results import Run, Spread

INK = "#808080"
"""Of text and lines: as far from white as from a dark page."""

FILL = {"agent-httptools": "#4c6ef5", "agent-httptools-alone": "#4c6ef5", "agent-h11": "#91a7ff", "httpx": "#f08c00"}
OTHERS = "#9c9c9c"
BOUNDS = ("bare", "ceiling")
HIDDEN = ("floor",)
"""In tables only: beside bars as long as that of sockets without a client, no other could be read."""

_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, and it can be searched
    "svg.hashsalt": "benchmarks",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}
_BAR, _ROOM, _WIDTH = 0.24, 0.85, 9.0  # inches


def draw(run: Run, directory: Path) -> list[Path]:
    """Draw every suite of the run into a directory; returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for suite in SUITES:
        cases = [case for case in run.compared(suite) if any(run.value(case.name, name) for name in case.contenders)]
        if cases:
            paths.append(directory / f"{suite}.svg")
            _draw(run, cases, paths[-1])
    return paths


def _draw(run: Run, cases: list[Case], path: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = min(2, len(cases))
    table = [cases[start : start + columns] for start in range(0, len(cases), columns)]
    heights = [_ROOM + _BAR * max(len(_bars(run, case)) for case in row) for row in table]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
        grid = figure.add_gridspec(len(table), columns, height_ratios=heights)
        for row, line in enumerate(table):
            for column, case in enumerate(line):
                axes = figure.add_subplot(grid[row, column])
                bars = _bars(run, case)
                for place, (name, value) in enumerate(bars):
                    bound = name in BOUNDS
                    axes.barh(
                        place,
                        value.median,
                        height=0.7,
                        color="none" if bound else FILL.get(name, OTHERS),
                        edgecolor=INK if bound else "none",
                        linestyle=":" if bound else "-",
                        xerr=[[value.median - value.low], [value.high - value.median]],
                        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
                    )
                    axes.annotate(
                        _short(value.median) + (" (not steady)" if _unsteady(run, case, name) else ""),
                        (value.high, place),
                        xytext=(4, 0),
                        textcoords="offset points",
                        va="center",
                        fontsize=8,
                    )
                axes.set_yticks(range(len(bars)), [run.labels[name] for name, _ in bars])
                axes.tick_params(axis="y", length=0)
                axes.invert_yaxis()
                axes.margins(x=0.14)
                axes.set_xlim(left=0)
                axes.locator_params(axis="x", nbins=5)
                axes.xaxis.set_major_formatter(lambda number, _: _short(number))
                unit = "kB per socket, less is better" if case.kind == "memory" else "requests/s"
                axes.set_title(f"{case.title} ({unit})", fontsize=9, loc="left")
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def _bars(run: Run, case: Case) -> list[tuple[str, Spread]]:
    """Bounds first, then the fastest."""
    scale = 0.001 if case.kind == "memory" else 1.0
    bars = []
    for name in case.contenders:
        value = run.value(case.name, name)
        if value is not None and name not in HIDDEN:
            bars.append((name, Spread(value.median * scale, value.low * scale, value.high * scale, value.rounds)))
    sign = 1 if case.less_is_better else -1
    return sorted(bars, key=lambda bar: (bar[0] not in BOUNDS, sign * bar[1].median))


def _unsteady(run: Run, case: Case, name: str) -> bool:
    return any(one.limited for one in run.of(case.name, name))


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.1f}"
