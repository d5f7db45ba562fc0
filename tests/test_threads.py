"""How many threads a run uses when other processes use the cores."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from research.bvae_faces import train
from research.common import threads
from research.common.folder import read_json
from research.common.run import Preempted, Run


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clock(monkeypatch):
    """A clock and the seconds that threads have waited, both moved by hand."""
    now = {"s": 100.0, "waited": 5.0}
    monkeypatch.setattr(threads.time, "monotonic", lambda: now["s"])
    monkeypatch.setattr(threads, "waited_s", lambda: now["waited"])
    torch.set_num_threads(2)
    return now


def go(clock: dict, seconds: int, share: float, crowd: threads.Crowd) -> list[bool]:
    """What is noticed in each of the next seconds, in which threads wait for this share of the time."""
    seen = []
    for _ in range(seconds):
        clock["s"] += 1.0
        clock["waited"] += share
        seen.append(crowd.noticed())
    return seen


def test_a_crowd_is_noticed_after_some_seconds(clock):
    crowd = threads.Crowd()
    assert not any(go(clock, 60, 0.1, crowd))
    assert go(clock, 6, 0.7, crowd) == [False] * 4 + [True] * 2


def test_a_video_of_our_own_is_no_crowd(clock):
    crowd = threads.Crowd()
    for _ in range(5):
        assert not any(go(clock, 4, 1.0, crowd) + go(clock, 1, 0.0, crowd))


def test_one_long_step_is_not_enough(clock):
    crowd, seen = threads.Crowd(), []
    for _ in range(2):
        clock["s"] += 20.0
        clock["waited"] += 14.0
        seen.append(crowd.noticed())
    assert seen == [False, True]


def test_one_thread_waits_for_nobody(clock):
    torch.set_num_threads(1)
    assert not any(go(clock, 60, 1.0, threads.Crowd()))


def test_where_the_system_does_not_tell_nothing_is_noticed(clock, monkeypatch):
    monkeypatch.setattr(threads, "waited_s", lambda: None)
    assert not any(go(clock, 60, 1.0, threads.Crowd()))


@pytest.mark.parametrize(
    ("running", "free"), [("1/90", 8), ("3/90", 6), ("8/90", 1), ("70/90", 1), ("x/y", 8)]
)
def test_free_cores(monkeypatch, running, free):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(threads.Path, "read_text", lambda *_, **__: f"0.9 0.8 0.7 {running} 123\n")
    assert threads.free_cores() == free


@pytest.mark.parametrize(
    ("asked", "before", "free", "got"),
    [(3, 2, 1, 3), (None, 3, 1, 3), (None, None, 1, 1), (None, None, 8, 2), (1, None, 8, 1)],
)
def test_what_was_asked_for_comes_first(monkeypatch, asked, before, free, got):
    monkeypatch.setattr(threads, "free_cores", lambda: free)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    threads.set_threads(asked, before)
    assert torch.get_num_threads() == got


def test_the_share_that_a_launcher_gives_is_taken(monkeypatch):
    monkeypatch.setattr(threads, "free_cores", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    threads.set_threads(None)
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long threads wait")
def test_waiting_is_seen_where_more_want_to_run_than_there_are_cores():
    code = "import time; t = time.time()\nwhile time.time() < t + 6: pass"
    strangers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        before, end = threads.waited_s(), threads.time.monotonic() + 3
        while threads.time.monotonic() < end:
            pass
        assert threads.waited_s() - before > 0.3
    finally:
        for one in strangers:
            one.kill()
            one.wait()


def test_a_run_makes_room_and_goes_on_so(config, monkeypatch, capsys):
    monkeypatch.setattr(threads.Crowd, "noticed", lambda self: torch.get_num_threads() > 1)
    monkeypatch.setattr(threads, "free_cores", lambda: 2)
    torch.set_num_threads(2)
    cfg = config(threads=None, save_every=1)

    save = Run.save

    def stop_at_3(self, model, optimizer, step):
        save(self, model, optimizer, step)
        if step == 3:
            self._signal = "SIGTERM"

    monkeypatch.setattr(Run, "save", stop_at_3)
    with contextlib.suppress(Preempted):
        train(cfg)
    (folder,) = (path.parent for path in Path(cfg.out).glob("*/status.json"))
    assert [s["threads"] for s in read_json(folder / "status.json")["segments"]] == [1]
    monkeypatch.setattr(Run, "save", save)
    torch.set_num_threads(2)
    train(cfg)
    assert torch.get_num_threads() == 1
    said = capsys.readouterr().err
    assert said.count("one thread from step 0 on") == 1 and "not bit-exact" not in said


def test_threads_that_were_asked_for_stay(config, monkeypatch):
    monkeypatch.setattr(threads.Crowd, "noticed", lambda self: True)
    train(config(threads=2))
    assert torch.get_num_threads() == 2
