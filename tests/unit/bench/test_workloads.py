"""The workload table's own parts: rows, medians, the chart."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench import chart, data, workloads
from bench.rows import ROWS, Row


def test_rows_have_names_of_their_own_and_known_data() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert set(row.data) <= data.MAKERS.keys()
        assert "#seconds" in row.script
        re.compile(row.expect)


def test_medians_and_ratios() -> None:
    table = workloads.medians({"a": {"native": [3.0, 1.0, 2.0], "cloche": [4.0]}, "b": {"native": [1.0]}})
    assert table == {"native": {"a": 2.0, "b": 1.0}, "cloche": {"a": 4.0}}
    assert chart.ratios(table) == {"cloche": {"a": 2.0}}
    assert chart.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_chart_is_xml_with_a_bar_for_each_ratio() -> None:
    table = {"native": {"a & b": 1.0, "c": 2.0}, "cloche": {"a & b": 0.5, "c": 3.0}, "runsc": {"c": 20.0}}
    root = ElementTree.fromstring(chart.draw("title <1>", table))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "title <1>" in texts and "a & b" in texts
    assert [text for text in texts if text in ("0.50", "1.50", "10.00")] == ["0.50", "1.50", "10.00"]


class Fake(workloads.Runner):
    """A runner whose runs take what they are told."""

    def __init__(self, seconds: dict[str, list[float]]) -> None:
        self.systems = {name: [] for name in seconds}
        self.seconds = seconds

    def once(self, row: Row, system: str) -> float:
        if not self.seconds[system]:
            raise workloads.Failed("no more")
        return self.seconds[system].pop(0)


def test_systems_take_turns_and_a_failure_ends_its_own_only(capsys: pytest.CaptureFixture[str]) -> None:
    runner = Fake({"native": [1.0, 2.0, 3.0], "cloche": [5.0]})
    samples, failures = workloads.measure(runner, ROWS[0], rounds=3, budget_s=100)
    assert samples == {"native": [1.0, 2.0, 3.0], "cloche": [5.0]}
    assert failures == {"cloche": "no more"}
    assert "in cloche: no more" in capsys.readouterr().err


@pytest.mark.parametrize(("script", "problem"), [
    ("begin; end; echo fine", ""),
    ("begin; end; echo wrong", "'wrong\\n'"),
    ("echo fine", "exit status 0"),
    ("begin; end; echo fine; exit 3", "exit status 3"),
])  # fmt: skip
def test_a_result_is_checked(tmp_path: Path, script: str, problem: str) -> None:
    work = tmp_path
    runner = workloads.Runner(work, 20, [], "")
    row = Row("x", script, r"fine\n")
    runner.prepare(row)
    if not problem:
        assert runner.once(row, "native") < 5
        return
    with pytest.raises(workloads.Failed, match=re.escape(problem)):
        runner.once(row, "native")


def test_missing_programs_are_named(tmp_path: Path) -> None:
    runner = workloads.Runner(tmp_path, 20, [], "")
    with pytest.raises(workloads.Failed, match="no such-program"):
        runner.prepare(Row("x", "", "", "bash such-program"))
