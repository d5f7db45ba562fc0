"""Trials made while a sweep runs: proposals that can be made again, one proposer; and --confirm."""

import json
import multiprocessing
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from data import DataError
from launch.sweep import bayes, program, proposer, worker
from launch.sweep.history import Histories
from launch.sweep.points import seed_engine
from launch.sweep.proposer import Proposer
from launch.sweep.queue import Queue, Trial
from research.common import lease as leases
from research.common.folder import append_row, read_json, write_json
from research.common.messages import UserError
from tests import stand_in
from tests.test_queue import in_processes

pytestmark = pytest.mark.filterwarnings("ignore")  # the engine is written for an older pydantic, and says so
METRIC = {"name": "val/loss_best", "goal": "minimize"}
PARAMETERS = {
    "x": {"min": 0.0, "max": 1.0},
    "n": {"min": 1, "max": 9},
    "kind": {"values": ["a", "b"]},
    "steps": {"value": 5},
}
SPEC = {
    "program": "tests/stand_in.py",
    "method": "bayes",
    "run_cap": 6,
    "metric": METRIC,
    "parameters": PARAMETERS,
}
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in puts its own tree first on sys.path, as a script must; here it is only imported."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return frozen(tmp_path, SPEC)


def frozen(folder: Path, spec: dict) -> Path:
    """A sweep folder as far as proposing needs one."""
    (folder / "trials").mkdir(parents=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(spec))
    return folder


def loss(flags: dict) -> float:
    return (flags["x"] - 0.37) ** 2 + 0.1 * (flags["kind"] == "b")


def ended(queue: Queue, trial: Trial, values: list, status: str = "finished", **more) -> None:
    """The trial's run, over, with these values of the metric."""
    folder = queue.run_folder(trial)
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", {"headline": "val/loss"})
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    for step, value in enumerate(values):
        append_row(folder / "metrics.jsonl", {"step": step, "val/loss_best": value})
    write_json(folder / "status.json", {"status": status, "headline": None, "reason": None} | more)


# ---- what the engine is told ---------------------------------------------------------------------------


def test_a_proposal_is_the_engines_own_with_the_same_seed_and_runs():
    from sweeps import RunState, SweepRun, next_run

    def config(x: float, n: int, kind: str) -> dict:
        return {k: {"value": v} for k, v in {"x": x, "n": n, "kind": kind, "steps": 5}.items()}

    def flags(x: float, n: int, kind: str) -> dict:
        return {"x": x, "n": n, "kind": kind, "steps": 5}

    name = "val/loss_best"
    points = [(0.1, 3, "a"), (0.5, 9, "b"), (0.9, 1, "a"), (0.3, 2, "b"), (0.8, 4, "a"), (0.2, 5, "a")]
    seen = [
        (flags(*points[0]), "finished", 0.25),
        (flags(*points[1]), "stopped", 0.5),
        (flags(*points[2]), "diverged", 3.0),
        (flags(*points[3]), "failed", None),
        (flags(*points[4]), "running", None),
        (flags(*points[5]), "pending", None),
    ]
    runs = [
        SweepRun(config=config(*points[0]), state=RunState.finished, history=[{name: 0.75}, {name: 0.25}]),
        SweepRun(config=config(*points[1]), state=RunState.finished, history=[{name: 0.5}, {"other": 0}]),
        SweepRun(
            config=config(*points[2]), state=RunState.finished, history=[{name: 3.0}, {name: float("nan")}]
        ),
        SweepRun(config=config(*points[3]), state=RunState.failed),
        SweepRun(config=config(*points[4]), state=RunState.running, history=[{name: 0.01}]),
        SweepRun(config=config(*points[5]), state=RunState.pending),
    ]
    for attempt in range(3):
        seed_engine(PARAMETERS, 6, attempt)
        expected = next_run({k: SPEC[k] for k in ("method", "metric", "parameters")}, runs)
        random.seed(5 + attempt)  # what was drawn before plays no part
        np.random.seed(7)
        made = bayes.propose(SPEC, 6, attempt, seen)
        assert made == {k: v["value"] for k, v in expected.config.items()}
        assert [type(made[k]) for k in ("x", "n", "kind", "steps")] == [float, int, str, int]
        assert json.loads(json.dumps(made)) == made
    assert made != bayes.propose(SPEC, 6, 0, seen) != bayes.propose(SPEC, 7, 0, seen)


def test_a_search_gets_near_the_minimum():
    seen = []
    for index in range(12):
        flags = bayes.propose(SPEC, index, 0, seen)
        seen.append((flags, "finished", loss(flags)))
    best = min(seen, key=lambda row: row[2])
    assert best[0]["kind"] == "a" and abs(best[0]["x"] - 0.37) < 0.1


def test_runs_without_a_value_count_as_the_worst_or_not_at_all():
    """If the engine got only trials without a value, it would take 0.0 for them, which may be better than any
    real value.
    """
    point = {"x": 0.4, "n": 1, "kind": "a", "steps": 5}
    lost = [(point, state, None) for state in ("failed", "diverged", "stopped")]
    assert bayes.propose(SPEC, 3, 0, lost) == bayes.propose(SPEC, 3, 0, [])
    good = [(point | {"x": x}, "finished", x) for x in (0.2, 0.6)]
    worst = [(point, "finished", 0.6)] * 3
    assert bayes.propose(SPEC, 5, 0, lost + good) == bayes.propose(SPEC, 5, 0, worst + good)
    up = SPEC | {"metric": METRIC | {"goal": "maximize"}}
    worst = [(point, "finished", 0.2)] * 3
    assert bayes.propose(up, 5, 0, lost + good) == bayes.propose(up, 5, 0, worst + good)


def test_what_a_run_counts_for(folder):
    queue = Queue(folder)
    a, b, c, d, e, f = (queue.add({"x": i / 10}, f"key{i}") for i in range(6))
    ended(queue, a, [0.9, 0.4, None])
    ended(queue, b, [0.9, 0.3], "stopped")
    ended(queue, c, [0.8, 0.2, None], "diverged", headline=5.5)
    ended(queue, d, [], "failed")
    ended(queue, e, [0.7], "preempted")
    queue.add({"x": 0.1, "seed": 1}, "again", confirms="key0")
    found = bayes.look(queue, Histories(queue, SPEC), SPEC)
    assert [(trial.key, state, value) for trial, state, value in found] == [
        ("key0", "finished", 0.4),
        ("key1", "stopped", 0.3),
        ("key2", "diverged", 5.5),
        ("key3", "failed", None),
        ("key4", "running", None),
        ("key5", "pending", None),
    ]
    spec = SPEC | {"metric": METRIC | {"impute_while_running": "best"}}
    assert bayes.look(queue, Histories(queue, spec), spec)[4][2] == 0.7
    ended(queue, f, [0.8, 0.2], "diverged", headline=5.5)
    write_json(queue.run_folder(f) / "config.json", {"headline": "val/other"})
    assert bayes.look(queue, Histories(queue, SPEC), SPEC)[5][1:] == ("diverged", 0.8)


# ---- making trials -------------------------------------------------------------------------------------


def make_all(i: int, folder: Path) -> int:
    """Make every trial of the sweep and "train" each at once; how many were made here."""
    queue, watch, made = Queue(folder), leases.Watch(), 0
    wanted = Proposer(queue, SPEC)
    while wanted.wanted():
        before = len(queue.trials())
        if wanted.make(watch):
            made += len(queue.trials()) > before
        for trial in queue.trials():
            if queue.status(trial)["status"] == "open":
                ended(queue, trial, [loss(trial.flags)])
    return made


def test_every_proposal_can_be_made_again_and_none_is_made_twice(folder):
    in_processes(3, make_all, folder)
    queue = Queue(folder)
    trials = queue.trials()
    assert [trial.index for trial in trials] == list(range(6)) and len({t.key for t in trials}) == 6
    assert all(n == 5 and kind in "ab" for n, kind in ((t.flags["steps"], t.flags["kind"]) for t in trials))
    for trial in trials:
        kept = read_json(queue.trial_file(trial))
        assert [key for key, _, _ in kept["seen"]] == [t.key for t in trials[: trial.index]]
        assert bayes.recompute(queue, SPEC, trial) == trial.flags
        for key, state, value in kept["seen"]:
            flags = next(t.flags for t in trials if t.key == key)
            assert (state, value) in [("finished", loss(flags)), ("pending", None)]
    assert not Proposer(queue, SPEC).wanted() and Proposer(queue, SPEC).planned() == 6
    # the script refuses others
    assert {t.flags["n"] <= 2 for t in trials if t.flags["kind"] == "b"} <= {True}


def die_proposing(i: int, folder: Path) -> None:
    leases.acquire(folder / proposer.FOLDER, leases.Watch())  # and is gone, as after kill -9


def test_a_killed_proposer_is_followed(folder):
    in_processes(1, die_proposing, folder)
    queue = Queue(folder)
    assert Proposer(queue, SPEC).make(leases.Watch()) and len(queue.trials()) == 1
    holding = FORK.Process(target=lambda: (die_proposing(0, folder), os.kill(os.getpid(), 19)))
    holding.start()
    while leases.newest(folder / proposer.FOLDER)[0] < 3:
        assert holding.is_alive()
    assert not Proposer(queue, SPEC).make(leases.Watch()) and len(queue.trials()) == 1
    holding.kill()
    holding.join()
    assert Proposer(queue, SPEC).make(leases.Watch()) and len(queue.trials()) == 2


def test_a_proposer_that_was_overtaken_adds_nothing(folder, monkeypatch):
    """A worker stood still for so long that another took the lease; its proposal was based
    on one trial less.
    """
    queue, real, taken = Queue(folder), bayes.propose, []
    monkeypatch.setattr(leases.Lease, "start_beating", lambda self: taken.append(self))

    def late(*args):
        flags = real(*args)
        monkeypatch.setattr(bayes, "propose", real)
        taken[0].release("died")
        Proposer(Queue(folder), SPEC).make(leases.Watch())
        return flags | {"x": 0.123}

    monkeypatch.setattr(bayes, "propose", late)
    Proposer(queue, SPEC).make(leases.Watch())
    (only,) = Queue(folder).trials()
    assert only.flags["x"] != 0.123


def test_a_search_without_new_points_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(bayes, "RANDOM_TRIES", 50)
    parameters = {"kind": {"values": ["a", "b"]}, "n": {"values": [1, 3]}, "seed": {"value": 0}}
    spec = SPEC | {"parameters": parameters, "run_cap": 10}
    queue = Queue(frozen(tmp_path, spec))
    search = Proposer(queue, spec)
    assert search.planned() == 10
    for _ in range(4):
        search.make(leases.Watch())
        for trial in queue.trials():
            ended(queue, trial, [float(trial.flags["n"])])
    points = {(trial.flags["kind"], trial.flags["n"]) for trial in queue.trials()}
    assert points == {("a", 1), ("a", 3), ("b", 1)}  # n = 3 is refused with kind b
    assert not search.wanted() and search.planned() == 3
    assert search.exhausted == (
        "the search found no further point after 3 trials; run_cap is 10; the last "
        "one refused: --n=3: must be at most 2 with --kind=b"
    )
    for trial in queue.trials():
        assert bayes.recompute(queue, spec, trial) == trial.flags


def test_an_overtaken_proposer_does_not_end_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr(bayes, "RANDOM_TRIES", 0)
    spec = SPEC | {"parameters": {"n": {"value": 1}, "x": {"values": [0.5, 0.6]}}}
    queue, real = Queue(frozen(tmp_path, spec)), Proposer._key
    search = Proposer(queue, spec)
    for trial in (search.make(leases.Watch()) and queue.trials()[-1] for _ in range(2)):
        ended(queue, trial, [0.5])

    def late(self, cfg):
        n = leases.newest(tmp_path / proposer.FOLDER)[0]
        write_json(tmp_path / proposer.FOLDER / f"lease.{n + 1}", leases._identity("train"))
        return real(self, cfg)

    monkeypatch.setattr(Proposer, "_key", late)
    search.make(leases.Watch())
    assert len(queue.trials()) == 2 and search.exhausted is None


def test_what_is_wrong_with_data_or_a_checkpoint_is_told_and_ends_no_search(folder, monkeypatch):
    queue = Queue(folder)
    with monkeypatch.context() as patch:
        patch.setattr(stand_in, "load_data", lambda cfg: (_ for _ in ()).throw(DataError("no disk")))
        with pytest.raises(DataError, match="no disk"):
            Proposer(queue, SPEC).make(leases.Watch())
    with monkeypatch.context() as patch:
        patch.setattr(program, "run_key", lambda *_: (_ for _ in ()).throw(UserError("--checkpoint=x: none")))
        with pytest.raises(UserError, match="--checkpoint=x"):
            Proposer(queue, SPEC).make(leases.Watch())
    assert Proposer(queue, SPEC).exhausted is None and Proposer(queue, SPEC).make(leases.Watch())
    assert len(queue.trials()) == 1


def test_where_the_engines_model_breaks_points_are_drawn_at_random(folder, monkeypatch):
    real, queue = bayes.propose, Queue(folder)
    search = Proposer(queue, SPEC)

    def breaks(spec, index, attempt, seen):
        if attempt < broken:
            raise np.linalg.LinAlgError("not\npositive definite")
        return real(spec, index, attempt, seen)

    monkeypatch.setattr(bayes, "propose", breaks)
    broken = bayes.ENGINE_TRIES
    assert search.make(leases.Watch())
    (trial,) = queue.trials()
    assert read_json(queue.trial_file(trial))["attempt"] >= bayes.ENGINE_TRIES
    assert bayes.recompute(queue, SPEC, trial) == trial.flags
    broken = 1000
    search.make(leases.Watch())
    assert search.exhausted.endswith("; W&B's engine: LinAlgError: not positive definite")


def test_failed_and_diverged_runs_do_not_stop_the_search(folder):
    queue = Queue(folder)
    search = Proposer(queue, SPEC)
    for i in range(6):
        assert search.make(leases.Watch())
        trial = queue.trials()[-1]
        if i % 2:
            ended(queue, trial, [], "failed")
        else:
            ended(queue, trial, [None], "diverged")
    assert len(queue.trials()) == 6 and not search.wanted()
    assert all(bayes.recompute(queue, SPEC, trial) == trial.flags for trial in queue.trials())


def test_a_metric_that_is_never_logged_ends_the_search(folder):
    """Any name under val/ is accepted when the sweep is read; only a run can show whether it is logged."""
    spec = SPEC | {"metric": {"name": "val/sap", "goal": "maximize"}}
    queue, line = Queue(folder), "0000 logged no val/sap; it logs val/loss_best"
    search = Proposer(queue, spec)
    for _ in range(proposer.BLIND):
        assert search.wanted() and search.exhausted is None
        search.make(leases.Watch())
        ended(queue, queue.trials()[-1], [0.5, None])
        assert search.blind() == line  # told at once; but it may have been the one point that logs none
    assert not search.wanted() and search.exhausted == line and search.planned() == 3
    append_row(queue.run_folder(queue.trials()[1]) / "metrics.jsonl", {"step": 9, "val/sap": 0.5})
    assert search.wanted() and search.blind() is None and search.planned() == 6


@pytest.mark.parametrize(
    ("more", "decides"),
    [({}, False), ({"early_terminate": {"type": "hyperband", "min_iter": 2}}, True), ({"confirm": 1}, True)],
)
def test_a_grid_tells_of_a_metric_that_no_run_logs(folder, more, decides):
    spec = {"method": "grid", "metric": {"name": "val/sap", "goal": "maximize"}, **more}
    queue = Queue(folder)
    search = Proposer(queue, spec, spec.pop("confirm", None))
    ended(queue, queue.add({"x": 0.1}, "a"), [0.5])
    queue.add({"x": 0.2}, "b")
    assert search.blind() == "0000 logged no val/sap; it logs val/loss_best" and search.decides == decides
    assert not search.wanted() and search.unconfirmed() is None
    ended(queue, queue.trials()[1], [0.4])
    assert not search.wanted() and search.planned() == 2
    assert ("no trial finished with a value of val/sap" in (search.unconfirmed() or "")) == (
        "confirm" in more
    )
    assert Proposer(queue, {"method": "grid", "metric": "val/sap"}).blind() is None
    for name, near in (("val/loss", "val/loss_best"), ("val/los_best", "val/loss_best"), ("val/kl", None)):
        said = Proposer(queue, spec | {"metric": {"name": name, "goal": "minimize"}}).blind()
        assert said.endswith(f"did you mean {near}?" if near else "it logs val/loss_best")


# ---- --confirm -----------------------------------------------------------------------------------------


def confirm_all(i: int, folder: Path) -> None:
    queue, watch = Queue(folder), leases.Watch()
    wanted = Proposer(queue, yaml.safe_load((folder / "sweep.yaml").read_text()))
    while wanted.wanted():
        wanted.make(watch)


@pytest.mark.parametrize("method", ["grid", "random", "bayes"])
def test_the_best_finished_trial_is_confirmed_once(tmp_path, method):
    spec = SPEC | {"method": method, "run_cap": 4}
    if method == "grid":
        spec = SPEC | {
            "method": "grid",
            "parameters": {"n": {"values": [1, 2, 3, 4]}, "seed": {"values": [5]}},
        }
        spec.pop("run_cap")
    queue = Queue(frozen(tmp_path, spec))
    for i, value in enumerate((0.5, 0.2, 0.1, 0.01)):
        ended(queue, queue.add({"n": i + 1, "seed": 5}, f"key{i}"), [0.9, value])
    ended(queue, queue.trials()[2], [0.9, 0.1], "preempted")
    ended(queue, queue.trials()[3], [0.9, 0.01], "stopped")  # early: never the best
    proposer.ask_to_confirm(tmp_path, 2)
    search = Proposer(queue, spec)
    assert search.planned() == 6 and not search.wanted()  # one trial is still to end
    ended(queue, queue.trials()[2], [], "failed")
    assert search.planned() == 6 and search.wanted()
    in_processes(3, confirm_all, tmp_path)
    more = queue.trials()[4:]
    assert [(t.flags, t.confirms) for t in more] == [
        ({"n": 2, "seed": 6}, "key1"),
        ({"n": 2, "seed": 7}, "key1"),
    ]
    assert len({trial.key for trial in queue.trials()}) == 6
    assert Proposer(Queue(tmp_path), spec).planned() == 6 and not search.wanted()
    ended(queue, more[0], [0.001])  # luckier, but no candidate
    (confirmed,) = search.confirmed()
    assert search.best().key == "key1" and confirmed == (queue.trials()[1], [0.001], {"open": 1})
    proposer.ask_to_confirm(tmp_path, 1)
    assert search.planned() == 6
    proposer.ask_to_confirm(tmp_path, 3)
    assert search.planned() == 7
    in_processes(2, confirm_all, tmp_path)
    assert [trial.flags["seed"] for trial in queue.trials()[4:]] == [6, 7, 8]


def test_how_the_further_seeds_ended(folder):
    queue, spec = Queue(folder), SPEC | {"method": "grid"}
    ended(queue, queue.add({"seed": 0}, "key"), [0.3])
    ends = {1: "finished", 2: "diverged", 3: "failed", 4: "finished"}
    for seed, status in ends.items():
        trial = queue.add({"seed": seed}, f"key{seed}", confirms="key")
        ended(queue, trial, [0.5] if seed < 4 else [None], status)
    (confirmed,) = Proposer(queue, spec).confirmed()
    others = {"diverged": 1, "failed": 1, "without val/loss_best": 1}
    assert confirmed == (queue.trials()[0], [0.5], others)


def test_an_overtaken_worker_confirms_nothing(tmp_path, monkeypatch):
    """A worker stood still while another confirmed the trial that is the best by now."""
    spec = SPEC | {"method": "grid"}
    queue, real = Queue(frozen(tmp_path, spec)), Proposer._key
    ended(queue, queue.add({"x": 0.5}, "key"), [0.3])
    proposer.ask_to_confirm(tmp_path, 2)

    def late(self, cfg):
        if cfg.seed == 2:
            n = leases.newest(tmp_path / proposer.FOLDER)[0]
            write_json(tmp_path / proposer.FOLDER / f"lease.{n + 1}", leases._identity("train"))
        return real(self, cfg)

    monkeypatch.setattr(Proposer, "_key", late)
    Proposer(queue, spec).make(leases.Watch())
    assert [trial.flags.get("seed") for trial in queue.trials()] == [None, 1]


def test_a_trial_that_ends_while_a_worker_looks_is_still_confirmed(tmp_path, monkeypatch):
    """The worker finds that nothing is wanted, as the best is not known yet; then another worker's trial ends
    and is the best.
    """
    spec = SPEC | {"method": "grid", "parameters": {"x": {"values": [0.5]}}}
    queue = Queue(frozen(tmp_path, spec))
    trial = queue.add({"x": 0.5}, "key")
    proposer.ask_to_confirm(tmp_path, 1)
    ended(queue, trial, [0.3], "running")
    leases.acquire(tmp_path / "key", leases.Watch())  # another's
    real = Proposer.wanted

    def ends_now(self):
        wanted = real(self)
        ended(queue, trial, [0.3])
        return wanted

    def train(self, trial, lease):
        ended(self.queue, trial, [0.4])
        lease.release("finished")

    monkeypatch.setattr(Proposer, "wanted", ends_now)
    monkeypatch.setattr(worker.Worker, "train", train)
    assert worker.Worker(worker.Flags(sweep=str(tmp_path), program="tests/stand_in.py")).work() == 0
    assert [(t.confirms, queue.status(t)["status"]) for t in queue.trials()] == [
        (None, "finished"),
        ("key", "finished"),
    ]


def test_without_a_finished_trial_nothing_is_confirmed(folder):
    queue = Queue(folder)
    spec = SPEC | {"run_cap": 2}
    for i in range(2):
        ended(queue, queue.add({"x": 0.1 * i}, f"key{i}"), [0.9], "diverged", headline=0.9)
    proposer.ask_to_confirm(folder, 2)
    search = Proposer(queue, spec)
    assert not search.wanted() and search.planned() == 2 and search.confirmed() == []
