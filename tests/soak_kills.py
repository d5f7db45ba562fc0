"""A storm of kill -9 over a sweep: nothing is lost, nothing counts twice, and no number changes.

    python tests/soak_kills.py                       # about six minutes on two cores
    python tests/soak_kills.py --kills=40 --seed=7

An undisturbed sweep of six trials is the reference. The same sweep is then run by `launch/local.py`, started
again by the same command whenever it is gone, while training processes, workers and local.py itself are
killed at random moments; and once more by two local.py on one folder at the same time. Every metrics.jsonl
and final checkpoint must equal the reference's by bytes. Prints the figures; exit code 1 on any difference.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
if not __package__:
    sys.path[0] = str(ROOT)

from research.common import lease as leases  # noqa: E402
from research.common.folder import DONE, read_json  # noqa: E402

KINDS = {"training": 0.6, "worker": 0.25, "local.py": 0.15}


@dataclass
class Storm:
    """What was killed, and what happened then."""

    folder: Path
    seed: int
    kills: int  # at least so many,
    while_running: int  # of which at least so many hit a run whose status was `running`
    n_seeds: int = 3  # trials: 2 values of beta times so many seeds
    steps: int = 1500
    log: list[tuple[str, bool]] = field(default_factory=list)  # (kind, whether a run was running)
    starts: int = 0
    retries: int = 0
    differences: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        for name in ("research", "data", "launch"):  # a copy, so that the code may be edited meanwhile
            hidden = shutil.ignore_patterns("__pycache__", "store")
            shutil.copytree(ROOT / name, self.folder / "code" / name, ignore=hidden)
        pictures = self.folder / "faces"
        pictures.mkdir(parents=True)
        for i in range(60):
            pixels = np.random.default_rng(i).integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(pictures / f"{i:02d}.png")
        fixed = {
            "dataset": pictures,
            "data_dir": self.folder / "store",
            "image_size": 32,
            "width": 4,
            "depth": 2,
            "hidden_dim": 16,
            "latent_dim": 4,
            "batch_size": 8,
            "steps": self.steps,
            "log_every": 7,
            "eval_every": 100,
            "sample_every": 500,
            "save_every": 15,
        }
        lines = ["program: research/bvae_faces.py", "method: grid", "parameters:"]
        lines += [f"  {name}: {{value: {value}}}" for name, value in fixed.items()]
        lines += ["  beta: {values: [0, 4]}", f"  seed: {{values: {list(range(self.n_seeds))}}}"]
        self.yaml = self.folder / "storm.yaml"
        self.yaml.write_text("\n".join(lines) + "\n")

    # ---------------------------------------------------------------------------------- processes

    def start(self, name: str, *more: str) -> subprocess.Popen:
        """`python launch/local.py` on the sweep folder `name`."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "SLURM_"))}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # many starts: compiled code is kept, beside the results
        env["PYTHONPYCACHEPREFIX"] = str(self.folder / "pycache")
        code = self.folder / "code"
        command = [sys.executable, str(code / "launch" / "local.py"), str(self.yaml), f"--name={name}"]
        command += [f"--out={self.folder / 'runs'}", "--workers=2", "--threads=1", "--wandb=disabled", *more]
        self.starts += 1
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=code)

    def workers(self, local: subprocess.Popen) -> list[int]:
        return children(local.pid)

    def running(self, name: str) -> list[tuple[int, bool]]:
        """(pid, whether it has started up and its run's status is `running`) of each training process."""
        found = []
        for folder in (self.folder / "runs" / name).glob("*/lease.1"):
            _, info = leases.newest(folder.parent)
            if info and info["role"] == "train" and leases.process_start(info["pid"]) == info["pid_start"]:
                status = (read_json(folder.parent / "status.json") or {}).get("status")
                in_loop = info["start_step"] is not None and info["released"] is None
                found.append((info["pid"], in_loop and status == "running"))
        return found

    def kill_one(self, name: str, local: subprocess.Popen) -> None:
        """Kill a process of a drawn kind, if there is one."""
        kind = self.rng.choices(list(KINDS), list(KINDS.values()))[0]
        training = self.running(name)
        if kind == "training":
            if not training:
                return
            pid, hit = self.rng.choice(training)
        elif kind == "worker":
            pids = self.workers(local)
            if not pids:
                return
            pid = self.rng.choice(pids)
            theirs = set(children(pid))
            hit = any(running and trained in theirs for trained, running in training)
        else:
            pid, hit = local.pid, any(running for _, running in training)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.log.append((kind, hit))

    # ---------------------------------------------------------------------------------- sweeps

    def undisturbed(self) -> float:
        """The reference; returns the seconds that a run takes, its start included."""
        began = time.monotonic()
        assert self.start("reference").wait(900) == 0, (self.folder / "reference.log").read_text()
        return (time.monotonic() - began) / self.n_seeds  # two workers, two values of beta

    def enough(self) -> bool:
        return len(self.log) >= self.kills and sum(hit for _, hit in self.log) >= self.while_running

    def storm(self, run_s: float) -> None:
        """Kill at moments drawn over the length of a run, until there are enough kills; then let the sweep
        end.
        """
        local, more = self.start("storm"), ()
        due = time.monotonic() + self.rng.uniform(0, 0.5 * run_s)
        deadline = time.monotonic() + 1800
        while True:
            assert time.monotonic() < deadline, (self.folder / "storm.log").read_text()[-3000:]
            if (code := local.poll()) is not None:
                if code == 0:
                    return
                assert code != 2, (self.folder / "storm.log").read_text()[-3000:]
                # three deaths in a row while starting: as a user would
                more = ("--retry",) if code == 1 else ()
                self.retries += code == 1
                local = self.start("storm", *more)
            if not self.enough() and time.monotonic() > due:
                self.kill_one("storm", local)
                due = time.monotonic() + self.rng.uniform(0, 0.2 * run_s)
            time.sleep(0.05)

    def two_at_once(self) -> None:
        both = [self.start("both"), self.start("both")]
        codes = [local.wait(900) for local in both]
        if codes != [0, 0]:
            self.differences.append(f"two local.py at once ended with {codes}")

    # ---------------------------------------------------------------------------------- comparison

    def compare(self, name: str) -> int:
        """Notes whatever differs from the reference; returns how many rows were equal."""
        wanted, got = (outcome(self.folder / "runs" / n) for n in ("reference", name))
        rows = 0
        if set(wanted) != set(got):
            self.differences.append(f"{name}: other files: {sorted(set(wanted) ^ set(got))}")
        for path in sorted(wanted.keys() & got.keys()):
            if wanted[path] != got[path]:
                self.differences.append(f"{name}/{path}: content differs")
            elif path.endswith("metrics.jsonl"):
                rows += wanted[path].count(b"\n")
        for folder in run_folders(self.folder / "runs" / name):
            status = read_json(folder / "status.json") or {}
            if status.get("status") != "finished" or not ended_once(folder):
                leases_of = [read_json(path) for path in sorted(folder.glob("lease.*"))]
                self.differences.append(f"{name}/{folder.name}: {status.get('status')}, leases {leases_of}")
        return rows


def children(pid: int) -> list[int]:
    """The living children of `pid`, by walking /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == pid and state not in "ZX":
                    found.append(int(entry.name))
    return found


def ended_once(folder: Path) -> bool:
    """Whether exactly one attempt at the run has brought it to its end.

    It gave its lease back with the run's status. An attempt killed after it had written the status, while it
    waited for W&B, could not: then its lease is the last one, as nobody runs again what is done.
    """
    n, last = leases.newest(folder)
    status = (read_json(folder / "status.json") or {}).get("status")
    ends = [(read_json(folder / f"lease.{k}") or {}).get("released") for k in range(1, n + 1)]
    given_back = sum(end in DONE for end in ends)
    if given_back == 0 and last is not None:
        gone = leases.process_start(last["pid"]) != last["pid_start"]
        return status in DONE and last["role"] == "train" and last["released"] is None and gone
    return given_back == 1 and status in ends


def run_folders(sweep: Path) -> list[Path]:
    return sorted(path.parent for path in sweep.glob("*/config.json"))


def outcome(sweep: Path) -> dict[str, bytes]:
    """What must be equal: the trials, and for each run its rows, its last checkpoint and its best one."""
    files = list(sweep.glob("trials/*.json"))
    for folder in run_folders(sweep):
        steps = sorted((folder / "checkpoints").glob("step_*.pt"))
        files += [folder / "metrics.jsonl", *steps[-1:], *(folder / "checkpoints").glob("best_*.pt")]
    return {str(path.relative_to(sweep)): path.read_bytes() for path in files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--while_running", type=int, default=15)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--steps", type=int, default=1500)
    flags = parser.parse_args()
    folder, began = Path(tempfile.mkdtemp(prefix="soak-")), time.monotonic()
    storm = Storm(folder / "soak", flags.seed, flags.kills, flags.while_running, steps=flags.steps)
    print(f"seed {flags.seed}, in {folder}", flush=True)
    run_s = storm.undisturbed()
    print(f"undisturbed: {run_s:.1f} s a run, {time.monotonic() - began:.0f} s in all", flush=True)
    storm.storm(run_s)
    kinds, hits = Counter(kind for kind, _ in storm.log), sum(hit for _, hit in storm.log)
    by_kind = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    print(f"kill -9: {len(storm.log)} ({by_kind}), {hits} while a run was running")
    print(f"local.py started {storm.starts - 1} times, {storm.retries} of them with --retry", flush=True)
    if not storm.enough():
        storm.differences.append("the sweep ended before it had been killed often enough: raise --steps")
    rows = storm.compare("storm")
    print(f"two local.py at once, after {time.monotonic() - began:.0f} s", flush=True)
    storm.two_at_once()
    rows += storm.compare("both")
    print(f"{rows} rows equal, {len(storm.differences)} differences, {time.monotonic() - began:.0f} s")
    for difference in storm.differences:
        print(f"  {difference}")
    if not storm.differences:
        shutil.rmtree(folder)
    return int(bool(storm.differences))


if __name__ == "__main__":
    sys.exit(main())
