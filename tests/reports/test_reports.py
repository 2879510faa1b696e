"""The metrics file over kills and resumes, the rates, the lines for the reader."""

import json

import pytest

from jaxprompt.reports import records
from jaxprompt.reports.records import Meter, MetricsFile
from jaxprompt.reports.terminal import Reporter, figures


def write(path, records, resume_step=0, judged=-1):
    file = MetricsFile(path, resume_step, judged)
    for record in records:
        file.write(record)


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_resumed_run_takes_off_what_came_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [{"step": 2}, {"step": 4}, {"step": 4, "validation": {"loss": 1.0}}, {"step": 6}])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    write(path, [{"step": 6, "again": True}], resume_step=4, judged=4)
    assert steps(path) == [2, 4, 4, 6]
    assert json.loads(path.read_text().splitlines()[-1]) == {"step": 6, "again": True}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_an_evaluation_that_the_checkpoint_does_not_count_is_taken_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [{"step": 2, "validation": {}}, {"step": 4}, {"step": 4, "validation": {"loss": 1.0}}])
    write(path, [{"step": 4, "validation": {"loss": 1.0}}], resume_step=4, judged=2)
    assert steps(path) == [2, 4, 4]


def test_a_run_that_starts_over_starts_an_empty_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [{"step": 1}, {"step": 2}])
    write(path, [{"step": 1}])
    assert steps(path) == [1]


def test_records_are_on_disk_before_the_file_is_closed(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write({"step": 1})
    assert steps(tmp_path / "metrics.jsonl") == [1]


@pytest.fixture
def clock(monkeypatch):
    """A clock to set: `clock.now`."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(records.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_rates_leave_the_evaluation_out(clock):
    meter = Meter()
    for _ in range(4):
        clock.now += 0.5
        meter.add(8)
    clock.now += 1.0  # the devices are still at work on those steps
    meter.pause()
    clock.now += 50.0  # the evaluation
    meter.restart()
    clock.now += 1.0
    assert meter.seconds() == 3.0
    meter.scored([10, 10])
    meter.scored([10, 10])
    rates = meter.read()
    assert rates == {"examples_per_second": 8.0, "target_tokens_per_second": 10.0, "step_seconds": 1.0}
    clock.now += 2.0
    meter.add(8)
    meter.scored([6])
    assert meter.read()["target_tokens_per_second"] == 3.0


def test_targets_of_a_step_before_the_meter_are_not_counted(clock):
    meter = Meter()  # begun after the first step, whose targets are logged with the second's
    clock.now += 2.0
    meter.add(4)
    meter.scored([1000, 8])
    assert meter.read()["target_tokens_per_second"] == 4.0


def test_without_a_step_the_rates_are_0(clock):
    meter = Meter()
    meter.scored([1000])
    assert set(meter.read().values()) == {0.0}


def test_off_a_terminal_each_record_is_a_line_on_standard_error(capsys):
    reporter = Reporter()
    rates = {"examples_per_second": 12.0, "target_tokens_per_second": 30.0, "step_seconds": 0.5}
    reporter.start(10, 0)
    reporter.log({"step": 4, "loss": 1.25, **rates}, 10)
    reporter.log({"step": 4, "validation": {"accuracy": 0.75, "examples": 8}}, 10)
    reporter.say("[bold] stays as it is " + "x" * 200)
    reporter.stop()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "step 4/10  loss 1.2500  12.0 examples/s  30.0 targets/s  3 s left",
        "step 4: validation accuracy 0.7500  examples 8",
        "[bold] stays as it is " + "x" * 200,
    ]


def test_a_quiet_reporter_says_nothing(capsys):
    reporter = Reporter(quiet=True)
    reporter.say("hello")
    reporter.log({"step": 1, "validation": {"loss": 1.0}}, 2)
    assert capsys.readouterr() == ("", "")


def test_figures():
    assert figures({"accuracy": 0.5, "examples": 12}) == "accuracy 0.5000  examples 12"
