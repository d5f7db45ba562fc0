"""What is shown of a sweep's trials: states as their leases tell them, steps, labels; the live view."""

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launch import slurm
from launch.sweep import plan, pool
from launch.sweep.progress import Progress, Row
from launch.sweep.queue import Queue
from research.common import lease as leases
from research.common.folder import write_json

HERE = leases._identity("train")
AWAY = HERE | {"host": "node7", "boot": "b", "slurm_job": "301", "slurm_restarts": 2}


def made(folder: Path, lease: dict[str, Any] | None = None, **status: Any) -> Queue:
    """A sweep of one trial, `key`, with this lease and this status."""
    queue = Queue(folder)
    queue.add({"beta": 4.0, "steps": 100}, "key")
    (folder / "key").mkdir()
    if status:
        write_json(folder / "key/status.json", {"step": 10, "steps": 100, "headline": None} | status)
    if lease:
        write_json(folder / "key/lease.1", lease)
    return queue


def only_row(queue: Queue, running: tuple[str, ...] = ()) -> Row:
    (row,) = Progress(queue, {}).rows(running)
    return row


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no squeue that could be asked about a job


@pytest.mark.parametrize(
    ("status", "lease", "state", "in_queue"),
    [
        ({}, None, "open", "pending"),
        ({}, HERE, "open", "running"),  # its training process has not come so far
        ({}, HERE | {"pid_start": "gone"}, "open", "pending"),
        ({"status": "running"}, HERE, "running", "running"),
        ({"status": "running"}, AWAY, "running", "running"),
        ({"status": "running"}, HERE | {"pid_start": "gone"}, "interrupted", "interrupted"),
        ({"status": "running"}, HERE | {"released": "died"}, "interrupted", "interrupted"),
        ({"status": "preempted"}, HERE | {"released": "preempted"}, "preempted", "preempted"),
        ({"status": "preempted"}, HERE, "preempted", "running"),  # it is about to go on
        ({"status": "finished"}, HERE, "finished", "finished"),
        ({"status": "failed"}, HERE | {"released": "failed"}, "failed", "failed"),
    ],
)
def test_states(tmp_path, status, lease, state, in_queue):
    row = only_row(made(tmp_path, lease, **status))
    assert (row.state, slurm.state_of(row)) == (state, in_queue)


def test_a_lease_of_another_machine_that_beats_no_more(tmp_path):
    """SLURM may still report its job as running although the node is lost."""
    queue = made(tmp_path, AWAY, status="running")
    old = time.time() - 1000
    os.utime(tmp_path / "key/lease.1", (old, old))
    assert [only_row(queue, running).state for running in ((), ("301",))] == ["interrupted"] * 2


def test_a_lease_that_is_being_written_counts_as_held(tmp_path):
    queue = made(tmp_path, status="running")
    (tmp_path / "key/lease.1").write_text("{")
    assert only_row(queue).state == "running"


def test_where_a_trial_runs(tmp_path):
    assert only_row(made(tmp_path / "a", AWAY, status="running")).where == "node7 job 301 start 2"
    away = AWAY | {"slurm_restarts": 0}
    assert only_row(made(tmp_path / "b", away, status="running")).where == "node7 job 301"
    assert only_row(made(tmp_path / "c", AWAY | {"slurm_job": None}, status="running")).where == "node7"
    assert only_row(made(tmp_path / "d")).where == ""


def test_step_and_speed(tmp_path):
    """The log is ahead of the status; a last row that a kill has torn does not count."""
    queue = made(tmp_path, HERE, status="running", headline=0.25)
    (tmp_path / "key/metrics.jsonl").write_text('{"step": 30}\n{"step": 40}\n{"step": 5')
    (tmp_path / "key/time.jsonl").write_text(
        '{"step": 40, "time/step_ms": 600, "time/examples_per_s": 80.4}\n'
    )
    row = only_row(queue)
    assert (row.step, row.steps, row.headline) == (40, 100, 0.25)
    assert (row.examples_per_s, row.minutes_left) == (80.4, pytest.approx(0.6))
    write_json(tmp_path / "key/status.json", {"status": "preempted", "step": 45, "steps": 100})
    row = only_row(queue)
    assert (row.step, row.examples_per_s, row.minutes_left) == (45, None, None)


def test_labels(tmp_path):
    queue = made(tmp_path)
    parameters = {"beta": {"min": 0.0, "max": 9.0}, "steps": {"value": 100}}
    assert Progress(queue, {}).rows()[0].label == "key"
    assert Progress(queue, parameters).rows()[0].label == "beta=4"  # what a search varies, before it has
    queue.add({"beta": 4.0, "steps": 200}, "other")
    assert [row.label for row in Progress(queue, parameters).rows()] == [
        "beta=4 steps=100",
        "beta=4 steps=200",
    ]
    assert Progress(queue, {}).rows()[0].varied == {"steps": "100"}


def test_last_lines(tmp_path):
    row = only_row(made(tmp_path, status="failed"))
    assert row.last_lines() == []
    (tmp_path / "key/output.log").write_text("".join(f"line {i}\n" for i in range(20)))
    assert row.last_lines(2) == ["line 18", "line 19"] and len(row.last_lines()) == 8


@pytest.fixture
def watched(tmp_path: Path) -> pool.Local:
    """A sweep of four trials: one runs, one was stopped early, one has failed, one is open."""
    queue = made(tmp_path, HERE, status="running", headline=1 / 3)
    (tmp_path / "key/time.jsonl").write_text('{"time/step_ms": 600, "time/examples_per_s": 80.4}\n')
    for i, (status, reason) in enumerate(
        [
            ("stopped", "hyperband: val/mse 4 at evaluation 2, threshold 3"),
            ("failed", "out of [memory]"),
            ("", ""),
        ]
    ):
        queue.add({"beta": 5.0 + i, "steps": 100}, f"key{i}")
        if status:
            (tmp_path / f"key{i}").mkdir()
            known = {"status": status, "reason": reason, "step": 20, "steps": 100, "headline": None}
            write_json(tmp_path / f"key{i}/status.json", known)
    (tmp_path / "key1/output.log").write_text("line 1\nCUDA out of memory\n")
    parameters = {"beta": {"values": [4.0, 5.0, 6.0, 7.0]}, "steps": {"value": 100}}
    content = {"program": "research/none.py", "method": "grid", "parameters": parameters}
    sweep = plan.Sweep(Path("x.yaml"), "", content, pytest)  # the script plays no part
    return pool.Local(pool.LocalFlags(sweep="x.yaml", workers=1), sweep, queue, 4)


def test_the_live_view(watched):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(watched.view(watched.progress.rows(), 120))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[0] == ["trial", "beta", "status", "step", "headline", "examples/s", "left"]
    assert lines[1:4] == [
        ["0000", "4", "running", "10/100", "0.33333", "80", "0.9", "min"],
        ["0001", "5", "stopped", "(hyperband)", "20/100"],
        ["0002", "6", "failed", "20/100"],
    ]
    assert " ".join(lines[4]) == "1 of 4 done, 1 failed, 0.0 min"


def test_a_line_for_each_change(watched, capfd):
    def said() -> list[str]:
        watched.print_changes(watched.progress.rows())
        return capfd.readouterr().err.splitlines()

    assert said() == ["0000  beta=4  running, 0.33333"]  # what ended before is not news
    assert said() == []
    (watched.queue.folder / "key2").mkdir()
    for i, changes in enumerate([{"status": "finished"}, None, {"status": "running"}, {"status": "failed"}]):
        path = watched.queue.folder / ("key" if i == 0 else f"key{i - 1}") / "status.json"
        if changes:
            before = json.loads(path.read_text()) if path.exists() else {}
            write_json(path, before | changes)
    assert said() == [
        "0000  beta=4  finished, 0.33333",
        "0002  beta=6  running: out of [memory]",
        "0003  beta=7  failed",
    ]
    (watched.queue.folder / "key2/output.log").write_text("line 1\nno [data]\n")
    watched.shown["key2"] = "running"
    assert said() == ["0003  beta=7  failed", "      line 1", "      no [data]"]
