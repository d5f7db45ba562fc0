"""Hyperband without a controller: its decisions are W&B's, whatever was killed in between."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.sweep import early_stop, sweep_file
from launch.sweep.history import Histories
from launch.sweep.queue import Queue
from research.common import lease as leases
from research.common.folder import HYPERBAND, append_row, write_bytes, write_json

pytestmark = pytest.mark.filterwarnings("ignore")  # the engine is written for an older pydantic, and says so
SPEC = {
    "metric": {"name": "val/mse_best", "goal": "minimize"},
    "early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2},
}
RULES = [
    {"type": "hyperband", "min_iter": 1},
    {"type": "hyperband", "min_iter": 2, "eta": 2, "strict": False},
    {"type": "hyperband", "max_iter": 9, "s": 2, "eta": 2},
    {"type": "hyperband", "max_iter": 27, "s": 3, "eta": 3.0, "strict": True},
]
numbers = st.floats(-5, 5).map(lambda value: round(value, 1))  # coarse: equal values are to occur


def engine_says(spec: dict, histories: list[list]) -> dict[int, bool]:
    """Which runs W&B's engine stops if it is asked about all of them at once, while all are running."""
    from sweeps.hyperband_stopping import hyperband_stop_runs

    from sweeps import RunState, SweepRun

    name = spec["metric"]["name"]
    runs = [
        SweepRun(name=str(i), state=RunState.running, history=[{name: v} for v in values])
        for i, values in enumerate(histories)
    ]
    stopped = {run.name for run in hyperband_stop_runs(runs, spec)}
    return {i: str(i) in stopped for i in range(len(runs))}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(numbers, max_size=12), min_size=1, max_size=7),
    st.sampled_from(RULES),
    st.sampled_from(["minimize", "maximize"]),
)
def test_each_runs_decision_is_that_of_the_engine_on_all_runs(histories, rule, goal):
    spec = {"metric": {"name": "val/mig", "goal": goal}, "early_terminate": rule}
    stopped = engine_says(spec, histories)
    for i, own in enumerate(histories):
        others = {k: history for k, history in enumerate(histories) if k != i}
        found = early_stop.decide(spec, own, others)
        assert found["stop"] == stopped[i]
        again = early_stop.recompute(
            spec,
            found | {"evaluation": len(own)},
            [*own, 0.0],
            {k: [*history, 1.0] for k, history in others.items() if k in found.get("among", ())},
        )
        assert again == found  # what was logged later, and by others, plays no part
        if found["stop"]:
            worse = (lambda a, b: a > b) if goal == "minimize" else (lambda a, b: a < b)
            assert worse(found["compared"], found["threshold"]) and found["band"] <= len(own)


def test_the_engines_defaults():
    """Strict by default, whatever W&B's pages say; an unknown goal would be minimized."""
    from sweeps.hyperband_stopping import hyperband_baseline_validate_and_fill

    filled = hyperband_baseline_validate_and_fill(
        SPEC | {"early_terminate": {"type": "hyperband", "min_iter": 3}}
    )
    assert filled["early_terminate"] == {"type": "hyperband", "min_iter": 3, "eta": 3, "strict": True}
    odd = hyperband_baseline_validate_and_fill(SPEC | {"metric": {"name": "a", "goal": "maximise"}})
    assert odd["metric"]["goal"] == "minimize"
    rest = {"method": "grid", "parameters": {"x": {"value": 1}}}
    refused = sweep_file.refusal(rest | {"metric": {"name": "a", "goal": "maximise"}}, online=False)
    assert "must be minimize or maximize; did you mean maximize?" in refused


@pytest.mark.parametrize(
    ("rule", "part"),
    [
        ("hyperband", "early_terminate: type: hyperband"),
        ({"type": "envelope", "min_iter": 3}, "type: envelope: must be hyperband"),
        ({"type": "hyperband"}, "give min_iter, or max_iter and s"),
        ({"type": "hyperband", "max_iter": 27}, "give min_iter, or max_iter and s"),
        ({"type": "hyperband", "min_iter": 3, "max_iter": 27, "s": 2}, "give min_iter, or max_iter and s"),
        ({"type": "hyperband", "min_iter": 0}, "min_iter: 0 is less than the minimum of 1"),
        ({"type": "hyperband", "min_iter": 2.5}, "min_iter: 2.5 is not of type 'integer'"),
        ({"type": "hyperband", "min_iter": 3, "eta": 1}, "eta: 1 is less than or equal to the minimum of 1"),
        ({"type": "hyperband", "min_iter": 3, "eta": 2000.0}, "infinity"),
        ({"type": "hyperband", "min_iter": 3, "etta": 2}, "'etta' was unexpected"),
        ({"type": "hyperband", "max_iter": 2, "s": 2}, "Bands must be an array"),
        ({"type": "hyperband", "max_iter": 27, "s": 0}, "Bands must be an array"),
    ],
)
def test_what_is_refused(rule, part):
    why = early_stop.refusal(SPEC | {"early_terminate": rule})
    assert part in why and "\n" not in why
    assert early_stop.refusal(SPEC) is None


# ---- histories -----------------------------------------------------------------------------------------


def logged(queue: Queue, index: int, values: list, start: int = 0) -> None:
    folder = queue.run_folder(queue.trials()[index])
    folder.mkdir(exist_ok=True)
    for i, value in enumerate(values, start):
        append_row(folder / "metrics.jsonl", {"step": 10 * i, "val/mse_best": value, "val/mse": 7.0})
        append_row(folder / "metrics.jsonl", {"step": 10 * i + 5, "train/loss": 1.0})


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    queue = Queue(tmp_path)
    for i in range(5):
        queue.add({"seed": i}, f"key{i}")
    return queue


def test_a_history_is_the_rows_that_have_the_metric(queue):
    histories, trial = Histories(queue, SPEC), queue.trials()[0]
    assert histories.of(trial) == []
    logged(queue, 0, [3.0, None, 2])  # null: not finite; the engine drops it as well
    assert histories.logged(trial) == [(0, 3.0), (20, 2)]
    with open(queue.run_folder(trial) / "metrics.jsonl", "a", encoding="utf-8") as f:
        f.write('{"step": 30, "val/mse_best": 1.')
        f.flush()
        assert histories.of(trial) == [3.0, 2]
        f.write("5}\n")
    assert histories.of(trial) == [3.0, 2, 1.5]


def test_a_file_is_read_once_and_anew_when_it_was_cut(queue, monkeypatch):
    histories, trial = Histories(queue, SPEC), queue.trials()[0]
    path = queue.run_folder(trial) / "metrics.jsonl"
    logged(queue, 0, [3.0, 2.0, 1.0])
    assert histories.of(trial) == [3.0, 2.0, 1.0]
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", lambda *_: 1 / 0)
        assert histories.of(trial) == [3.0, 2.0, 1.0]
    kept = path.read_bytes().splitlines(keepends=True)[:2]
    write_bytes(path, b"".join(kept))  # as a run that goes on restores its log
    assert histories.of(trial) == [3.0]
    logged(queue, 0, [2.0, 1.0, 0.5], start=1)
    assert histories.of(trial) == [3.0, 2.0, 1.0, 0.5]


def test_what_was_decided_on_stands_in_for_rows_that_are_about_to_come_again(queue):
    histories, trial = Histories(queue, SPEC), queue.trials()[0]
    logged(queue, 0, [3.0])
    for n, value in enumerate((3.0, 2.0, 1.0), 1):
        append_row(queue.run_folder(trial) / HYPERBAND, {"evaluation": n, "step": n, "value": value})
    assert histories.of(trial) == [3.0, 2.0, 1.0] and histories.logged(trial) == [(0, 3.0)]
    logged(queue, 0, [2.0, 1.0, 0.5], start=1)
    assert histories.of(trial) == [3.0, 2.0, 1.0, 0.5]


# ---- watching ------------------------------------------------------------------------------------------


def watcher(queue: Queue, index: int, start_step: int | None = 0) -> early_stop.Watcher:
    """That of a worker whose training process has adopted the lease, and has restored its log unless None."""
    trial = queue.trials()[index]
    lease = leases.acquire(queue.run_folder(trial), leases.Watch(), role="worker")
    write_json(lease.path, lease.info | {"role": "train", "start_step": start_step})
    return early_stop.Watcher(SPEC, Histories(queue, SPEC), trial, lease)


def test_a_bad_run_is_told_to_stop_and_why(queue):
    for i, last in enumerate((0.1, 0.2, 0.3)):
        logged(queue, i, [1.0, last])
    one = watcher(queue, 3)
    one.look()
    assert early_stop.decisions(one.folder) == []
    logged(queue, 3, [1.0])
    one.look()
    assert [d["band"] for d in early_stop.decisions(one.folder)] == [None]
    assert not (one.folder / "stop").exists()
    logged(queue, 3, [0.4], start=1)
    one.look()
    first, second = early_stop.decisions(one.folder)
    assert second == {
        "evaluation": 2,
        "step": 10,
        "value": 0.4,
        "band": 2,
        "compared": 0.4,
        "threshold": 0.3,
        "among": [0, 1, 2],
        "stop": True,
    }
    said = "hyperband: val/mse_best 0.4 at evaluation 2, threshold 0.3"
    assert (one.folder / "stop").read_text() == said + "\n" and early_stop.is_early(said)
    logged(queue, 3, [0.35], start=2)  # before it obeys
    one.look()
    assert early_stop.decisions(one.folder) == [first, second]


def test_a_stopped_run_that_was_killed_is_stopped_where_it_was(queue):
    for i, last in enumerate((0.1, 0.2, 0.3)):
        logged(queue, i, [1.0, last])
    logged(queue, 3, [1.0, 0.4])
    one = watcher(queue, 3)
    one.look()
    made, stop = early_stop.decisions(one.folder), one.folder / "stop"
    one.lease.update(released="died")
    again = watcher(queue, 3, start_step=None)
    stop.unlink()
    again.look()  # the process is starting: the old rows are still there
    assert not stop.exists()
    lines = (one.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    write_bytes(one.folder / "metrics.jsonl", lines[0])
    again.lease.update(role="train", start_step=5)
    again.look()
    assert not stop.exists() and early_stop.decisions(one.folder) == made  # one evaluation less than then
    logged(queue, 3, [0.4], start=1)
    again.look()
    assert stop.exists() and early_stop.decisions(one.folder) == made
    stop.unlink()
    again.look()
    assert stop.exists()


def test_evaluations_that_nobody_saw_are_judged_in_their_order(queue):
    """The worker was killed, and its training process continued; now another worker has the run."""
    for i, last in enumerate((0.1, 0.2, 0.3)):
        logged(queue, i, [1.0, last, last, last, last])
    one = watcher(queue, 3)
    logged(queue, 3, [1.0, 0.25, 0.25, 0.25, 0.25])
    one.look()
    made = early_stop.decisions(one.folder)
    assert [d["evaluation"] for d in made] == [1, 2, 3, 4, 5] and not any(d["stop"] for d in made[:1])
    assert [d["band"] for d in made] == [None, 2, 2, 4, 4]


def test_a_torn_decision_is_taken_again(queue):
    logged(queue, 0, [1.0, 0.5])
    one = watcher(queue, 0)
    one.look()
    path = one.folder / HYPERBAND
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    one.lease.update(released="died")
    watcher(queue, 0).look()
    assert path.read_bytes() == whole


def test_a_decision_whose_writing_failed_is_taken_again(queue, monkeypatch):
    """The disk was full: only part of a row was written, and the next row must not be lost in it."""
    logged(queue, 0, [1.0, 0.5, 0.4])
    one, real = watcher(queue, 0), early_stop.append_row

    def full(path: Path, row: dict) -> None:
        if row["evaluation"] == 2:
            with open(path, "a", encoding="utf-8") as f:
                f.write(json.dumps(row)[:20])
            raise OSError(28, "No space left on device")
        real(path, row)

    with monkeypatch.context() as patch:
        patch.setattr(early_stop, "append_row", full)
        for _ in range(2):
            with pytest.raises(OSError):
                one.look()
    one.look()
    rows = (one.folder / HYPERBAND).read_text().splitlines()
    assert [json.loads(row)["evaluation"] for row in rows] == [1, 2, 3]
    lines = [rows[0], rows[1][:30] + rows[1], rows[2]]  # as such a file was left before
    (one.folder / HYPERBAND).write_text("\n".join(lines) + "\n")
    one.lease.update(released="died")
    logged(queue, 0, [0.3], start=3)
    watcher(queue, 0).look()
    assert [d["evaluation"] for d in early_stop.decisions(one.folder)] == [1, 3, 4]


def test_mending_the_decisions_loses_none_of_them(queue, monkeypatch):
    logged(queue, 0, [1.0, 0.5, 0.4])
    one = watcher(queue, 0)
    one.look()
    path = one.folder / HYPERBAND
    path.write_bytes(path.read_bytes()[:-9])
    one.lease.update(released="died")
    monkeypatch.setattr(early_stop, "write_bytes", lambda *_: 1 / 0)  # killed at this very moment
    monkeypatch.setattr(early_stop, "append_row", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        watcher(queue, 0)
    assert [d["evaluation"] for d in early_stop.decisions(one.folder)] == [1, 2]


def test_who_has_lost_the_run_decides_nothing(queue):
    one = watcher(queue, 0)
    write_json(one.folder / f"lease.{one.lease.n + 1}", one.lease.info)
    logged(queue, 0, [1.0, 0.5])
    one.look()
    assert early_stop.decisions(one.folder) == []


def test_who_loses_the_run_while_deciding_writes_nothing(queue, monkeypatch):
    one, real = watcher(queue, 0), early_stop.decide
    logged(queue, 0, [1.0, 0.5])

    def slow(*args):
        write_json(one.folder / f"lease.{one.lease.n + 1}", one.lease.info)
        return real(*args)

    monkeypatch.setattr(early_stop, "decide", slow)
    one.look()
    assert early_stop.decisions(one.folder) == [] and not (one.folder / HYPERBAND).exists()


def test_of_two_that_decide_at_once_the_first_counts_for_both(queue):
    """Leases may overlap for a moment, and the histories of the other runs may have grown in between."""
    for i, last in enumerate((0.1, 0.2, 0.3)):
        logged(queue, i, [1.0, last])
    logged(queue, 3, [1.0])
    one = watcher(queue, 3)
    other = early_stop.Watcher(SPEC, Histories(queue, SPEC), one.trial, one.lease)
    one.look()
    logged(queue, 3, [0.25], start=1)
    one.look()
    made = early_stop.decisions(one.folder)
    other.look()  # has read nothing of it
    rows = (one.folder / HYPERBAND).read_text().splitlines()
    assert len(rows) == 3 and early_stop.decisions(one.folder) == made and len(made) == 2
    assert (other._decided, other._stop) == (one._decided, one._stop) == (2, None)


def test_confirming_trials_and_failures_do_not_disturb(queue):
    queue.add({"seed": 9}, "again", confirms="key0")
    logged(queue, 5, [0.0, 0.0])
    logged(queue, 1, [None])  # diverged at once
    one = watcher(queue, 0)
    logged(queue, 0, [1.0, 0.5])
    one.look()
    assert [d.get("among") for d in early_stop.decisions(one.folder)] == [None, []]


@pytest.mark.parametrize(
    "text", ["", "hyperband: val/mse_best 0.4 at evaluation 2, threshold 0.3\n", "SIGTERM"]
)
def test_a_run_tells_what_its_stop_file_says(config, dots, monkeypatch, text):
    from research import bvae_faces
    from research.common.run import Run
    from tests.conftest import folder_of

    cfg, real = config(), Run.log

    def log(run: Run, metrics: dict, step: int) -> None:
        real(run, metrics, step)
        if step == 10:
            (run.folder / "stop").write_text(text)
            run._stop_looked = -math.inf

    monkeypatch.setattr(Run, "log", log)
    bvae_faces.train(cfg)
    status = json.loads((folder_of(cfg) / "status.json").read_text())
    assert (status["status"], status["reason"]) == ("stopped", text.strip() or "stop file")
