"""The points of a sweep, and the queue that any number of workers share although any of them may die."""

import errno
import itertools
import json
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.sweep.points import Points, as_args
from launch.sweep.queue import DONE, Queue
from research.common import lease as leases
from research.common.folder import read_json, write_json
from research.common.lease import Watch

pytestmark = pytest.mark.filterwarnings("ignore")  # the engine is written for an older pydantic, and says so
FORK = multiprocessing.get_context("fork")
GRID = {
    "method": "grid",
    "parameters": {
        "beta": {"values": [0, 0.5, 4]},
        "compile": {"values": [True, False]},
        "name": {"values": ["a", None]},
        "steps": {"value": 10},
    },
}
RANDOM = {
    "method": "random",
    "run_cap": 12,
    "parameters": {
        "learning_rate": {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.1},
        "width": {"distribution": "int_uniform", "min": 4, "max": 64},
        "latent_dim": {"distribution": "q_uniform", "min": 2, "max": 8, "q": 2},
        "precision": {"values": ["fp32", "bf16"]},
    },
}


def frozen(point: dict) -> str:
    return json.dumps(point, sort_keys=True)


def finish(queue: Queue, trial, status: str = "finished", step: int = 1) -> None:
    write_json(queue.run_folder(trial) / "status.json", {"status": status, "step": step, "reason": None})


def queue_of(folder: Path, n: int) -> Queue:
    queue = Queue(folder)
    for i in range(n):
        queue.add({"seed": i}, f"key{i}")
    return queue


def in_processes(n: int, target, *args) -> list:
    """The results of `target(i, *args)` in each of n processes that start together."""
    results, barrier = FORK.SimpleQueue(), FORK.Barrier(n)

    def body(i: int) -> None:
        barrier.wait()
        try:
            results.put((i, target(i, *args)))
        except BaseException as error:
            results.put((i, error))  # else the parent would wait for ever
            raise

    started = [FORK.Process(target=body, args=(i,)) for i in range(n)]
    for process in started:
        process.start()
    returned = dict(results.get() for _ in started)
    for process in started:
        process.join()
        assert process.exitcode == 0
    return [returned[i] for i in range(n)]


# ---- points --------------------------------------------------------------------------------------------


def test_a_grid_is_the_product_each_point_once():
    made = list(Points(GRID))
    expected = [
        {"beta": beta, "compile": flag, "name": name, "steps": 10}
        for beta, flag, name in itertools.product([0, 0.5, 4], [True, False], ["a", None])
    ]
    assert len(made) == 12
    assert sorted(map(frozen, made)) == sorted(map(frozen, expected))
    kinds = {type(value) for point in made for value in point.values()}
    assert kinds <= {int, float, bool, str, type(None)}  # plain: numpy's own would not go into JSON


def test_random_points_are_a_function_of_parameters_and_index():
    random.seed(1)
    first = list(Points(RANDOM))
    random.seed(2)
    np.random.seed(2)
    assert list(Points(RANDOM)) == first
    assert len(first) == len(set(map(frozen, first))) == 12
    assert list(Points(RANDOM | {"run_cap": 5})) == first[:5]
    wider = RANDOM["parameters"] | {"width": {"distribution": "int_uniform", "min": 4, "max": 65}}
    assert list(Points(RANDOM | {"parameters": wider})) != first
    for point in first:
        assert 0.0001 <= point["learning_rate"] <= 0.1 and 4 <= point["width"] <= 64
        assert point["latent_dim"] in (2, 4, 6, 8) and point["precision"] in ("fp32", "bf16")
        assert json.loads(json.dumps(point)) == point
        assert {type(value) for value in point.values()} <= {int, float, str}
    assert len({point["learning_rate"] for point in first}) == 12  # the engine's generators are seeded anew


def test_as_args():
    args = as_args({"beta": 4, "learning_rate": 0.001, "compile": True, "name": None})
    assert args == ["--beta=4", "--learning_rate=0.001", "--compile=True", "--name=None"]


# ---- adding --------------------------------------------------------------------------------------------


def test_a_trial_is_made_once(tmp_path):
    queue = Queue(tmp_path / "sweep")
    assert queue.trials() == []
    a, b = queue.add({"beta": 0.5}, "aaa"), queue.add({"beta": None}, "bbb")
    assert [a.index, b.index] == [0, 1]
    assert queue.add({"beta": 0.5}, "aaa") == a
    assert Queue(tmp_path / "sweep").trials() == [a, b] == queue.trials()
    assert read_json(tmp_path / "sweep/trials/0001.json") == {
        "index": 1,
        "flags": {"beta": None},
        "key": "bbb",
    }


def test_a_trial_at_its_own_index_or_not_at_all(tmp_path):
    queue, late = Queue(tmp_path), Queue(tmp_path)
    assert late.trials() == []
    assert queue.add({"beta": 1}, "aaa", at=0, seen=[]).index == 0
    assert late.add({"beta": 2}, "bbb", at=0) is None and late.add({"beta": 2}, "bbb", at=2) is None
    again = late.add({"beta": 1, "seed": 3}, "ccc", confirms="aaa")
    assert [trial.key for trial in queue.trials()] == ["aaa", "ccc"]
    assert [trial.key for trial in queue.chosen()] == ["aaa"] and queue.trials()[1] == again
    assert read_json(queue.trial_file(again)) == {
        "index": 1,
        "flags": {"beta": 1, "seed": 3},
        "key": "ccc",
        "confirms": "aaa",
    }


def test_two_machines_may_add_with_the_same_process_id(tmp_path, monkeypatch):
    here, there, real = Queue(tmp_path), Queue(tmp_path), os.link

    def link(*args) -> None:
        monkeypatch.setattr(os, "link", real)
        there.add({"beta": 1}, "there")
        real(*args)

    monkeypatch.setattr(os, "link", link)
    assert here.add({"beta": 0}, "here").index == 1
    assert [(t.key, t.flags["beta"]) for t in Queue(tmp_path).trials()] == [("there", 1), ("here", 0)]


def add_many(i: int, folder: Path) -> None:
    queue, own = Queue(folder), [f"own-{i}-{k}" for k in range(30)]
    keys = [x for pair in zip(own, [f"shared-{k}" for k in range(30)]) for x in pair]
    for key in keys:
        assert queue.add({"name": key}, key).key == key


def test_adding_from_several_processes(tmp_path):
    in_processes(4, add_many, tmp_path)
    trials = Queue(tmp_path).trials()
    keys = [trial.key for trial in trials]
    assert len(keys) == len(set(keys)) == 4 * 30 + 30
    assert [trial.index for trial in trials] == list(range(150))
    assert all(trial.flags == {"name": trial.key} for trial in trials)
    assert sorted(p.name for p in (tmp_path / "trials").iterdir()) == [f"{i:04d}.json" for i in range(150)]


# ---- claiming ------------------------------------------------------------------------------------------


def claim_all(i: int, folder: Path) -> list[str]:
    """Claim trials until there are none, with a little work on each; returns their keys."""
    queue, watch, mine = Queue(folder), Watch(), []
    while claim := queue.claim(watch):
        trial, lease = claim
        mine.append(trial.key)
        time.sleep(0.005)
        finish(queue, trial)
        lease.release("finished")
    return mine


def test_claims_are_exclusive_among_processes(tmp_path):
    queue_of(tmp_path, 40)
    claimed = in_processes(4, claim_all, tmp_path)
    assert sorted(key for keys in claimed for key in keys) == sorted(f"key{i}" for i in range(40))
    assert len([keys for keys in claimed if keys]) >= 2, "the test means nothing unless several took part"


def test_a_held_trial_is_not_given_away(tmp_path):
    queue, watch = queue_of(tmp_path, 2), Watch()
    (a, first), (b, _) = queue.claim(watch), queue.claim(watch)
    assert [a.index, b.index] == [0, 1]
    assert queue.claim(watch) is None and Queue(tmp_path).claim(Watch()) is None
    assert len(list(queue.open_trials())) == 2
    first.release("preempted")
    again, lease = queue.claim(watch)
    assert (again, lease.n) == (a, 2)


def test_what_others_hold_comes_last_and_is_tried_once(tmp_path, monkeypatch):
    """If others hold 40 of 100 trials, a worker does the other 60 and hardly meets the 40."""
    others, queue, watch = queue_of(tmp_path, 100), Queue(tmp_path), Watch()
    held = {trial.key: lease for trial, lease in (others.claim(watch) for _ in range(40))}
    tried, acquire = [], leases.acquire
    monkeypatch.setattr(leases, "acquire", lambda *args, **kw: tried.append(args[0]) or acquire(*args, **kw))
    for _ in range(60):
        trial, lease = queue.claim(watch)
        finish(queue, trial)
        lease.release("finished")
    assert len(tried) == len(set(tried)) <= 100  # none of the 40 twice while others are open
    assert queue.claim(watch) is None and len(list(queue.open_trials())) == 40
    for lease in held.values():
        lease.release("preempted")
    assert {queue.claim(watch)[0].key for _ in range(40)} == set(held)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EROFS])
def test_an_error_that_every_trial_would_meet_fails_none(tmp_path, monkeypatch, number):
    queue = queue_of(tmp_path, 3)

    def meets(folder: Path, *_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(folder))

    with monkeypatch.context() as patch, pytest.raises(OSError, match=os.strerror(number)):
        patch.setattr(leases, "acquire", meets)
        queue.claim(Watch())
    assert [queue.status(trial)["status"] for trial in queue.trials()] == ["open"] * 3
    assert len(list(queue.open_trials())) == 3 and not list((tmp_path / "trials").glob("*.failed"))


def test_trials_added_by_others_are_found(tmp_path):
    queue, watch = queue_of(tmp_path, 1), Watch()
    other = Queue(tmp_path)
    assert queue.claim(watch)[0].index == 0
    other.add({"seed": 7, "beta": 4}, "late")
    assert queue.claim(watch)[0].key == "late"
    assert queue.varied() == ["seed", "beta"]
    assert [queue.add({"seed": 8}, "later").index, other.add({"seed": 9}, "last").index] == [2, 3]


@pytest.mark.parametrize("status", [*DONE, "failed"])
def test_what_has_ended_is_skipped(tmp_path, status):
    queue = queue_of(tmp_path, 2)
    (tmp_path / "key0").mkdir()
    finish(queue, queue.trials()[0], status)
    assert [trial.key for trial in queue.open_trials()] == ["key1"]
    trial, lease = queue.claim(Watch())
    assert trial.key == "key1"
    lease.release("preempted")
    assert leases.newest(tmp_path / "key0")[0] == 0


@pytest.mark.parametrize("status", ["running", "preempted"])
def test_what_was_interrupted_is_open(tmp_path, status):
    queue = queue_of(tmp_path, 1)
    (tmp_path / "key0").mkdir()
    finish(queue, queue.trials()[0], status)
    assert queue.claim(Watch())[0].key == "key0"


def test_a_trial_that_ends_between_look_and_lease_is_not_run_again(tmp_path, monkeypatch):
    queue = queue_of(tmp_path, 1)
    acquire = leases.acquire

    def late(folder, watch, role):
        folder.mkdir()
        finish(queue, queue.trials()[0])
        return acquire(folder, watch, role)

    monkeypatch.setattr(leases, "acquire", late)
    assert queue.claim(Watch()) is None
    assert leases.newest(tmp_path / "key0")[1]["released"] == "finished"


def die_holding(i: int, folder: Path) -> str:
    return Queue(folder).claim(Watch())[0].key  # and the process ends without giving it back


def test_an_abandoned_claim_is_taken_over(tmp_path):
    queue = queue_of(tmp_path, 1)
    assert in_processes(1, die_holding, tmp_path) == ["key0"]
    assert leases.newest(tmp_path / "key0")[1]["pid"] != os.getpid()
    trial, lease = queue.claim(Watch())
    assert (trial.key, lease.n) == ("key0", 2)


def test_three_deaths_without_progress_fail_a_trial_and_retry_opens_it(tmp_path):
    queue = queue_of(tmp_path, 1)
    for _ in range(leases.MAX_DEATHS):
        assert in_processes(1, die_holding, tmp_path) == ["key0"]
    assert queue.claim(Watch()) is None
    status = queue.status(queue.trials()[0])
    assert (status["status"], status["reason"]) == ("failed", "died 3 times at step 0")
    assert list(queue.open_trials()) == [] and queue.claim(Watch()) is None
    assert queue.retry_failed(Watch()) == 1
    assert queue.retry_failed(Watch()) == 0
    assert [trial.key for trial in queue.open_trials()] == ["key0"]
    assert queue.claim(Watch())[0].key == "key0"  # deaths before the retry do not count any more


def test_deaths_with_progress_do_not_fail_a_trial(tmp_path):
    queue = queue_of(tmp_path, 1)
    folder = tmp_path / "key0"
    (folder / "checkpoints").mkdir(parents=True)
    for attempt in range(5):  # each died, but left a newer checkpoint than the one it started from
        trial, lease = queue.claim(Watch())
        lease.update(start_step=10 * attempt)
        (folder / "checkpoints" / f"step_{10 * attempt + 10:08d}_{0:08x}.pt").write_bytes(b"")
        lease.release("died")
    for _ in range(leases.MAX_DEATHS):  # from here on none gets any further
        trial, lease = queue.claim(Watch())
        lease.update(start_step=50)
        lease.release("died")
    assert queue.claim(Watch()) is None
    assert queue.status(trial)["reason"] == "died 3 times at step 50"


def test_preempted_attempts_are_no_deaths(tmp_path):
    queue = queue_of(tmp_path, 1)
    for _ in range(2 * leases.MAX_DEATHS):
        _, lease = queue.claim(Watch())
        lease.release("preempted")
    assert queue.claim(Watch())[1].n == 2 * leases.MAX_DEATHS + 1


def test_fail_leaves_a_run_alone_that_another_has_taken(tmp_path):
    queue = queue_of(tmp_path, 1)
    trial, lease = queue.claim(Watch())
    write_json(lease.path, lease.info | {"released": "died"})
    queue.claim(Watch())
    queue.fail(trial, lease, "too late")
    assert queue.status(trial) == {"status": "open"}


def test_a_thousand_trials(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # how fast the disk is, is not the question here
    began = time.perf_counter()
    queue = queue_of(tmp_path, 1000)
    added = time.perf_counter()
    watch, count = Watch(), 0
    while claim := queue.claim(watch):
        finish(queue, claim[0])
        claim[1].release("finished")
        count += 1
    with capsys.disabled():
        print(
            f"\n1,000 trials: added in {added - began:.1f} s, claimed and finished in "
            f"{time.perf_counter() - added:.1f} s"
        )
    assert count == 1000 and next(queue.open_trials(), None) is None
