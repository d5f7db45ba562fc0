"""bayes with hyperband and --confirm through launch/local.py, killed at random moments and continued.

The quick form trains a stand-in without torch; the soak the tiny faces.
"""

import contextlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from launch.sweep import bayes, early_stop
from launch.sweep.history import Histories
from launch.sweep.proposer import Proposer
from launch.sweep.queue import DONE, Queue
from research.common import lease as leases
from research.common.folder import HYPERBAND, read_json, write_json
from tests.soak_kills import children, ended_once
from tests.test_local import ROOT, SWEEP, Place
from tests.test_local import place as place  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore")  # the engine is written for an older pydantic, and says so
RULE = {"type": "hyperband", "min_iter": 2, "eta": 4}  # greedy: only about a quarter goes on at each band
QUICK = {
    "program": "research/stand_in.py",
    "method": "bayes",
    "run_cap": 10,
    "metric": {"name": "val/loss_best", "goal": "minimize"},
    "early_terminate": RULE,
    "parameters": {
        "x": {"min": 0.0, "max": 1.0},
        "kind": {"values": ["a", "b"]},
        **{
            k: {"value": v}
            for k, v in {
                "seed": 3,
                "steps": 60,
                "eval_every": 6,
                "save_every": 7,
                "pace": 0.02,
                "n": 2,
            }.items()
        },
    },
}
FACES = SWEEP | {
    "method": "bayes",
    "run_cap": 10,
    "early_terminate": RULE,
    "parameters": SWEEP["parameters"]
    | {
        "beta": {"min": 0.0, "max": 20.0},
        "learning_rate": {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.03},
        **{k: {"value": v} for k, v in {"steps": 1200, "eval_every": 100, "save_every": 30}.items()},
    },
}


def kill_one(rng: random.Random, folder: Path, local: int) -> str | None:
    """Send kill -9 to a training process, a worker or local.py; returns which, or None if nothing is being
    trained.
    """
    kind, workers = rng.choices(["training", "worker", "local.py"], [0.55, 0.35, 0.1])[0], children(local)
    held = (leases.newest(path.parent)[1] for path in folder.glob("*/lease.1"))
    training = [
        info["pid"]
        for info in held
        if info
        and info["role"] == "train"
        and not info["released"]
        and leases.process_start(info["pid"]) == info["pid_start"]
    ]
    training = [pid for pid in training if pid not in workers]  # one that proposes holds such a lease too
    if not training or not workers:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(
            rng.choice({"training": training, "worker": workers, "local.py": [local]}[kind]), signal.SIGKILL
        )
    return kind


def storm(at: Place, file: str, kills: int, every_s: float, seed: int) -> Counter:
    """Run the sweep to its end with the same command, again and again, while its processes are killed."""
    rng, folder, log = (
        random.Random(seed),
        at.folder / "runs" / Path(file).stem,
        at.folder / "storm.err",
    )
    killed, more, end = Counter(), [], time.monotonic() + 1200
    while True:
        local, due = (
            at.fork(log, file, "--confirm=2", *more),
            time.monotonic() + rng.uniform(0, 2 * every_s),
        )
        while (ended := os.waitpid(local, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < end, log.read_text()[-3000:]
            if killed.total() < kills and time.monotonic() > due:
                if kind := kill_one(rng, folder, local):
                    killed[kind] += 1
                due = time.monotonic() + rng.uniform(0, 2 * every_s)
            time.sleep(0.02)
        code = os.waitstatus_to_exitcode(ended[1])
        assert code in (0, 1, 75, -signal.SIGKILL), log.read_text()[-3000:]
        if code == 0:
            return killed
        more = ["--retry"] if code == 1 else []  # three deaths in a row while starting: as a user would


def check(folder: Path, spec: dict, cap: int, confirm: int) -> Counter:
    """Nothing is lost, nothing counts twice, and every proposal and decision can be computed again."""
    queue, counts = Queue(folder), Counter()
    histories, trials = Histories(queue, spec), queue.trials()
    chosen = queue.chosen()
    assert [trial.index for trial in trials] == list(range(cap + confirm)) and len(chosen) == cap
    assert len({trial.key for trial in trials}) == len(trials)
    assert not Proposer(queue, spec).wanted() and Proposer(queue, spec).planned() == cap + confirm
    folders = {path.parent.name for path in folder.glob("*/config.json")}
    assert folders == {trial.key for trial in trials}

    value = {}
    for trial in trials:
        status = queue.status(trial)
        counts[status["status"]] += 1
        value[trial.key] = histories.value(trial, status)
        assert status["status"] in DONE, (trial, status)
        attempts = {p.name: read_json(p) for p in queue.run_folder(trial).glob("lease.*")}
        assert ended_once(queue.run_folder(trial)), attempts
        steps = [step for step, _ in histories.logged(trial)]
        assert steps == sorted(set(steps))

    for trial in chosen:
        seen = read_json(queue.trial_file(trial))["seen"]
        assert [key for key, _, _ in seen] == [other.key for other in chosen[: trial.index]]
        assert all(seen_value == value[key] for key, state, seen_value in seen if state in DONE)
        assert bayes.recompute(queue, spec, trial) == trial.flags
        counts["proposed"] += 1

    known = {trial.index: histories.of(trial) for trial in chosen}
    for trial in chosen:
        made, status = early_stop.decisions(queue.run_folder(trial)), queue.status(trial)
        assert [row["evaluation"] for row in made] == list(range(1, len(made) + 1))
        for row in made:
            assert row["value"] == known[trial.index][row["evaluation"] - 1]
            again = early_stop.recompute(spec, row, known[trial.index], known)
            assert again == {k: v for k, v in row.items() if k not in ("evaluation", "step", "value")}
            counts["decisions"] += 1
        assert not any(row["stop"] for row in made[:-1])
        if status["status"] == "stopped":
            assert made[-1]["stop"] and early_stop.is_early(status["reason"]), status
            assert len(histories.logged(trial)) >= made[-1]["evaluation"]
        elif made and made[-1]["stop"]:  # it was at its end already
            assert status["status"] == "diverged" or status["step"] == status["steps"]

    best = Proposer(queue, spec).best()
    more = trials[cap:]
    assert [(trial.confirms, trial.flags["seed"]) for trial in more] == [
        (best.key, best.flags["seed"] + k) for k in range(1, confirm + 1)
    ]
    assert all(not (queue.run_folder(t) / HYPERBAND).exists() for t in more)
    return counts


@pytest.mark.parametrize(
    "attempts, once",
    [
        ([{"released": "finished"}], True),
        ([{"released": "died"}, {}, {"released": "finished"}], True),
        ([{}], True),  # killed between its last status and the end of W&B
        ([{"pid_start": None}], False),  # it is still at it: this process has no such start
        ([{}, {"role": "worker"}], False),  # the worker's training process never began
        ([{"released": "finished"}, {"released": "finished"}], False),
        ([{"released": "stopped"}], False),  # what it said then is not what the folder says
        ([{"released": "died"}], False),
        ([], False),
    ],
)
def test_what_counts_as_an_end(tmp_path, attempts, once):
    write_json(tmp_path / "status.json", {"status": "finished"})
    for n, attempt in enumerate(attempts, 1):
        me = {"role": "train", "pid": os.getpid(), "pid_start": "another", "released": None} | attempt
        if me["pid_start"] is None:
            me["pid_start"] = leases.process_start(os.getpid())
        write_json(tmp_path / f"lease.{n}", me)
    assert ended_once(tmp_path) == once


def test_a_search_that_is_killed_and_continued(place, capsys):
    shutil.copy(ROOT / "tests" / "stand_in.py", place.project / "research")
    (place.folder / "search.yaml").write_text(yaml.safe_dump(QUICK))
    killed = storm(place, "search.yaml", kills=9, every_s=0.5, seed=4)
    folder = place.folder / "runs" / "search"
    counts = check(folder, QUICK, 10, 2)
    with capsys.disabled():
        print(f"\nkilled {dict(killed)}; {dict(counts)}")
    assert counts["stopped"], "the test means nothing without an early stop"

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json*")}
    code, text = place.forked("search.yaml", "--confirm=3")  # one more, on a folder that was done
    assert code == 0 and "13 trials, 1 of them open" in text, text
    assert "confirmed over 3 further seeds: val/loss_best" in text, text
    assert before.items() <= {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json*")}.items()
    check(folder, QUICK, 10, 3)


def test_sweeps_that_had_no_end(place):
    """A grid with fewer runs than points; a metric that is never logged."""
    shutil.copy(ROOT / "tests" / "stand_in.py", place.project / "research")
    parameters = {"x": {"values": [0.5, 0.5]}, "log_every": {"values": [10, 50]}, "steps": {"value": 6}}
    content = {"program": "research/stand_in.py", "method": "grid", "parameters": parameters}
    (place.folder / "few.yaml").write_text(yaml.safe_dump(content))
    code, text = place.forked("few.yaml")
    assert code == 0 and "1 trial, 1 of them open" in text and "ended with" not in text, text

    for name, more in (
        (
            "search",
            {"method": "bayes", "run_cap": 9, "parameters": QUICK["parameters"] | {"steps": {"value": 6}}},
        ),
        (
            "grid",
            {"parameters": {"x": {"values": [0.5, 0.6]}, "steps": {"value": 6}}, "early_terminate": RULE},
        ),
    ):
        sweep = content | {"metric": {"name": "val/x", "goal": "minimize"}} | more
        (place.folder / f"blind-{name}.yaml").write_text(yaml.safe_dump(sweep))
        code, text = place.forked(f"blind-{name}.yaml", *["--confirm=1"] * (name == "grid"))
        line = "logged no val/x; it logs val/loss, val/loss_best"
        assert code == 2 and text.count(line) == 2 and text.splitlines()[-1].startswith("error: 000"), text
        assert ("no trial finished with a value of val/x" in text) == (name == "grid"), text
        trials = Queue(place.folder / "runs" / f"blind-{name}").trials()
        assert len(trials) == 2 if name == "grid" else 3 <= len(trials) <= 4, text


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
def test_a_search_over_faces_that_is_killed_and_continued(place, capsys, seed):
    file = f"faces-{seed}.yaml"
    (place.folder / file).write_text(yaml.safe_dump(FACES))
    killed = storm(place, file, kills=25, every_s=3.0, seed=seed)
    counts = check(place.folder / "runs" / Path(file).stem, FACES, 10, 2)
    with capsys.disabled():
        print(f"\nkilled {dict(killed)}; {dict(counts)}")
