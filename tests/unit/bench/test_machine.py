"""The description of the machine in the tables."""

import json
import os
from pathlib import Path

import pytest
from bench import machine, machines, run


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


def test_machines_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = {"native": [2e3, 1e3, 3e3], "cloche": [4e3, 1e3, 6e3], "runsc": [3e3, 3e3, 3e3]}
    shapes: list[tuple[str, object]] = [
        ("1-one", {name: {"stat": taken} for name, taken in rounds.items()}),
        ("2-other", {"stat": rounds, "more": {"native": [1e3], "cloche": [5e2]}}),
    ]
    for name, samples in shapes:
        about = {"cpu": name, "kernel": "6.1", "python": "3.11", "date": "2026-01-01"}
        text = json.dumps({"machine": about, "samples": samples, "raw_ns": {"line 0-1": 100.4}})
        (tmp_path / f"calls-{name}.json").write_text(text)
    monkeypatch.setattr("sys.argv", ["machines", str(tmp_path)])
    assert machines.main() == 0
    page = (tmp_path / "README.md").read_text()
    assert "- 1-one: Linux 6.1, Python 3.11, 2026-01-01. Raw figures in ns: line 0-1 100." in page
    assert "| row | 1-one, µs | cloche | runsc | 2-other, µs | cloche | runsc |" in page
    assert "| stat | 2 | **2.00 (1.00)** | 1.50 (3.00) | 2 | **2.00 (1.00)** | 1.50 (3.00) |" in page
    assert "| more |  |  |  | 1 | 0.50 (0.50) |  |" in page
    assert "| geometric mean |  | 2.00 (1.00) | 1.50 (3.00) |  | 1.00 (0.71) | 1.50 (3.00) |" in page


def test_processors_of_one_name_are_told_apart() -> None:
    text = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel\t\t: 9\n"
    assert machine.processor(text) == "AMD EPYC (family 26, model 2)"
    assert machine.processor("model name\t: Other\n") == "Other"
