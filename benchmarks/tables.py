"""Tables of results: as text for a terminal, in Markdown for the documentation."""

from __future__ import annotations

from itertools import groupby

from .cases import CASES, GROWTHS, RATIOS, Case, Ratio
from .results import Measurement, Run, spread

REFERENCE = "httpx"
"""The contender to which all others of a case are compared."""

UNSTEADY = ", not alike"
"""Stands beside a ratio of which one side is an average from the start, and not of steady work: see the remarks."""

Row = tuple[str, ...]


def ratio_rows(run: Run) -> list[Row]:
    """The ratios of `cases.RATIOS` that the run can tell, under their groups."""
    rows: list[Row] = []
    cases = {case.name: case for case in run.cases()}
    for group, ratios in groupby(RATIOS, key=lambda ratio: ratio.group):
        for ratio in ratios:
            value = run.ratio(ratio)
            if value is None:
                continue
            others = [
                run.labels[name] + ("" if cases[case].world == cases[ratio.case].world else f" ({cases[case].world})")
                for case, name in ratio.against
                if run.values(case, name)
            ]
            middle, lowest, highest = (
                f"{100 * number:.0f} %" if ratio.per_cent else f"{number:.2f}"
                for number in (value.median, value.low, value.high)
            )
            sides = ((ratio.case, ratio.contender), *ratio.against)
            if any(one.limited for side in sides for one in run.of(*side)):
                middle += UNSTEADY
            rows.append(
                (
                    group,
                    cases[ratio.case].title,
                    run.labels[ratio.contender],
                    " or ".join(others),
                    middle,
                    f"{lowest} – {highest}",
                    str(value.rounds),
                )
            )
    return rows


RATIO_HEAD: Row = ("", "case", "contender", "against", "ratio", "lowest – highest", "rounds")


def case_rows(run: Run, case: Case) -> list[Row]:
    """The contenders of a case, in their order, with all that was measured."""
    rows: list[Row] = []
    for name in case.contenders:
        measured = run.of(case.name, name)
        if not measured:
            continue
        value, ratio = run.value(case.name, name), run.against(case.name, name, REFERENCE)
        rows.append(
            (
                run.labels[name],
                _number(case, value.median) if value else "–",
                f"{_number(case, value.low)} – {_number(case, value.high)}" if value else "–",
                f"{ratio.median:.2f}" if ratio else "–",
                f"{ratio.low:.2f} – {ratio.high:.2f}" if ratio else "–",
                _most([one.peak_memory for one in measured], scale=1e-6, form="{:.0f} MB"),
                _cpu(measured),
                _most([one.server_cpu for one in measured], scale=100, form="{:.0f} %"),
                f"{sum(run.errors(case.name, name).values()):,}",
            )
        )
    return rows


def case_head(case: Case) -> Row:
    """The head over `case_rows`."""
    unit = "kB per socket" if case.kind == "memory" else "requests/s"
    return (
        "contender",
        unit,
        "lowest – highest",
        "× httpx",
        "lowest – highest",
        "peak memory",
        "CPU per request",
        "server CPU",
        "errors",
    )


COST_HEAD: Row = (
    "case",
    "contender",
    "number",
    "µs per request",
    "lowest – highest",
    "ratio",
    "lowest – highest",
    "by the clock",
    "errors",
)


def cost_rows(run: Run) -> list[Row]:
    """The pool's own cost, and its ratio to that with the smallest number."""
    rows: list[Row] = []
    for growth in GROWTHS:
        smallest = growth.cases[0]
        for name in CASES[smallest].contenders:
            for count, case in zip(growth.counts, growth.cases, strict=True):
                if not run.of(case, name):
                    continue
                value = run.value(case, name)
                ratio = run.ratio(Ratio("", case, name, ((smallest, name),)))
                clock = spread(_clock_ratios(run, smallest, case, name))
                rows.append(
                    (
                        growth.title,
                        run.labels[name],
                        f"{count:,}",
                        f"{value.median:,.0f}" if value else "–",
                        f"{value.low:,.0f} – {value.high:,.0f}" if value else "–",
                        f"{ratio.median:.2f}" if ratio else "–",
                        f"{ratio.low:.2f} – {ratio.high:.2f}" if ratio else "–",
                        f"{clock.median:.2f}" if clock else "–",
                        f"{sum(run.errors(case, name).values()):,}",
                    )
                )
    return rows


def _clock_ratios(run: Run, smallest: str, case: str, name: str) -> list[float]:
    """All measurements last equally long, so that times are to each other as numbers of requests are the other way."""
    below = {one.round: one.requests for one in run.of(smallest, name)}
    return [below[one.round] / one.requests for one in run.of(case, name) if one.requests and below.get(one.round)]


def _number(case: Case, value: float) -> str:
    if case.kind == "memory":
        return f"{value / 1000:,.1f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _cpu(measured: list[Measurement]) -> str:
    times = spread(one.cpu_per_request for one in measured if one.cpu_per_request is not None)
    return f"{times.median * 1e6:,.0f} µs" if times else "–"


def _most(values: list[int | None] | list[float | None], *, scale: float, form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(max(known) * scale) if known else "–"


def remarks(run: Run) -> list[str]:
    """What a reader must know beside the figures: who was left out and why, and what went wrong."""
    lines = [f"{name}: left out: {reason}" for name, reason in run.left_out.items()]
    for case in run.cases():
        for name in case.contenders:
            for error, count in run.errors(case.name, name).items():
                lines.append(f"{case.title}: {run.labels[name]}: {count:,} × {error}")
            measured = run.of(case.name, name)
            if 0 < len(measured) < run.settings["rounds"]:
                lines.append(f"{case.title}: {run.labels[name]}: measured in {len(measured)} of the rounds")
            if limited := sum(one.limited for one in measured):
                lines.append(
                    f"{case.title}: {run.labels[name]}: no steady work within the time limit in {limited} of the "
                    "rounds; its figure is an average from the start"
                )
    return lines


def conditions(run: Run) -> list[str]:
    """On what, when, and with which versions the run was made."""
    machine, settings = run.machine, run.settings
    versions = ", ".join(sorted({f"{name} {version}" for name, version in run.packages.items()}))
    used = " and ".join(
        f"{name} (memory)" if use == "memory" and len(run.servers) > 1 else name for use, name in run.servers.items()
    )
    return [
        f"{settings['begun']}, commit {settings['revision']}: {settings['rounds']} rounds of {settings['seconds']:g} s",
        f"{machine['python']}, {machine['system']}, {machine['processors']} × {machine['processor']}",
        f"processes that wanted to run, on average: {machine['load_before']} before, {machine['load_after']} after",
        f"server: {used}",
        versions,
    ]


def text(head: Row, rows: list[Row]) -> str:
    """A table for a terminal; numbers stand to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index in _words(head) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join(lines)


def markdown(head: Row, rows: list[Row]) -> str:
    """The same table for the documentation."""
    ruler = ["---" if index in _words(head) else "---:" for index in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, tuple(ruler), *rows))


def _words(head: Row) -> set[int]:
    return {index for index, name in enumerate(head) if name in ("", "case", "contender", "against")}


def report(run: Run) -> str:
    """Everything, for a terminal."""
    parts = ["\n".join(conditions(run))]
    for case in run.compared():
        parts.append(f"{case.title}\n{text(case_head(case), case_rows(run, case))}")
    ratios = ratio_rows(run)
    for group, rows in groupby(ratios, key=lambda row: row[0]):
        parts.append(f"{group}\n{text(RATIO_HEAD[1:], [row[1:] for row in rows])}")
    if costs := cost_rows(run):
        parts.append(f"The pool's own cost\n{text(COST_HEAD, costs)}")
    parts.append("\n".join(remarks(run)))
    return "\n\n".join(filter(None, parts))
