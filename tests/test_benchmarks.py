"""The benchmark's arithmetic and machinery; no test depends on how long anything takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import page, rounds, servers, tables
from benchmarks.__main__ import main
from benchmarks.cases import CASES, RATIOS, Ratio
from benchmarks.contenders import in_loops, in_threads
from benchmarks.measure import find
from benchmarks.results import Measurement, Run, Spread, spread

ROOT = Path(__file__).parent.parent


def a_run(*measurements: Measurement) -> Run:
    """A run with these results, and labels as they are."""
    contenders = [*in_loops.CONTENDERS, *in_threads.CONTENDERS]
    return Run(
        settings={"rounds": 3, "seconds": 0.5, "revision": "abc1234", "begun": "2026-01-02 03:04 UTC"},
        machine={
            "python": "CPython 3.11.7",
            "system": "Linux 6.1",
            "processor": "A processor",
            "processors": 2,
            "load_before": 0.5,
            "load_after": 1.5,
        },
        servers={"rate": "nginx/1.22.1"},
        packages={"httpx": "0.28.1", "aiohttp": "3.14"},
        labels={contender.name: contender.label for contender in contenders},
        measurements=list(measurements),
    )


def rates(case: str, contender: str, *values: float | None) -> list[Measurement]:
    """One measurement a round."""
    return [Measurement(case, contender, number, value) for number, value in enumerate(values)]


def test_the_median_and_the_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert spread([4.0, 1.0]) == Spread(2.5, 1.0, 4.0, 2)
    assert spread([]) is None


def test_a_ratio_is_that_of_each_round() -> None:
    """A slow round slows both sides: the ratio of medians would be 4, and that of each round is 2."""
    run = a_run(*rates("async-20", "aiohttp", 800, 400, 20), *rates("async-20", "httpx", 400, 100, 10))

    assert run.against("async-20", "aiohttp", "httpx") == Spread(2.0, 2.0, 4.0, 3)


def test_a_round_without_both_sides_has_no_ratio() -> None:
    run = a_run(*rates("async-20", "aiohttp", 800, None, 90), *rates("async-20", "httpx", None, 100, 10))

    assert run.against("async-20", "aiohttp", "httpx") == Spread(9.0, 9.0, 9.0, 1)
    assert run.against("async-20", "aiohttp", "niquests") is None


def test_a_ratio_to_several_is_to_the_best_of_the_round() -> None:
    """Also to one of another case; and where less is better, the best is the least."""
    against = (("sync-10MB-1", "httpx"), ("async-10MB-1", "aiohttp"))
    run = a_run(
        *rates("sync-10MB-1", "agent-h11", 60, 60),
        *rates("sync-10MB-1", "httpx", 30, 20),
        *rates("async-10MB-1", "aiohttp", 20, 40),
        *rates("memory", "agent-h11", 30_000),
        *rates("memory", "httpx", 40_000),
        *rates("memory", "aiohttp", 20_000),
    )

    assert run.ratio(Ratio("", "sync-10MB-1", "agent-h11", against)) == Spread(1.75, 1.5, 2.0, 2)
    assert run.ratio(Ratio("", "memory", "agent-h11", (("memory", "httpx"), ("memory", "aiohttp")))) == Spread(
        1.5, 1.5, 1.5, 1
    )


def test_the_ratios_that_are_printed() -> None:
    """In the order of `RATIOS`; those whose sides were not both measured are absent."""
    run = a_run(
        *rates("async-20", "agent-httptools", 4_000, 5_000, 6_000),
        *rates("async-20", "httpx", 1_000, 1_000, 1_000),
        *rates("async-20", "ceiling", 8_000, 8_000, 8_000),
        *rates("sync-10MB-1", "agent-httptools", 60),
        *rates("async-10MB-1", "aiohttp", 40),
    )

    assert tables.ratio_rows(run) == [
        (
            "Async, against httpx's default transport",
            "async, 20 tasks",
            "AgentTransport, httptools",
            "httpx, default transport",
            "5.00",
            "4.00 – 6.00",
            "3",
        ),
        (
            "Of what is possible under an httpx client",
            "async, 20 tasks",
            "AgentTransport, httptools",
            "ceiling: httpx over nothing",
            "62 %",
            "50 % – 75 %",
            "3",
        ),
        (
            "Bodies of 10 MB, against the faster of httpx and aiohttp",
            "sync, 10 MB, 1 thread",
            "AgentTransport, httptools",
            "aiohttp (async)",
            "1.50",
            "1.50 – 1.50",
            "1",
        ),
    ]


def test_the_table_of_a_case() -> None:
    run = a_run(
        Measurement(
            "async-1",
            "httpx",
            0,
            1_234.5,
            requests=617,
            errors={"ReadError: x": 2},
            client_cpu=0.9,
            server_cpu=0.25,
            cpu_per_request=0.000_72,
            peak_memory=44_000_000,
        ),
        Measurement("async-1", "aiohttp", 0, None, errors={"no result within 181 s": 1}),
    )
    run.settings["rounds"] = 1
    run.left_out["async/niquests"] = "ModuleNotFoundError: No module named 'niquests'"

    case = CASES["async-1"]
    assert tables.text(tables.case_head(case)[:3], [row[:3] for row in tables.case_rows(run, case)]) == (
        "contender                 requests/s  lowest – highest\n"
        "httpx, default transport       1,234     1,234 – 1,234\n"
        "aiohttp                            –                 –"
    )
    assert [row[3:] for row in tables.case_rows(run, case)] == [
        ("1.00", "1.00 – 1.00", "44 MB", "720 µs", "25 %", "2"),
        ("–", "–", "–", "–", "–", "1"),
    ]
    assert tables.remarks(run) == [
        "async/niquests: left out: ModuleNotFoundError: No module named 'niquests'",
        "async, 1 task: httpx, default transport: 2 × ReadError: x",
        "async, 1 task: aiohttp: 1 × no result within 181 s",
    ]


def test_what_was_measured_in_fewer_rounds_or_not_at_steady_work_is_said() -> None:
    run = a_run(
        Measurement("origins", "httpx", 0, 2.5, limited=True),
        *rates("origins", "aiohttp", 1.0, 2.0, 3.0),
    )

    assert tables.remarks(run) == [
        "1,000 origins, 100 tasks: httpx, default transport: measured in 1 of the rounds",
        (
            "1,000 origins, 100 tasks: httpx, default transport: no steady work within the time limit in 1 of the "
            "rounds; its figure is an average from the start"
        ),
    ]


def test_a_ratio_of_which_one_side_was_not_steady_is_marked() -> None:
    run = a_run(*rates("async-1000", "agent-h11", 100.0), Measurement("async-1000", "httpx", 0, 10.0, limited=True))

    assert [row[4] for row in tables.ratio_rows(run)] == ["10.00, not alike"]


def test_memory_is_shown_in_kilobytes() -> None:
    run = a_run(*rates("memory", "httpx", 30_000, 40_000, 31_000))

    (row,) = tables.case_rows(run, CASES["memory"])
    assert row[:3] == ("httpx, default transport", "31.0", "30.0 – 40.0")
    assert tables.case_head(CASES["memory"])[1] == "kB per socket"


def costs(case: str, contender: str, *measured: tuple[float, int]) -> list[Measurement]:
    """One measurement a round: microseconds, and how many requests there were."""
    return [Measurement(case, contender, number, value, count) for number, (value, count) in enumerate(measured)]


def test_the_pools_own_cost_is_compared_with_that_of_the_smallest_number() -> None:
    """By round, in processor time and by the clock; it is in no other table."""
    run = a_run(
        *costs("cost-sync-waiting-10", "agent-h11", (100.0, 900), (120.0, 600), (110.0, 800)),
        *costs("cost-sync-waiting-10000", "agent-h11", (110.0, 600), (120.0, 600), (121.0, 400)),
    )

    assert tables.cost_rows(run) == [
        ("sync, waiting requests", "AgentTransport, h11", "10", "110", "100 – 120", "1.00", "1.00 – 1.00", "1.00", "0"),
        (
            *("sync, waiting requests", "AgentTransport, h11", "10,000"),
            *("120", "110 – 121", "1.10", "1.00 – 1.10", "1.50", "0"),
        ),
    ]
    assert run.compared() == []
    assert "The pool's own cost\ncase " in tables.report(run)


def test_a_cost_of_which_one_side_is_missing_has_no_ratio() -> None:
    run = a_run(*rates("cost-async-free-10", "agent-h11", None), *costs("cost-async-free-1000", "agent-h11", (9.0, 0)))

    assert [row[2:8] for row in tables.cost_rows(run)] == [
        ("10", "–", "–", "–", "–", "–"),
        ("1,000", "9", "9 – 9", "–", "–", "–"),
    ]


def test_the_pools_own_cost_is_measured_on_both_engines(tmp_path: Path) -> None:
    """In both worlds, with all sockets open, and as many requests waiting as there ought to be."""
    names = ["cost-async-free-10", "cost-sync-waiting-10"]
    run = rounds.run([CASES[name] for name in names], rounds=1, seconds=0.05, say=lambda line: None)

    page.write_cost(run, tmp_path)

    assert run.left_out == {}
    assert [(one.case, one.contender, one.errors) for one in run.measurements] == [
        (name, contender, {}) for name in names for contender in CASES[name].contenders
    ]
    assert all(one.requests and one.value for one in run.measurements)
    assert Run.read(tmp_path / "cost.json").measurements[0].case == "cost-async-free-10"
    assert "| async, free sockets | AgentTransport, httptools | 10 |" in (tmp_path / "cost.md").read_text()
    assert '--8<-- "docs/assets/benchmarks/cost.md"' in (ROOT / "docs" / "performance.md").read_text()


def test_a_table_for_the_documentation() -> None:
    assert tables.markdown(("case", "ratio"), [("a", "1.00")]) == "| case | ratio |\n| --- | ---: |\n| a | 1.00 |"


def test_results_can_be_written_and_read(tmp_path: Path) -> None:
    run = a_run(*rates("async-1", "httpx", 1.0, None), Measurement("async-1", "aiohttp", 0, 2.0, errors={"E": 1}))
    file = tmp_path / "new" / "run.json"

    run.write(file)

    assert Run.read(file) == run
    file.write_text('{"format": 0}')
    with pytest.raises(ValueError, match=r"run\.json is not a result of this version"):
        Run.read(file)


def test_contenders_come_in_turn_and_the_order_rotates() -> None:
    cases = [CASES["async-1"], CASES["sync-1"]]
    names = [
        (number, case.name, name) for number, case, name in rounds.plan(cases, 2, ["httpx", "urllib3", "niquests"])
    ]

    assert names == [
        (0, "async-1", "httpx"),
        (0, "async-1", "niquests"),
        (0, "sync-1", "httpx"),
        (0, "sync-1", "urllib3"),
        (0, "sync-1", "niquests"),
        (1, "async-1", "niquests"),
        (1, "async-1", "httpx"),
        (1, "sync-1", "urllib3"),
        (1, "sync-1", "niquests"),
        (1, "sync-1", "httpx"),
    ]
    assert list(rounds.plan(cases, 1, ["ceiling of glass"])) == []


def test_every_name_in_the_cases_is_a_contender() -> None:
    for case in CASES.values():
        for name in case.contenders:
            assert find(case, name).name == name
    for ratio in RATIOS:
        for side, name in ((ratio.case, ratio.contender), *ratio.against):
            assert name in CASES[side].contenders


def test_the_page_is_written_from_results(tmp_path: Path) -> None:
    """All that `docs/performance.md` includes, apart from the plots."""
    run = a_run(*rates("async-20", "agent-httptools", 4_000), *rates("async-20", "httpx", 1_000))

    page.write_tables(run, tmp_path)

    included = ("conditions.md", "ratios.md", "remarks.md", "tables.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == [*included[:3], "run.json", included[3]]
    assert "| Async, against httpx's default transport | async, 20 tasks |" in (tmp_path / "ratios.md").read_text()
    text = (ROOT / "docs" / "performance.md").read_text()
    assert all(f'--8<-- "docs/assets/benchmarks/{name}"' in text for name in included)


def test_a_run_measures_whom_it_can_and_says_why_not_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the server that the benchmark brings; each measurement in a process of its own."""
    monkeypatch.setattr(servers, "nginx", lambda: None)
    said: list[str] = []
    cases = [CASES["async-1"], CASES["sync-1"]]

    run = rounds.run(cases, rounds=1, seconds=0.01, only=["floor", "agent-h11"], say=said.append)

    assert run.servers == {"rate": "the benchmark's own server"}
    assert run.left_out == {}
    assert [(one.case, one.contender) for one in run.measurements] == [
        (case, name) for case in ("async-1", "sync-1") for name in ("floor", "agent-h11")
    ]
    for measurement in run.measurements:
        assert measurement.errors == {}
        assert measurement.requests > 0
    assert len(said) == 4


def test_a_run_that_is_broken_off_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "nginx", lambda: None)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            raise KeyboardInterrupt

    run = rounds.run([CASES["sync-1"]], rounds=2, seconds=0.01, only=["floor"], say=say)

    assert [one.round for one in run.measurements] == [0]
    assert said[1:] == ["broken off; what was measured until now is kept"]


def test_a_client_that_cannot_be_imported_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "nginx", lambda: None)
    (tmp_path / "urllib3.py").write_text("raise ImportError('not today')")

    run = rounds.run(
        [CASES["sync-1"]],
        rounds=2,
        seconds=0.01,
        only=["urllib3"],
        paths={"urllib3": str(tmp_path)},
        say=lambda line: None,
    )

    assert run.measurements == []
    assert run.left_out == {"sync/urllib3": "ImportError: not today"}


def test_the_command_explains_itself() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)

    assert "usage: python -m benchmarks" in finished.stdout
    assert "Suites: async, sync, bodies, tls, connections, burst, origins, memory, cost." in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["asink"], "no such suite: asink; there are async, sync"),
        (["--path", "niquests"], "--path takes NAME=DIRECTORY, not niquests"),
        (["--rounds", "0"], "--rounds is at least 1, and --seconds above 0"),
    ],
)
def test_a_wrong_command_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)

    assert message in capsys.readouterr().err
