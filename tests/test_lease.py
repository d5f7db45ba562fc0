"""Leases: when one is stale, who may take over, and what an owner does that has lost its run."""

import json
import multiprocessing
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from research import bvae_faces
from research.common import lease as leases
from research.common import start
from research.common.folder import read_json, write_json
from research.common.lease import Lease, Watch, acquire, adopt, deaths_without_progress, newest, process_start
from research.common.run import Preempted, Run
from tests.conftest import killed, results


class Clock:
    """Stands for time.monotonic of an observer."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leases.time, "monotonic", clock)
    return clock


def lay(folder: Path, n: int = 1, role: str = "train", **changes: Any) -> dict[str, Any]:
    """A lease of this very process, which is alive, with these changes."""
    info = leases._identity(role) | changes
    write_json(folder / f"lease.{n}", info)
    return info


ELSEWHERE = {"host": "elsewhere", "boot": "another boot", "pid": 1, "pid_start": "1"}


def is_stale(folder: Path, watch: Watch | None = None) -> bool:
    n, info = newest(folder)
    return (watch or Watch()).stale(folder, n, info)


# ------------------------------------------------------------------------------------- when it is stale


def test_alive_here(tmp_path, clock):
    lay(tmp_path)
    watch = Watch()
    assert not is_stale(tmp_path, watch)
    clock.now += leases.PATIENCE_S["train"] - 1
    assert not is_stale(tmp_path, watch)
    assert acquire(tmp_path, watch) is None


def test_no_lease_and_released(tmp_path):
    assert is_stale(tmp_path)
    lay(tmp_path, released="preempted")
    assert is_stale(tmp_path)
    lay(tmp_path, released="died")
    assert is_stale(tmp_path)


def test_pid_gone(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lay(tmp_path, pid=child.pid, pid_start=process_start(child.pid))
    assert not is_stale(tmp_path)
    child.kill()
    while process_start(child.pid) is not None:  # a zombie too is gone: nobody has waited for it yet
        time.sleep(0.01)
    assert child.returncode is None and is_stale(tmp_path)
    child.communicate()
    assert is_stale(tmp_path)


def test_pid_reused(tmp_path):
    lay(tmp_path, pid_start="12")
    assert process_start(os.getpid()) != "12" and is_stale(tmp_path)


@pytest.mark.parametrize("where", [ELSEWHERE, {"boot": "before the power cut"}])
def test_another_boot_must_stand_still(tmp_path, clock, where):
    """On another machine a pid says nothing, so the counter is watched by our own clock."""
    lay(tmp_path, **where, beats=5)
    watch = Watch()
    assert not is_stale(tmp_path, watch)
    clock.now += 119
    assert not is_stale(tmp_path, watch)
    clock.now += 2
    assert is_stale(tmp_path, watch)
    assert not is_stale(tmp_path, Watch())  # an observer that has just come can't know


def test_counter_that_moves_is_alive(tmp_path, clock):
    watch = Watch()
    for beat in range(20):
        lay(tmp_path, **ELSEWHERE, beats=beat)
        assert not is_stale(tmp_path, watch)
        clock.now += 100


def test_new_lease_is_watched_anew(tmp_path, clock):
    watch = Watch()
    lay(tmp_path, **ELSEWHERE)
    assert not is_stale(tmp_path, watch)
    clock.now += 110
    lay(tmp_path, n=2, **ELSEWHERE)
    assert not is_stale(tmp_path, watch)
    clock.now += 110
    assert not is_stale(tmp_path, watch)
    clock.now += 11
    assert is_stale(tmp_path, watch)


def test_worker_has_more_patience(tmp_path, clock):
    """A lease that does not beat while its training process starts up."""
    lay(tmp_path, role="worker", **ELSEWHERE)
    watch = Watch()
    is_stale(tmp_path, watch)
    clock.now += leases.PATIENCE_S["train"] + 1
    assert not is_stale(tmp_path, watch)
    clock.now += leases.PATIENCE_S["worker"] - leases.PATIENCE_S["train"]
    assert is_stale(tmp_path, watch)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_unreadable_lease_must_stand_still(tmp_path, clock, content):
    (tmp_path / "lease.3").write_bytes(content)
    watch = Watch()
    assert acquire(tmp_path, watch) is None
    clock.now += leases.PATIENCE_S["train"] + 1
    assert acquire(tmp_path, watch).n == 4


def test_other_files_are_no_leases(tmp_path):
    for name in (".lease.9.tmp", "lease.9.tmp", "lease.x", "lease."):
        (tmp_path / name).write_text("{}")
    assert newest(tmp_path) == (0, None)
    lay(tmp_path, 2)
    lay(tmp_path, 10)
    assert newest(tmp_path)[0] == 10


# ------------------------------------------------------------------------------------- SLURM


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """squeue(script): a `squeue` on PATH that does this; its calls are counted in tmp_path/asked."""

    def make(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        path = folder / "squeue"
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return make


def test_same_job_came_back(tmp_path, monkeypatch):
    lay(tmp_path, **ELSEWHERE, slurm_job="7", slurm_restarts=1)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for restarts, stale in (("1", False), ("2", True)):
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        assert is_stale(tmp_path) == stale
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("PATH", "")  # no squeue: can't be asked
    assert not is_stale(tmp_path)


@pytest.mark.parametrize(
    ("script", "stale"),
    [
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", True),
        ("exit 0", True),  # not listed any more
        ("echo CANCELLED", True),
        ("echo RUNNING", False),
        ("echo PENDING", False),  # requeued; its restart count will tell
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", False),
    ],
)
def test_job_in_squeue(tmp_path, squeue, script, stale):
    squeue(script)
    lay(tmp_path, **ELSEWHERE, slurm_job="7")
    assert is_stale(tmp_path) == stale
    assert (tmp_path / "asked").read_text() == "-h -o %T -j 7\n"


def test_squeue_that_hangs_says_nothing(tmp_path, squeue, monkeypatch):
    squeue("sleep 5")
    real = subprocess.run
    monkeypatch.setattr(leases.subprocess, "run", lambda *a, **k: real(*a, **(k | {"timeout": 0.2})))
    lay(tmp_path, **ELSEWHERE, slurm_job="7")
    assert not is_stale(tmp_path)


def test_squeue_is_not_asked_at_every_look(tmp_path, squeue, clock):
    squeue("echo RUNNING")
    lay(tmp_path, **ELSEWHERE, slurm_job="7")
    watch = Watch()
    for _ in range(10):
        is_stale(tmp_path, watch)
    assert len((tmp_path / "asked").read_text().split("\n")) == 2
    clock.now += 20
    is_stale(tmp_path, watch)
    assert len((tmp_path / "asked").read_text().split("\n")) == 3


# ------------------------------------------------------------------------------------- taking, handing over


def test_acquire_and_release(tmp_path):
    lease = acquire(tmp_path / "new", Watch())
    assert lease.n == 1 and lease.check() and acquire(tmp_path / "new", Watch()) is None
    lease.release("finished")
    assert read_json(lease.path)["released"] == "finished"
    assert acquire(tmp_path / "new", Watch()).n == 2
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["lease.1", "lease.2"]  # nothing unlinked


def test_adopt(tmp_path, monkeypatch):
    lease = acquire(tmp_path, Watch(), role="worker")
    assert adopt(tmp_path) is None  # nothing was handed over
    monkeypatch.setenv(leases.HANDOVER, str(lease.n))
    mine = adopt(tmp_path)
    assert mine.n == 1 and mine.check() and read_json(mine.path)["role"] == "train"
    assert leases.HANDOVER not in os.environ  # our own children must not take it for theirs
    monkeypatch.setenv(leases.HANDOVER, "1")
    assert adopt(tmp_path) is None  # adopted already


@pytest.mark.parametrize("what", ["newer", "released"])
def test_adopt_too_late(tmp_path, monkeypatch, what):
    lease = acquire(tmp_path, Watch(), role="worker")
    lease.release("died")
    if what == "newer":
        acquire(tmp_path, Watch(), role="worker")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setenv(leases.HANDOVER, "1")
    assert adopt(tmp_path) is None
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_lost_lease(tmp_path):
    lease = Lease(tmp_path, 1, lay(tmp_path, 1))
    assert lease.check()
    lay(tmp_path, 2)
    assert not lease.check() and lease.lost
    (tmp_path / "lease.2").unlink()
    assert not lease.check()  # once lost, lost
    lease.release("finished")
    assert read_json(tmp_path / "lease.1")["released"] is None


def test_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_S", 0.02)
    lease = acquire(tmp_path, Watch())
    lease.start_beating()
    until = time.monotonic() + 5
    while read_json(lease.path)["beats"] < 3:
        assert time.monotonic() < until
        time.sleep(0.01)
    lay(tmp_path, 2)
    lease._thread.join(5)
    assert lease.lost and not lease._thread.is_alive()
    assert read_json(tmp_path / "lease.2")["beats"] == 0


@pytest.mark.parametrize(
    ("attempts", "deaths"),
    [
        ([], 0),
        ([(0, None)], 1),
        ([(0, None), (0, None), (None, None)], 3),  # the last died before it had found its checkpoint
        ([(0, None), (0, "died"), (None, "died"), (5, None)], 2),  # the second reached 5
        ([(5, None), (5, None), (5, None)], 3),
        ([(5, None), (5, "preempted"), (5, None)], 1),
        ([(5, None), (5, None), (None, "retried")], 0),
        ([(5, None), (5, None), (5, "failed"), (5, None)], 1),
    ],
)
def test_deaths_without_progress(tmp_path, attempts, deaths):
    """(start step, how it ended) of each attempt. The newest checkpoint is of step 5, or of step 0 without
    any.
    """
    for n, (start_step, released) in enumerate(attempts, 1):
        lay(tmp_path, n, start_step=start_step, released=released)
    at = max((s or 0 for s, _ in attempts), default=0)
    assert deaths_without_progress(tmp_path, at) == deaths


# ------------------------------------------------------------------------------------- a fight


def fight(folder: Path, rounds: int, barrier: Any, answers: Any) -> None:
    for k in range(rounds):
        barrier.wait(30)
        lease = acquire(folder / str(k), Watch())
        answers.put((k, os.getpid(), lease.n if lease else None))
        barrier.wait(30)  # the winner is alive until all have looked


@pytest.mark.parametrize("stale", ["gone", "none"])
def test_one_owner_of_six(tmp_path, stale):
    """Six processes want one run at the same moment, 100 times: each time one gets it, by
    making lease N+1.
    """
    rounds, context = 100, multiprocessing.get_context("fork")
    for k in range(rounds):
        (tmp_path / str(k)).mkdir()
        if stale == "gone":
            lay(tmp_path / str(k), 3, pid_start="12")
    barrier, answers = context.Barrier(6), context.SimpleQueue()
    children = [context.Process(target=fight, args=(tmp_path, rounds, barrier, answers)) for _ in range(6)]
    for child in children:
        child.start()
    answers_of_all = [answers.get() for _ in range(6 * rounds)]
    for child in children:
        child.join(10)
        assert child.exitcode == 0
    for k in range(rounds):
        owners = [(pid, n) for round_, pid, n in answers_of_all if round_ == k and n is not None]
        assert len(owners) == 1
        n, info = newest(tmp_path / str(k))
        assert (info["pid"], n) == owners[0] and n == (4 if stale == "gone" else 1)
        assert not [p for p in (tmp_path / str(k)).iterdir() if p.suffix == ".tmp"]
    assert len({pid for _, pid, n in answers_of_all if n is not None}) > 1  # else it was no fight


# ------------------------------------------------------------------------------------- through training


@pytest.mark.usefixtures("dots")
class TestTraining:
    def test_owner_that_lost_at_a_save_leaves_without_writing(self, config, monkeypatch, capsys):
        real, seen = Run.save, {}

        def save(self: Run, model: Any, optimizer: Any, step: int) -> None:
            if step == 14:
                self._finish_media()
                lay(self.folder, 2)
                seen["before"] = everything(self.folder)
            real(self, model, optimizer, step)

        monkeypatch.setattr(Run, "save", save)
        with pytest.raises(Preempted):
            bvae_faces.train(cfg := config(log_every=1))
        (folder,) = Path(cfg.out).iterdir()
        assert everything(folder) == seen["before"]
        assert "was taken over by another process" in capsys.readouterr().err

    def test_owner_that_lost_between_saves_writes_no_row(self, config, monkeypatch):
        real, seen = Run.log, {}

        def log(self: Run, metrics: dict[str, Any], step: int) -> None:
            if step == 10:
                self._finish_media()
                lay(self.folder, 2)
                seen["before"] = everything(self.folder)
            real(self, metrics, step)

        monkeypatch.setattr(Run, "log", log)
        with pytest.raises(Preempted):
            bvae_faces.train(cfg := config(log_every=1, sample_every=10, eval_every=100))
        (folder,) = Path(cfg.out).iterdir()
        assert everything(folder) == seen["before"]

    def test_held_here_is_refused_at_once(self, config, tmp_path, capsys):
        cfg = config(name="mine")
        (tmp_path / "runs" / "mine").mkdir(parents=True)
        lay(tmp_path / "runs" / "mine")
        with pytest.raises(SystemExit) as stop:
            bvae_faces.train(cfg)
        said = capsys.readouterr().err.strip().split("\n")
        assert stop.value.code == 75 and len(said) == 1
        assert f"is being trained by process {os.getpid()} on {socket.gethostname()}" in said[0]
        assert [p.name for p in (tmp_path / "runs" / "mine").iterdir()] == ["lease.1"]

    @pytest.mark.parametrize("where", [ELSEWHERE, {"boot": "before the power cut"}])
    def test_held_elsewhere_is_watched(self, config, tmp_path, capsys, monkeypatch, clock, where):
        """After a power cut the host is the same, and the old process is not there to give its lease back."""
        cfg = config(steps=1)
        with killed("log", 0):
            bvae_faces.train(cfg)
        (folder,) = Path(cfg.out).iterdir()
        lay(folder, 2, **where)
        monkeypatch.setattr(start.time, "sleep", lambda s: setattr(clock, "now", clock.now + s))
        bvae_faces.train(cfg)
        assert "watching whether it is still alive" in capsys.readouterr().err
        assert 120 <= clock.now - 1000 <= 125 and newest(folder)[0] == 3
        assert read_json(folder / "status.json")["status"] == "finished"

    def test_alive_elsewhere_is_refused_when_it_beats(self, config, tmp_path, capsys, monkeypatch, clock):
        folder = tmp_path / "runs" / "mine"
        folder.mkdir(parents=True)
        lay(folder, **ELSEWHERE)

        def sleep(seconds: float) -> None:
            clock.now += seconds
            if clock.now > 1010:
                lay(folder, **ELSEWHERE, beats=1)
            assert clock.now < 1020

        monkeypatch.setattr(start.time, "sleep", sleep)
        with pytest.raises(Preempted):
            bvae_faces.train(config(name="mine"))
        assert "is being trained by process 1 on elsewhere" in capsys.readouterr().err

    def test_three_deaths_make_it_failed(self, config, capsys):
        cfg = config()
        for _ in range(3):
            with killed("log", 8):
                bvae_faces.train(cfg)
        (folder,) = Path(cfg.out).iterdir()
        assert [read_json(folder / f"lease.{n}")["start_step"] for n in (1, 2, 3)] == [0, 7, 7]
        with killed("log", 8):  # the first attempt made progress: two deaths at step 7 so far
            bvae_faces.train(cfg)
        with pytest.raises(SystemExit) as stop:
            bvae_faces.train(cfg)
        assert stop.value.code == 1 and "died 3 times at step 7" in capsys.readouterr().err
        status = read_json(folder / "status.json")
        assert (status["status"], status["reason"]) == ("failed", "died 3 times at step 7")
        bvae_faces.train(cfg)  # asked once more, it tries once more
        assert read_json(folder / "status.json")["status"] == "finished"

    def test_finished_while_we_waited(self, config, tmp_path, monkeypatch, clock, capsys):
        bvae_faces.train(cfg := config(steps=1))
        (folder,) = Path(cfg.out).iterdir()
        whole, done = results(folder), (folder / "status.json").read_text()
        write_json(folder / "status.json", json.loads(done) | {"status": "running"})
        lay(folder, 2, **ELSEWHERE)

        def sleep(seconds: float) -> None:
            (folder / "status.json").write_text(done)
            lay(folder, 2, **ELSEWHERE, released="finished")

        monkeypatch.setattr(start.time, "sleep", sleep)
        bvae_faces.train(cfg)
        assert "is already finished" in capsys.readouterr().err and results(folder) == whole
        assert read_json(folder / "lease.3")["released"] == "finished"


def everything(folder: Path) -> dict[str, bytes]:
    """All files except the leases, whose counters change."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("lease.")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_a_living_holder_is_not_stale_because_slurm_lost_its_job(tmp_path, monkeypatch):
    """Workers that outlive their batch shell must not keep taking each other's runs."""
    monkeypatch.setattr(leases, "_slurm_has_lost", lambda job: True)
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    first = leases.acquire(tmp_path, leases.Watch())
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    assert leases.acquire(tmp_path, leases.Watch()) is None
    first.update(pid_start="gone")
    assert leases.acquire(tmp_path, leases.Watch()).n == 2


def test_to_be_taken_over_is_not_to_die(tmp_path):
    for _ in range(4):
        lease = leases.acquire(tmp_path, leases.Watch())
        lease.update(start_step=0, pid_start="gone")
        lease.yield_to_other()
    assert leases.deaths_without_progress(tmp_path, 0) == 0
