"""A grid of which only the first trials are made when it begins: its workers make the others, in order."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch import local
from launch.sweep import begin, plan, pool, proposer
from launch.sweep.proposer import Proposer
from launch.sweep.queue import Queue
from research.common import lease as leases
from research.common.folder import read_json
from tests.test_bayes import FORK
from tests.test_bayes import own_path as own_path  # a fixture, for every test
from tests.test_queue import finish, in_processes

pytestmark = pytest.mark.filterwarnings("ignore")  # the engine is written for an older pydantic, and says so
X = [round(0.04 * i, 2) for i in range(1, 9)]
PARAMETERS = {
    "log_every": {"values": [10, 20]},  # changes no numbers: of two points with equal others one is run
    "n": {"values": [2, 1]},
    "steps": {"value": 2},
    "x": {"values": X},
}
SPEC = {"program": "tests/stand_in.py", "method": "grid", "parameters": PARAMETERS}
POINTS = [{"log_every": 10, "n": n, "steps": 2, "x": x} for n in (2, 1) for x in X]  # those that are run


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use five trials instead of a thousand, so that tests are quick."""
    monkeypatch.setattr(begin, "FIRST", 5)
    monkeypatch.setattr(proposer, "BATCH", 3)


def written(path: Path, spec: dict[str, Any] = SPEC) -> Path:
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return path


def begun(tmp_path: Path, spec: dict[str, Any] = SPEC) -> Queue:
    """The folder of a sweep that has begun."""
    sweep = plan.read(str(written(tmp_path / "grid.yaml", spec)))
    return begin.freeze(sweep, tmp_path / "grid", False, False)


def check(folder: Path) -> None:
    """Every point that is run has one trial, in the order of the grid, and nothing more is wanted."""
    trials = Queue(folder).trials()
    assert [trial.flags for trial in trials] == POINTS
    assert [trial.index for trial in trials] == list(range(len(POINTS)))
    assert len({trial.key for trial in trials}) == len(POINTS)
    search = Proposer(Queue(folder), SPEC)
    assert not search.wanted() and search.planned() == begin.planned(folder) == len(POINTS)
    assert list((folder / "trials").glob("*.tmp")) == []


def test_only_the_first_are_made_when_it_begins(tmp_path):
    queue = begun(tmp_path)
    assert [trial.flags for trial in queue.trials()] == POINTS[:5]
    assert begin.planned(queue.folder) == begin.n_open(queue, 16) == len(POINTS) == 16
    search, watch = Proposer(queue, SPEC), leases.Watch()
    for made in (8, 11, 14, 16):
        assert search.wanted() and search.make(watch)
        assert [trial.flags for trial in queue.trials()] == POINTS[:made]
    check(queue.folder)
    assert begun(tmp_path).folder == queue.folder  # the same command again adds none
    check(queue.folder)


def test_what_is_said_at_its_beginning_counts_those_that_are_not_made_yet(tmp_path, monkeypatch, capfd):
    class Begun(Exception):
        pass

    def stop_here(self):
        raise Begun

    monkeypatch.setattr(pool, "slots", lambda flags: [pool.Slot({}, 1)])
    monkeypatch.setattr(pool.Local, "run", stop_here)
    flags = local.Flags(sweep=str(written(tmp_path / "grid.yaml")), out=str(tmp_path))
    for done, left in ((0, 16), (2, 14)):
        queue = Queue(tmp_path / "grid")
        for trial in queue.trials()[:done]:
            queue.run_folder(trial).mkdir()
            finish(queue, trial)
        with pytest.raises(Begun):
            local.run(flags)
        said = capfd.readouterr().err
        assert f"16 trials, {left} of them open, 1 worker; varied: log_every, n, x" in " ".join(said.split())
    assert len(Queue(tmp_path / "grid").trials()) == 10  # each start makes as many as the first


def make_all(i: int, folder: Path) -> None:
    """Make trials like a worker that has none to train, until nothing is wanted."""
    queue, watch = Queue(folder), leases.Watch()
    search = Proposer(queue, SPEC)
    while search.wanted():
        search.make(watch)


def test_two_workers_at_once_make_each_once(tmp_path):
    folder = begun(tmp_path).folder
    in_processes(2, make_all, folder)
    check(folder)


def killed_after(n: int, folder: Path) -> None:
    """A worker that is killed after it has made n trials of a batch, and so still holds the lease."""
    real, made = Queue.add, []

    def add(self, *args):
        if len(made) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        made.append(real(self, *args))

    Queue.add = add
    Proposer(Queue(folder), SPEC).make(leases.Watch())


@pytest.mark.parametrize("n", [0, 2])
def test_a_worker_that_is_killed_at_it_is_followed(tmp_path, n):
    folder = begun(tmp_path).folder
    victim = FORK.Process(target=killed_after, args=(n, folder))
    victim.start()
    victim.join()
    held = read_json(folder / proposer.FOLDER / "lease.1")
    assert victim.exitcode == -signal.SIGKILL and held["pid"] == victim.pid and held["released"] is None
    assert len(Queue(folder).trials()) == 5 + n
    in_processes(2, make_all, folder)
    check(folder)


def test_a_size_that_is_too_large_is_put_right(tmp_path):
    """Another version of the code may have counted another size; the sweep still ends."""
    folder = begun(tmp_path).folder
    proposer.keep_size(folder, 40)
    assert begin.planned(folder) == 40
    make_all(0, folder)
    check(folder)


def test_a_grid_that_grows_while_a_worker_is_at_work_loses_nothing(tmp_path):
    """That worker has read the smaller size, and must not take the larger one for a mistake."""
    small = SPEC | {"parameters": PARAMETERS | {"x": {"values": X[:3]}}}
    folder = begun(tmp_path, small).folder
    old = Proposer(Queue(folder), small)
    assert old.make(leases.Watch()) and not old.wanted()
    begun(tmp_path)
    while old.wanted():
        assert old.make(leases.Watch())
    trials = Queue(folder).trials()
    assert sorted(json.dumps(trial.flags) for trial in trials) == sorted(map(json.dumps, POINTS))
    assert begin.planned(folder) == len(trials) == len(POINTS)


def test_real_workers_make_and_train_them(tmp_path):
    folder = begun(tmp_path).folder
    program = begin.program_in(folder, "worker.py")
    command = [sys.executable, str(program), f"--sweep={folder}", "--program=tests/stand_in.py"]
    command += ["--extra=--wandb=disabled --threads=1"]
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True)) for _ in "ab"
        ]
        for one in workers:
            said = one.communicate(timeout=120)[1]
            assert one.returncode == 0 and said.endswith("nothing is left to do\n"), said
    check(folder)
    queue = Queue(folder)
    assert {queue.status(trial)["status"] for trial in queue.trials()} == {"finished"}
    assert {len(list(queue.run_folder(trial).glob("lease.*"))) for trial in queue.trials()} == {1}
