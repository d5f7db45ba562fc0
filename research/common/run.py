"""One run: its folder, lease, log, checkpoints and signals. The folder is the truth; W&B is a view of it.

A script calls `start_run` and `restore`, at each step `rng`, `update`, `log`, `stopping` and `save`, and at
the end `finish`. docs/adding_a_family.md shows the loop.
"""

import contextlib
import copy
import hashlib
import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from research.common import lease as leases
from research.common.checkpoints import Checkpoints, load_file
from research.common.client import under_agent
from research.common.commandline import AT_CRASH, EXIT_PREEMPTED
from research.common.files import append_row, media_by_step, read_rows, write_bytes, write_json
from research.common.flags import console, escape
from research.common.media import File
from research.common.tracking import Mirror

STREAMS = ("train", "eval", "pictures", "init", "order")  # independent sources of randomness at one step
STOP_FILE = "stop"
STOPPED_IN_WANDB = "stopped in W&B"


class Preempted(SystemExit):
    """The process ends with exit code 75: run it again, and it goes on."""

    def __init__(self):
        super().__init__(EXIT_PREEMPTED)


def seed_of(*parts: Any) -> int:
    """A 63-bit seed that is a function of `parts`."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def make_rng(seed: int, step: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator for everything drawn at `step`: a function of (seed, step, stream), never a state."""
    assert stream in STREAMS, f"{stream} is none of {STREAMS}"
    return torch.Generator(device).manual_seed(seed_of(seed, step, stream))


class Run:
    """A run that this process holds, made by `start_run`.

    finished: nothing is left to do, `metrics` has the last row; device: torch.device; folder: Path;
    metrics: the latest value of every logged key.
    """

    def __init__(self, folder: Path, cfg: Any, device: torch.device, headline: str, goal: str, n_train: int):
        self.folder, self.cfg, self.device, self.n_train = folder, cfg, device, n_train
        self.headline, self.sign = headline, {"minimize": 1.0, "maximize": -1.0}[goal]
        self.steps_per_epoch = max(1, n_train // cfg.batch_size)
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.metrics: dict[str, Any] = {}
        self.finished = False
        self.status: dict[str, Any] = {}
        self.lease: leases.Lease | None = None
        self.mirror: Mirror | None = None
        self._best, self._best_file, self._worst = None, None, None
        self._best_file_before: str | None = None  # that of the checkpoint before
        self._signal, self._diverged, self._complete, self._saved_step = None, None, False, -1
        self._loss_sum, self._loss_count = torch.zeros((), device=device), 0  # over this epoch
        self._epoch_loss: torch.Tensor | None = None  # the mean over the epoch before, until it is logged
        self._order: tuple[int, torch.Tensor] | None = None
        self._media, self._pending = (
            ThreadPoolExecutor(1, "media"),
            [],
        )  # composes pictures off the critical path
        self._stop_looked, self._own_s, self._media_s, self._mark = (
            0.0,
            0.0,
            0.0,
            (time.perf_counter(), -1, 0.0),
        )

    # ------------------------------------------------------------------------------------- randomness

    def rng(self, step: int, stream: str = "train") -> torch.Generator:
        """A generator on the run's device for everything drawn at `step` from one of STREAMS."""
        return make_rng(self.cfg.seed, step, stream, self.device)

    def batch_indices(self, step: int) -> torch.Tensor:
        """Indices (batch_size,), on the device, of the examples of `step`; every epoch is one shuffle."""
        epoch, i = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            rng = make_rng(
                self.cfg.seed, epoch, "order"
            )  # on the CPU: the same order on every kind of device
            self._order = epoch, torch.randperm(self.n_train, generator=rng).to(self.device)
        return self._order[1][i * self.cfg.batch_size : (i + 1) * self.cfg.batch_size]

    def sampling(self, step: int) -> bool:
        """Whether pictures are due at `step`; --sample_every=0 doubles: 0, 1, 2, 4, 8 ..."""
        every = self.cfg.sample_every
        return step % every == 0 if every else step & (step - 1) == 0

    # ------------------------------------------------------------------------------------- checkpoints

    def restore(self, model: Any, optimizer: Any) -> int:
        """Load the newest whole checkpoint; cut rows and media from its step on. Returns the step, 0 if
        fresh.
        """
        state = self.checkpoints.load_newest()
        step = 0 if state is None else state["step"]
        if state is not None:
            for target, saved in zip(_several(model, optimizer), state["states"], strict=True):
                target.load_state_dict(saved)
            self._best, self._best_file, self._worst = state["best"], state["best_file"], state["worst"]
            self._best_file_before = self._best_file
            self._loss_sum, self._loss_count = state["loss_sum"].to(self.device), state["loss_count"]
        for name in ("metrics.jsonl", "time.jsonl"):
            kept = [row for row in read_rows(self.folder / name) if row["step"] < step]
            write_bytes(self.folder / name, "".join(json.dumps(r) + "\n" for r in kept).encode())
            if name == "metrics.jsonl":
                self.metrics = {k: v for row in kept for k, v in row.items()}
        for s, files in media_by_step(self.folder).items():
            for path in files.values() if s >= step else ():
                path.unlink()
        self.status |= {"step": step, "headline": self._best}
        self.status["segments"][-1]["from_step"] = step
        self._write_status("running")
        self.lease.update(start_step=step)
        self.lease.start_beating()
        self.mirror.live_from = step
        self.mirror.start()
        if step:
            self._say(f"goes on from step {step}")
        return step

    def save(self, model: Any, optimizer: Any, step: int) -> None:
        """Write a checkpoint of `step` updates, once the rows and media before it are on the disk."""
        began = time.perf_counter()
        if self._diverged is not None or step == self._saved_step or not self.lease.check():
            return
        if step == self.cfg.steps and not self._complete and not self.stopping:
            return  # the last visit of the loop may still find better weights, and saves
        self._finish_media()
        for path in (self.folder / "metrics.jsonl", self.folder / "time.jsonl"):
            if path.exists():
                with open(path, "rb+") as f:
                    os.fsync(f.fileno())
        state = {
            "step": step,
            "states": [part.state_dict() for part in _several(model, optimizer)],
            "best": self._best,
            "best_file": self._best_file,
            "worst": self._worst,
            "loss_sum": self._loss_sum,
            "loss_count": self._loss_count,
        }
        path = self.checkpoints.save(state, f"step_{step:08d}")
        self.checkpoints.prune(path, {self._best_file, None if self._complete else self._best_file_before})
        self._best_file_before = self._best_file
        self.status |= {"step": step, "headline": self._best}
        self._write_status("running")
        self._saved_step = step
        self._own_s += time.perf_counter() - began

    def keep_best(self, model: Any, metrics: dict[str, Any], step: int) -> None:
        """Keep the weights if the headline in `metrics` is the best so far or equals it: a share of 0 or of 1
        is soon reached, and later weights are better trained. Adds the running best to `metrics`.
        """
        value = float(metrics[self.headline])
        if math.isfinite(value):
            self._worst = (
                value if self._worst is None else max(self._worst, value, key=lambda v: v * self.sign)
            )
            if self._best is None or value * self.sign <= self._best * self.sign:
                self._best = value
                if self.lease.check():
                    saved = self.checkpoints.save({"step": step, "states": [model.state_dict()]}, "best")
                    self._best_file = saved.name
        metrics[f"{self.headline}_best"] = self._best if self._best is not None else math.nan

    def best(self, model: Any) -> Any:
        """A copy of `model` with the best weights so far."""
        model = copy.deepcopy(model)
        if self._best_file:
            model.load_state_dict(load_file(self.checkpoints.folder / self._best_file)["states"][0])
        return model

    # ------------------------------------------------------------------------------------- the log

    def describe(self, model: torch.nn.Module, *inputs: torch.Tensor) -> None:
        """Print layers, shapes and parameter count of `model` at these inputs, and keep them as model.txt."""
        from torchinfo import summary

        text = str(summary(model, input_data=list(inputs), verbose=0, depth=4))
        write_bytes(self.folder / "model.txt", f"{text}\n".encode())
        if self.status["step"] == 0:
            print(text, flush=True)

    def update(self, loss: torch.Tensor) -> None:
        """Count a step's loss, a 0-d tensor, towards the mean of its epoch; does not wait for the device."""
        if self._loss_count == self.steps_per_epoch:  # an epoch was over before this step: due in this row
            self._epoch_loss = self._loss_sum / self._loss_count
            self._loss_sum, self._loss_count = torch.zeros_like(self._loss_sum), 0
        self._loss_sum += loss.detach()
        self._loss_count += 1

    def log(self, metrics: dict[str, Any], step: int) -> None:
        """Log what was measured at `step`: the one row of this step. Call it once a step, also with nothing.

        A value is a number (a 0-d tensor counts as one) or a `media.File` that is made in the background.
        """
        began = time.perf_counter()
        row = {k: v for k, v in metrics.items() if not isinstance(v, File)}
        files = {k: v for k, v in metrics.items() if isinstance(v, File)}
        self._complete = step == self.cfg.steps
        if self._complete and self._loss_count == self.steps_per_epoch:
            self._epoch_loss = self._loss_sum / self._loss_count
        if self._epoch_loss is not None:
            row["train/loss_epoch"], self._epoch_loss = self._epoch_loss, None
        timed = {}
        if row:
            epoch = round(step / self.steps_per_epoch, 6)
            row = {"step": step, "epoch": epoch} | {k: _plain(v) for k, v in row.items()}
            for name in ("train/loss", "train/loss_epoch", self.headline):
                if name in row and row[name] is None:
                    self._diverged = step
            self.metrics |= row
            timed = self._timing(step)
            if self.lease.check():  # after standing still for long, the run may have another owner
                append_row(self.folder / "metrics.jsonl", row)
                append_row(self.folder / "time.jsonl", timed)
        if (row or files) and not self.lease.lost:
            self._pending.append(self._media.submit(self._log_files, step, row | timed, files))
        self._pending = [job for job in self._pending if not (job.done() and job.result() is None)]
        self._own_s += time.perf_counter() - began

    def _log_files(self, step: int, row: dict[str, Any], files: dict[str, File]) -> None:
        """In the media thread: write the files of one step, then hand the step to W&B."""
        began, paths = time.thread_time(), {}
        for key, file in files.items():
            paths[key] = self.folder / "media" / key / f"{step:08d}{file.suffix}"
            paths[key].parent.mkdir(parents=True, exist_ok=True)
            try:
                file.write(paths[key])
                with open(paths[key], "rb") as f:
                    os.fsync(f.fileno())
            except OSError as error:  # a full disk: say which file
                error.filename = str(paths[key])
                raise
        self._media_s += time.thread_time() - began
        self.mirror.send(step, row, paths)

    def _timing(self, step: int) -> dict[str, Any]:
        """time/* of the steps since the last row; wall time, so that it differs from run to run."""
        now, (then, last, _) = time.perf_counter(), self._mark
        own = {"logging": self._own_s, "media": self._media_s, "wandb": self.mirror.cpu_s}
        timed: dict[str, Any] = {"step": step} | {f"time/{name}_s": value for name, value in own.items()}
        if last >= 0 and step > last:
            timed["time/step_ms"] = 1000 * (now - then) / (step - last)
            timed["time/examples_per_s"] = self.cfg.batch_size * (step - last) / (now - then)
        self._mark = now, step, self._own_s
        return timed

    def _finish_media(self) -> None:
        """Wait until every picture so far is on the disk; raises what its making raised."""
        jobs, self._pending = self._pending, []
        for job in jobs:
            job.result()

    # ------------------------------------------------------------------------------------- the end

    @property
    def stopping(self) -> bool:
        """Whether the loop should end here: a signal, a `stop` file, a non-finite loss, a lost lease."""
        if time.monotonic() - self._stop_looked > 1.0:  # a look at a file per second, not per step
            self._stop_looked = time.monotonic()
            if self._signal is None and (self.folder / STOP_FILE).exists():
                self._signal = "stop file"
            if self._signal is None and self.mirror.stop_requested.is_set():
                self._signal = STOPPED_IN_WANDB
        return self._signal is not None or self._diverged is not None or self.lease.lost

    def finish(self) -> dict[str, Any]:
        """End the run: status, W&B, lease. Returns the latest metrics; raises Preempted (exit code 75)."""
        if not self.lease.check():  # another process has the run now: leave without writing
            self._say("was taken over by another process; this one leaves it")
            self.lease.yield_to_other()
            raise Preempted
        self._finish_media()
        status, reason = self._outcome()
        self.status |= {"reason": reason, "headline": self._best}
        if status == "diverged":
            self.status["headline"] = self._worst  # bayes must see that this was bad, not that it is missing
        self.status["step"] = self.cfg.steps if self._complete else max(self._saved_step, self.status["step"])
        self._write_status(status)
        best = self.checkpoints.folder / self._best_file if self._best_file else None
        if status == "diverged":
            self.mirror.alert("diverged", f"{self.folder.name}: {reason}", "WARN")
        if status == "preempted":  # by its exit code W&B decides whether an agent gets the run again
            self.mirror.finish(EXIT_PREEMPTED, None, True, timeout_s=60)
        else:
            self.mirror.finish(0, best, False, timeout_s=300)
        self.lease.release(status)
        AT_CRASH.clear()
        self._say(status + (f": {reason}" if reason else ""))
        if status == "preempted":
            raise Preempted
        return self.metrics

    def _outcome(self) -> tuple[str, str | None]:
        if self._diverged is not None:
            return "diverged", f"loss is not finite at step {self._diverged}"
        if self._complete:
            return "finished", None
        if self._signal == "SIGTERM" and under_agent():
            # an agent's early stop and a preemption look alike; the agent kills its run after this delay
            patience = min(20.0, float(os.environ.get("WANDB_AGENT_KILL_DELAY", 30)) - 10)
            stopped = self.mirror.stop_requested.wait(max(0.0, patience))
            return ("stopped", STOPPED_IN_WANDB) if stopped else ("preempted", "SIGTERM")
        told = ""
        if self._signal == "stop file":  # whoever wrote it may say why
            with contextlib.suppress(OSError):
                told = (self.folder / STOP_FILE).read_text(errors="replace").strip().partition("\n")[0][:200]
        return ("preempted" if self._signal in ("SIGUSR1", "SIGTERM") else "stopped"), told or self._signal

    def warn(self, title: str, text: str) -> None:
        """Tell the user, here and as an alert in W&B, what is wrong with this run's result."""
        console.print(f"[yellow]{escape(title)}:[/] {escape(text)}")
        self.mirror.alert(title, f"{self.folder.name}: {text}", "WARN")

    def crash(self, error: BaseException) -> None:
        """Called on the way out of a crash: tell the folder and W&B what happened, as far as that works."""
        AT_CRASH.clear()
        if not self.lease.lost and self.lease.check():
            self.fail(f"{type(error).__name__}: {error}".split("\n")[0])

    def fail(self, reason: str) -> None:
        """End the run as failed."""
        self.status["reason"] = reason
        try:
            self._write_status("failed")
            self.lease.release("failed")
        except OSError:  # the disk is full: the lease turns stale when this process is gone
            pass
        if self.mirror:
            self.mirror.alert("failed", f"{self.folder.name}: {reason}", "ERROR")
            self.mirror.finish(1, None, False, timeout_s=30)

    def _write_status(self, status: str) -> None:
        self.status["status"] = status
        write_json(self.folder / "status.json", {k: _plain(v) for k, v in self.status.items()})

    def _say(self, what: str) -> None:
        console.print(f"[bold]{escape(str(self.folder))}[/] {escape(what)}")


def _plain(value: Any) -> Any:
    """A JSON value: tensors and numpy scalars as Python numbers, what is not finite as null."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _several(*parts: Any) -> list[Any]:
    """(model, optimizer) as one list; either may be a sequence."""
    return [p for part in parts for p in (part if isinstance(part, (list, tuple)) else [part])]
