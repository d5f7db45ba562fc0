"""Sweeps through launch/slurm.py on a real SLURM of two nodes: calm, in a storm of faults, online, edited.

The calm sweep and the storm have a short form, whose trials are a stand-in without torch that mostly waits
between its steps, and the soak, whose trials are real trainings. Online and edited sweeps always train.
"""

import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.sweep.queue import DONE, Queue
from tests import online
from tests.slurm.cluster import Cluster, ClusterError, skip_reason
from tests.wandb_server import Server

pytestmark = pytest.mark.skipif(bool(skip_reason()), reason=skip_reason())
SHORT = (6,)  # sizes of which the trials are the stand-in's
SIZES = [pytest.param(6, id="6 trials"), pytest.param(24, id="24 trials", marks=pytest.mark.soak)]
TASKS = 6
STEPS = {6: 150, 24: 800}  # of a trial: some seconds, so that faults hit it while it trains


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: sockets lie in it
    with Cluster(folder / "c", cpus=4, max_array=5) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slurm")


def launch(cluster: Cluster, *args: str, code: int = 0, root: Path = online.ROOT, **env: str) -> str:
    """Run launch/slurm.py as a user does; returns what it printed."""
    command = [sys.executable, str(root / "launch" / "slurm.py"), *args]
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command, env=kept | cluster.env | env, cwd=online.ROOT, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def write_grid(path: Path, program: str, values: dict[str, Any], n: int) -> Path:
    """A sweep of n seeds."""
    parameters = {k: {"value": v} for k, v in values.items()} | {"seed": {"values": list(range(n))}}
    content = {"program": program, "method": "grid", "parameters": parameters}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def sweep_file(path: Path, tiny: dict[str, Any], n: int, **more: Any) -> Path:
    """A sweep of n trainings."""
    values = online.flags(tiny, log_every=10, save_every=20, eval_every=200) | more
    for name in ("threads", "device"):
        values.pop(name)
    return write_grid(path, online.SCRIPT, values, n)


def ask_for(place: Path, yaml_file: Path, name: str, *more: str) -> list[str]:
    where = [str(yaml_file), f"--out={place}", f"--name={name}"]
    return [*where, f"--tasks={TASKS}", "--cpus=1", "--time=10:00", "--stagger_s=0", *more]


def states(queue: Queue) -> list[str]:
    return [queue.status(trial)["status"] for trial in queue.trials()]


def where_it_stands(cluster: Cluster, queue: Queue) -> str:
    """The state of everything, for the message of a failing test."""
    logs = "\n".join(p.read_text()[-600:] for p in sorted((queue.folder / "slurm").rglob("*.out"))[-8:])
    return f"{states(queue)}\n{cluster.jobs()}\n{logs}\n{cluster.logs(10)}"


def alive(cluster: Cluster) -> list[dict[str, Any]]:
    """Tasks that SLURM is going to run or to end; a held task waits for somebody to look."""
    known = ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED")
    return [j for j in cluster.jobs() if j["state"] in known and "held" not in j["reason"].lower()]


def repair(cluster: Cluster) -> None:
    """Do what an administrator does: bring back a node that SLURM has taken out of service."""
    for node, state in cluster.nodes().items():
        if "drain" in state.lower() or state.lower().startswith("down"):
            with contextlib.suppress(ClusterError):
                cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")


def too_few_tasks(cluster: Cluster, queue: Queue) -> bool:
    """Whether a user who looks would submit again: hardly any tasks are left for the open trials."""
    n_open = sum(state not in DONE for state in states(queue))
    return len(alive(cluster)) < min(2, n_open)


def finish(cluster: Cluster, queue: Queue, again: Callable[[], Any], within_s: float) -> int:
    """Wait until every trial is done, and submit again when SLURM has lost tasks; returns how often."""
    end, submitted = time.monotonic() + within_s, 0
    while any(state not in DONE for state in states(queue)):
        assert time.monotonic() < end, where_it_stands(cluster, queue)
        repair(cluster)
        if too_few_tasks(cluster, queue):
            again()
            submitted += 1
        time.sleep(1)
    return submitted


@pytest.fixture(scope="module")
def calm(cluster: Cluster, tiny, place: Path) -> Callable[[int], Queue]:
    """calm(n): an undisturbed sweep of n trials, run once."""
    made: dict[int, Queue] = {}

    def run(n: int) -> Queue:
        if n not in made:
            name, file = f"calm{n}", place / f"{n}.yaml"
            if n in SHORT:
                quick = {"steps": STEPS[n], "save_every": 5, "eval_every": 10, "pace": 0.1}
                write_grid(file, "tests/stand_in.py", quick, n)
            else:
                sweep_file(file, tiny, n, steps=STEPS[n])
            said = launch(cluster, *ask_for(place, file, name))
            assert said.count("array ") == 2, said  # six tasks where an array may have five
            made[n] = Queue(place / name)
            assert finish(cluster, made[n], lambda: pytest.fail(said), 60 + 12 * n) == 0
        return made[n]

    return run


@pytest.mark.parametrize("n", SIZES)
def test_each_trial_once(cluster: Cluster, calm, place: Path, n: int, record_property) -> None:
    queue = calm(n)
    assert states(queue) == ["finished"] * n
    for trial in queue.trials():
        assert len(queue.status(trial)["segments"]) == 1
        assert [p.name for p in queue.run_folder(trial).glob("lease.*")] == ["lease.1"]
    said = launch(cluster, str(place / f"{n}.yaml"), f"--out={place}", f"--name=calm{n}", "--status")
    assert f"{n} finished" in said and f"{n} expected" in said and "0 failed" in said
    assert said.count(f" {STEPS[n]}/{STEPS[n]} ") == n
    record_property("slurm", {"trials": n, "finished": n, "faults": 0})


class Storm:
    """Faults on a cluster, one after the other."""

    def __init__(self, cluster: Cluster, rng: random.Random):
        self.cluster, self.rng, self.done = cluster, rng, []

    def running(self) -> str | None:
        """A running task, as SLURM writes it."""
        tasks = [f"{j['array']}_{j['task']}" for j in self.cluster.jobs() if j["state"] == "RUNNING"]
        return self.rng.choice(tasks) if tasks else None

    def strike(self, what: str) -> None:
        task, node = self.running(), self.rng.choice(["n1", "n2"])
        if task is None:
            return
        with contextlib.suppress(ClusterError):  # it may have ended meanwhile
            if what == "requeue":
                self.cluster.run("scontrol", "requeue", task)
            elif what == "USR1":
                self.cluster.run("scancel", "--batch", "--signal=USR1", task)
            elif what == "KILL":
                self.cluster.run("scancel", "--signal=KILL", task)
            elif what == "crash":
                self.cluster.run("scancel", "--batch", "--signal=KILL", task)
            elif what == "time limit":
                self.cluster.run("scontrol", "update", f"JobId={task}", "EndTime=now+1")
            elif what == "slurmd":
                self.cluster.kill_slurmd(node)
                time.sleep(self.rng.uniform(0.5, 3))
                self.cluster.start_slurmd(node)
            elif what == "slurmctld":
                self.cluster.restart_slurmctld()
            self.done.append(what)


@pytest.mark.parametrize("n", SIZES)
def test_storm(cluster: Cluster, calm, place: Path, n: int, record_property) -> None:
    """Requeues, signals, kills, a lost daemon, a restart, a cancelled array: the rows of a calm sweep."""
    undisturbed = calm(n)
    again = ask_for(place, place / f"{n}.yaml", f"storm{n}", "--retry")
    launch(cluster, *again)
    queue, storm = Queue(place / f"storm{n}"), Storm(cluster, random.Random(n))
    kinds = ["USR1", "requeue", "slurmctld", "KILL", "slurmd", "crash", "time limit"]
    faults, end = iter(kinds if n < 20 else kinds * 2), time.monotonic() + 100 + 25 * n
    for fault in faults:
        while not storm.running() and any(state not in DONE for state in states(queue)):
            assert time.monotonic() < end, where_it_stands(cluster, queue)
            repair(cluster)
            if too_few_tasks(cluster, queue):
                launch(cluster, *again)
            time.sleep(0.3)
        time.sleep(storm.rng.uniform(0.3, 2))
        storm.strike(fault)
        if fault == kinds[len(kinds) // 2] and len(storm.done) < len(kinds):  # half way: stop it all
            said = launch(cluster, *again[:3], "--cancel")
            assert "cancelled" in said or "no task" in said
            left = states(queue)
            time.sleep(cluster.requeue_wait + 3)
            assert alive(cluster) == [] and states(queue) == left  # a cancelled array stays cancelled
            launch(cluster, *again)
    more = finish(cluster, queue, lambda: launch(cluster, *again), end - time.monotonic())
    assert states(queue) == ["finished"] * n
    assert len(queue.trials()) == n
    for trial in undisturbed.trials():
        mine, straight = (q.run_folder(trial) / "metrics.jsonl" for q in (queue, undisturbed))
        assert mine.read_bytes() == straight.read_bytes(), f"{trial}\n{where_it_stands(cluster, queue)}"
    assert len(set(storm.done)) >= 4, storm.done
    starts = sum(len(queue.status(trial)["segments"]) for trial in queue.trials())
    assert starts > n  # the storm did hit trainings
    found = {"trials": n, "finished": n, "faults": len(storm.done), "starts": starts, "submitted again": more}
    record_property("slurm", found)


def test_online_with_a_preemption(cluster: Cluster, tiny, place: Path, tally) -> None:
    """wandb agent in the array: on USR1 the agent ends, the task comes back, the run goes on under its id."""
    with Server() as server:
        env = server.env(place / "w") | {"HOME": os.environ["HOME"]}
        file = sweep_file(place / "online.yaml", tiny, 1, steps=1000)
        args = ask_for(place, file, "online", "--wandb=online", "--project=cluster", "--tasks=1")
        launch(cluster, *args, **env)
        (sweep,) = server.sweeps.values()
        online.until(lambda: sweep.members and sweep.members[0].rows, timeout_s=120)
        run = sweep.members[0]
        (task,) = [f"{j['array']}_{j['task']}" for j in cluster.jobs() if j["state"] == "RUNNING"]
        cluster.run("scancel", "--batch", "--signal=USR1", task)
        online.until(lambda: run.state == "preempted", timeout_s=60)
        assert [kind for kind, _ in sweep.orders] == ["run"]  # the agent took no other
        online.until(lambda: run.state == "finished", timeout_s=120)
        assert sweep.orders == [("run", run.name), ("resume", run.name)]
        assert run.history_states == ["running", "preempting", "preempted", "running", "finished"]
        tally(server, {run.name: place / "online" / run.name})
        assert server.refused == []
        online.until(lambda: not alive(cluster), timeout_s=60, every_s=0.5)


def test_jobs_run_the_snapshot(cluster: Cluster, tiny, place: Path) -> None:
    """The code is edited after submitting, and the jobs don't notice."""
    copy = place / "copy"
    for name in ("research", "data", "launch"):
        shutil.copytree(
            online.ROOT / name, copy / name, ignore=shutil.ignore_patterns("store", "__pycache__")
        )
    args = ask_for(place, sweep_file(place / "edit.yaml", tiny, 1, steps=5), "edit", "--sbatch=hold")
    said = launch(cluster, *args, root=copy)
    for script in (copy / "research" / "bvae_faces.py", copy / "launch" / "sweep" / "worker.py"):
        script.write_text("raise SystemExit('edited after submitting')\n")
    cluster.run("scontrol", "release", re.search(r"array (\d+)", said)[1])
    queue = Queue(place / "edit")
    finish(cluster, queue, lambda: pytest.fail(where_it_stands(cluster, queue)), 90)
    assert states(queue) == ["finished"]


@pytest.mark.parametrize(
    "given, says",
    [
        ("--partition=gpu", "--partition=gpu: not on this cluster; those that fit: cpu (10:00)"),
        ("--partition=short --time=5:00", "--time=5:00: over the limit of short (1:00); those that fit: cpu"),
        ("--time=2-0", "none is that long: cpu (10:00), short (1:00)"),
    ],
)
def test_refused_in_one_line(cluster: Cluster, tiny, place: Path, given: str, says: str) -> None:
    file = sweep_file(place / "refused.yaml", tiny, 1, steps=5)
    said = launch(cluster, str(file), f"--out={place}", *given.split(), code=2)
    assert says in said and len(said.strip().splitlines()) == 1, said
    assert not (place / "refused").exists()
    assert not [job for job in alive(cluster) if job["name"] == "refused"]
