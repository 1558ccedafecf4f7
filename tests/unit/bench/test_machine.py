"""The description of the machine in the tables."""

import os
from pathlib import Path

import pytest
from bench import machine, run


def test_each_machine_has_a_file_of_its_own(tmp_path: Path) -> None:
    about = {"cpu": "2 × AMD EPYC", "kernel": "6.1", "python": "3.11", "date": "2026-01-01"}
    assert machine.place(tmp_path, "calls", about) == tmp_path / "calls-2-amd-epyc.json"
    assert machine.place(tmp_path / "mine.json", "calls", about) == tmp_path / "mine.json"
    assert machine.file_name({"cpu": "8 × Intel(R) Xeon(R) CPU @ 2.00GHz"}) == "8-intel-r-xeon-r-cpu-2-00ghz"


def test_raw_figures_are_those_of_a_processor() -> None:
    figures = machine.raw_figures()
    if not figures:
        pytest.skip("no compiler")
    pairs = len(os.sched_getaffinity(0))
    assert (
        len([name for name in figures if name.startswith("line ")])
        == min(pairs, 16) * (min(pairs, 16) - 1) // 2
    )
    assert {"pause", "syscall"} <= figures.keys()
    assert all(0 < value < 1e9 for name, value in figures.items() if name != "pause")
    assert (machine.line_ns(figures) > 0) == (pairs > 1)


def test_the_table_has_multiples_of_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    medians = {"native": {"stat": 500.0, "x": 1.0}, "cloche": {"stat": 1000.0}}
    run.report(medians, {}, {}, 100.0)
    rows = capsys.readouterr().out.splitlines()
    assert "cloche × line" in rows[0] and rows[1].split()[-1] == "10.0" and rows[2].split()[-1] == "—"
    run.report(medians, {}, {}, 0.0)
    assert "line" not in capsys.readouterr().out
