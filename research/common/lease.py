"""Who may write a run folder: the process that made the highest `lease.N`.

Taking over is the exclusive creation of `lease.N+1`, by linking a finished temporary file: atomic on NFS too,
and a takeover never unlinks anything. N counts attempts. The holder regularly raises a counter in its lease
(a beat) and looks for a higher N before every beat and every save; if there is one, it ends without writing.

A worker of a sweep makes the lease (`role` worker) and hands it to the training process that it starts, which
*adopts* it, so that no two workers pay for starting the same trial.

A lease is stale, and may be followed by the next: at once when it was given back, when its process is gone
from this boot of this machine, when SLURM no longer has its job, or when the same job came back with a higher
restart count; else when its counter has stood still for PATIENCE seconds on the observer's own monotonic
clock.
"""

import contextlib
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from research.common.folder import read_json, write_json

BEAT_S = 10.0  # seconds between beats
PATIENCE_S = {"train": 120.0, "worker": 600.0}  # a worker does not beat while its training process starts
# what squeue says of a job that has ended, or of one that it has forgotten
JOB_OVER = ("", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
MAX_DEATHS = 3  # attempts that may die at the same step before the run counts as failed
HANDOVER = "RUN_LEASE"  # environment variable: N of the lease made for this process


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").split("\n")[0]
    except OSError:
        return ""


def _boot() -> str:
    """A name for this boot of this machine and its process-id namespace: only within these does a pid have a
    meaning.
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return _first_line("/proc/sys/kernel/random/boot_id") + namespace


def process_start(pid: int) -> str | None:
    """When `pid` started, in the unit that the system uses; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, start = (fields := stat.rpartition(")")[2].split())[0], fields[19]
        return None if state in "ZX" else start
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
    except (ProcessLookupError, PermissionError):
        return None
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, encoding="utf-8").stdout.strip() or None


def is_local(info: dict[str, Any] | None) -> bool:
    """Whether the holder of a lease belongs to this boot of this machine, where its pid can be looked up."""
    return info is not None and info["boot"] == _boot() and info["host"] == socket.gethostname()


def _identity(role: str) -> dict[str, Any]:
    env = os.environ
    return {
        "role": role,
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "pid_start": process_start(os.getpid()),
        "slurm_job": env.get("SLURM_JOB_ID"),
        "slurm_task": env.get("SLURM_ARRAY_TASK_ID"),
        "slurm_restarts": int(env.get("SLURM_RESTART_COUNT") or 0),
        "beats": 0,
        "start_step": None,
        "released": None,
    }


def newest(folder: Path) -> tuple[int, dict[str, Any] | None]:
    """(N, content) of the highest lease of `folder`; (0, None) when there is none."""
    numbers = [int(p.name[6:]) for p in folder.glob("lease.*") if p.name[6:].isdigit()]
    n = max(numbers, default=0)
    return n, read_json(folder / f"lease.{n}") if n else None


def _slurm_has_lost(job: str) -> bool:
    """True when SLURM says that it does not have `job` (any more); False when it has, or can't be asked."""
    try:
        answer = subprocess.run(
            ["squeue", "-h", "-o", "%T", "-j", job],
            capture_output=True,
            encoding="utf-8",
            timeout=30,
            env={k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")},  # the user's filters
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    if answer.returncode != 0:
        return "Invalid job id" in answer.stderr
    return answer.stdout.strip() in JOB_OVER


class Watch:
    """An observer of leases. Remembers when it saw each counter move, on its own monotonic clock."""

    def __init__(self):
        self._seen: dict[Path, tuple[Any, float]] = {}
        self._slurm: dict[str, tuple[bool, float]] = {}

    def stale(self, folder: Path, n: int, info: dict[str, Any] | None) -> bool:
        """Whether lease `n` of `folder` may be followed by n+1."""
        return self.idle_s(folder, n, info) == float("inf")

    def idle_s(self, folder: Path, n: int, info: dict[str, Any] | None) -> float:
        """Seconds that the holder has been seen to stand still; infinity when the lease is stale."""
        if n == 0 or (info is not None and info["released"] is not None):
            return float("inf")
        me = os.environ.get("SLURM_JOB_ID")
        if info is not None:
            if is_local(info):
                start = process_start(info["pid"])
                if start is None or start != info["pid_start"]:
                    return float("inf")
            elif job := info["slurm_job"]:  # a process that is alive here counts, whatever SLURM says
                restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
                if (job == me and restarts > info["slurm_restarts"]) or (job != me and self._job_gone(job)):
                    return float("inf")
        now, mark = time.monotonic(), (n, None if info is None else (info["beats"], info["pid"]))
        if self._seen.get(folder, (None, 0.0))[0] != mark:
            self._seen[folder] = (mark, now)
        idle = now - self._seen[folder][1]
        return float("inf") if idle > PATIENCE_S[info["role"] if info else "train"] else idle

    def _job_gone(self, job: str) -> bool:
        gone, asked = self._slurm.get(job, (False, -1e9))
        if time.monotonic() - asked > 15:  # squeue is not asked at every check
            gone = _slurm_has_lost(job)
            self._slurm[job] = (gone, time.monotonic())
        return gone


def deaths_without_progress(folder: Path, step: int) -> int:
    """How many of the latest attempts died (not given back, nor taken over) and left `step` unchanged."""
    deaths, (n, _) = 0, newest(folder)
    for k in range(n, 0, -1):
        info = read_json(folder / f"lease.{k}")
        if info is None or info["released"] not in (None, "died"):
            break
        if info["start_step"] not in (None, step):
            break
        deaths += 1
    return deaths


class Lease:
    """A held lease. `lost` turns True when `check` finds that another process has taken over."""

    def __init__(self, folder: Path, n: int, info: dict[str, Any]):
        self.folder, self.n, self.info = folder, n, info
        self.lost = False
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def path(self) -> Path:
        return self.folder / f"lease.{self.n}"

    def check(self) -> bool:
        """Whether this process still holds the run; looks at the folder."""
        if newest(self.folder)[0] != self.n:
            self.lost = True
        return not self.lost

    def start_beating(self) -> None:
        self._thread = threading.Thread(target=self._beat_forever, name="lease", daemon=True)
        self._thread.start()

    def _beat_forever(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                if not self.check():
                    return
                self.update(beats=self.info["beats"] + 1)
            except OSError:  # a full disk: to others the counter then stands still
                continue

    def update(self, **changes: Any) -> None:
        """Write changed fields into the lease."""
        with self._lock:
            self.info |= changes
            write_json(self.path, self.info)

    def yield_to_other(self) -> None:
        """Record in our own lease that it was taken over, so that it does not count as a death."""
        with contextlib.suppress(OSError):
            self.update(released="taken over")

    def release(self, how: str) -> None:
        """Give the lease back, so that no process has to wait for it: `how` is the run's status, or
        'died'.
        """
        self._stop.set()
        if self._thread:
            self._thread.join()
        if self.check():
            self.update(released=how)


def acquire(folder: Path, watch: Watch, role: str = "train") -> Lease | None:
    """Take the lease of `folder` if it is free or stale. None when another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        n, info = newest(folder)
        if not watch.stale(folder, n, info):
            return None
        mine = _identity(role)
        tmp = folder / f".lease.{os.getpid()}.{threading.get_ident()}.tmp"
        write_json(tmp, mine)
        try:
            # fails if the file exists, so only one process succeeds, and the file is complete from the start
            os.link(tmp, folder / f"lease.{n + 1}")
        except FileExistsError:
            continue  # another process was quicker: look again
        finally:
            tmp.unlink()
        return Lease(folder, n + 1, mine)


def adopt(folder: Path) -> Lease | None:
    """Take over the lease that a worker made for this process (environment RUN_LEASE); None without one.

    The lease is ours only while it is the newest: if the worker died and another took the run, we come too
    late.
    """
    handed_over = os.environ.pop(HANDOVER, None)
    if handed_over is None:
        return None
    n, info = newest(folder)
    if n != int(handed_over) or info is None or info["role"] != "worker" or info["released"] is not None:
        return None
    lease = Lease(folder, n, _identity("train"))
    lease.update()
    return lease if lease.check() else None
