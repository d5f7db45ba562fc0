"""One run: its folder, lease, log, checkpoints and signals. The folder is the record; W&B is a view of it.

A script gets the run from `start_run` and iterates over `run.loop`; there it calls `due`, `rng`, `keep_best`,
`update` and, once a step, `log`; at the end it calls `finish`. docs/adding_a_family.md shows the loop.
"""

import contextlib
import copy
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from research.common import lease as leases
from research.common.checkpoints import Checkpoints, load_file
from research.common.commandline import AT_CRASH, EXIT_PREEMPTED
from research.common.folder import (
    CHECKPOINTS,
    COMPLETE,
    CONFIG,
    MEDIA,
    METRICS,
    MODEL_TEXT,
    SOURCE_DIFF,
    STATUS,
    STOP,
    TIMES,
    append_row,
    media_by_step,
    read_json,
    read_rows,
    write_bytes,
    write_json,
)
from research.common.media import File, picture
from research.common.messages import console, escape, news
from research.common.progress import Line, show_figures
from research.common.randomness import make_rng
from research.common.threads import Crowd
from research.common.wandb_client import under_agent
from research.common.wandb_mirror import Mirror
from research.draw import charts

STOPPED_IN_WANDB = "stopped in W&B"
LOSS_CURVE = "train/curve"


class Preempted(SystemExit):
    """The process ends with exit code 75: run it again, and it continues."""

    def __init__(self):
        super().__init__(EXIT_PREEMPTED)


class Run:
    """A run that this process holds, made by `start_run`.

    finished: nothing is left to do, `metrics` has the last row; device: torch.device; folder: Path;
    metrics: the latest value of every logged key.
    """

    def __init__(self, folder: Path, cfg: Any, device: torch.device, headline: tuple[str, str], n_train: int):
        self.folder, self.cfg, self.device, self.n_train = folder, cfg, device, n_train
        self.headline, self.goal = headline
        self.sign = {"minimize": 1.0, "maximize": -1.0}[self.goal]
        self.steps_per_epoch = max(1, n_train // cfg.batch_size)
        self.checkpoints = Checkpoints(folder / CHECKPOINTS)
        self.metrics: dict[str, Any] = {}
        self.finished = False
        self.status: dict[str, Any] = {}
        self.lease: leases.Lease | None = None
        self.mirror: Mirror | None = None

        # the headline's best and worst finite value, and the files with the best weights: now, and as the
        # checkpoint before has it
        self._best: float | None = None
        self._worst: float | None = None
        self._best_file: str | None = None
        self._best_file_before: str | None = None

        # how the run ends
        self._signal: str | None = None
        self._diverged: int | None = None  # the step whose loss is not finite
        self._complete = False  # the row of the last step is logged
        self._saved_step = -1
        self._stop_looked = 0.0

        # the train loss over this epoch, and its mean over the epoch before until it is logged
        self._loss_sum, self._loss_count = torch.zeros((), device=device), 0
        self._epoch_loss: torch.Tensor | None = None
        self._last_loss: torch.Tensor | None = None
        self._order: tuple[int, torch.Tensor] | None = None  # an epoch and the order of its examples

        # pictures are made in the background; the seconds that logging and pictures took
        self._media = ThreadPoolExecutor(1, "media")
        self._pending: list[Future] = []
        self._own_s = self._media_s = 0.0
        self._mark = (time.perf_counter(), -1)  # of the row before: time and step
        self._line = Line(cfg.steps, cfg.batch_size, self.headline)

    # ------------------------------------------------------------------------------------- the beginning

    def already_done(self) -> bool:
        """Whether the folder holds a run that is complete (finished or diverged). It is then loaded as
        `finished`.

        Never with --fresh, which trains the run again.
        """
        status = read_json(self.folder / STATUS) or {}
        is_run = (self.folder / CONFIG).exists()
        if self.cfg.fresh or not is_run or status.get("status") not in COMPLETE:
            return False
        self.finished, self.status = True, status
        self.metrics = {k: v for row in read_rows(self.folder / METRICS) for k, v in row.items()}
        if self.lease:
            self.lease.release(status["status"])
        self.say(f"is already {status['status']}; --fresh trains it again")
        return True

    def hold(self, lease: leases.Lease) -> None:
        """From now on this process owns the folder and records there what happens to the run."""
        self.lease = lease
        resumed = (self.folder / CONFIG).exists()
        self.status = (read_json(self.folder / STATUS) if resumed else None) or {"segments": []}
        AT_CRASH.append(self.crash)

    def begin(self, config: dict[str, Any], segment: dict[str, Any], diff: str, **wandb_init: Any) -> None:
        """Begin or continue: the run's files, its signals and heartbeat, and its W&B run.

        config: what config.json is to hold; segment: this start, as status.json lists it; diff: the change
        of the code that is not committed. Exits with 1 if too many attempts have died at the same step.
        """
        step = self.checkpoints.newest_step()
        died = leases.deaths_without_progress(self.folder, step) - 1  # less this attempt
        if died >= leases.MAX_DEATHS:
            reason = f"died {died} times at step {step}"
            self.fail(reason)
            console.print(
                f"[bold red]error:[/] {escape(str(self.folder))} {reason}; run it again to try once more"
            )
            sys.exit(1)
        (self.folder / STOP).unlink(missing_ok=True)
        write_json(self.folder / CONFIG, config)
        write_bytes(self.folder / SOURCE_DIFF, diff.encode(errors="surrogateescape"))

        before = self.status["segments"]
        compared = ("device", "processor", "torch", "threads", "source")
        last = before[-1] if before else segment
        changed = [k for k in compared if last.get(k, segment[k]) != segment[k]]
        if changed and step:
            self.say(f"warning: not bit-exact from step {step}: {', '.join(changed)} changed", console)
        self.status = {
            "status": "running",
            "reason": None,
            "step": 0,
            "steps": self.cfg.steps,
            "headline": None,
            "segments": [*before, segment],
        }
        self.write_status("running")
        shown = {k: v for k, v in config.items() if k not in ("flags", "result_flags")} | config["flags"]
        self.mirror = Mirror(self.folder, self.cfg, shown, **wandb_init)
        self._handle_signals()
        self.lease.start_beating()

    def _handle_signals(self) -> None:
        """Handlers only set a flag; the loop acts on it at the next step boundary."""

        def handle(number: int, _frame: Any) -> None:
            name = signal.Signals(number).name
            if name == "SIGINT" and self._signal == "SIGINT":
                signal.signal(signal.SIGINT, signal.default_int_handler)
                self._line.stop()
                raise KeyboardInterrupt
            self._signal = name
            again = " (again: abort)" if name == "SIGINT" else ""
            news.print(f"{name}: saving at the next step{again}")

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, handle)

    # ------------------------------------------------------------------------------------- the loop

    def loop(self, model: Any, optimizer: Any) -> Iterator[tuple[int, bool]]:
        """(step, last) of every step from where the run stands; the last one, cfg.steps, is only evaluated.

        Loads the newest checkpoint into `model` and `optimizer` (either may be a sequence), saves them every
        --save_every steps and at the end, and ends early when the run is to stop. At each step, the script
        makes one update and one call of `log`.
        """
        step = self.restore(model, optimizer)
        self._go_on(step)
        while True:
            last = step == self.cfg.steps
            yield step, last
            if last:
                break
            self._make_room(step)
            step += 1  # the update is made, so checkpoints from here on count it
            if self.stopping:
                break
            if step % self.cfg.save_every == 0:
                self.save(model, optimizer, step)
        self.save(model, optimizer, step)

    def _make_room(self, step: int) -> None:
        """Continue with one thread if other processes use the cores: several threads would wait for one
        another, spinning.
        """
        if self.cfg.threads is None and self._crowd.noticed() and self.lease.check():
            torch.set_num_threads(1)
            segment = self.status["segments"][-1]
            segment.setdefault("threads_at_start", segment["threads"])
            segment["threads"] = 1  # the threads of a later start, if there is one
            self.write_status("running")
            self.say(
                f"other processes use the cores: one thread from step {step} on (--threads=N prevents this)"
            )

    def due(self, what: str, step: int) -> bool:
        """Whether to "log", "eval" or "sample" at `step`, by --log_every, --eval_every and --sample_every.

        --sample_every=0 doubles: 0, 1, 2, 4, 8 ... The last visit, of cfg.steps, evaluates and samples too.
        """
        if what != "log" and step == self.cfg.steps:
            return True
        every = {"log": self.cfg.log_every, "eval": self.cfg.eval_every, "sample": self.cfg.sample_every}[
            what
        ]
        return step % every == 0 if every else step & (step - 1) == 0

    @property
    def stopping(self) -> bool:
        """Whether the loop should end here: a signal, a `stop` file, a non-finite loss, a lost lease."""
        if time.monotonic() - self._stop_looked > 1.0:  # the file is checked once a second, not at every step
            self._stop_looked = time.monotonic()
            if self._signal is None and (self.folder / STOP).exists():
                self._signal = "stop file"
            if self._signal is None and self.mirror.stop_requested.is_set():
                self._signal = STOPPED_IN_WANDB
        return self._signal is not None or self._diverged is not None or self.lease.lost

    def _go_on(self, step: int) -> None:
        """Report in the terminal, the lease and W&B that the run continues from `step`."""
        self.status |= {"step": step, "headline": self._best}
        self.status["segments"][-1]["from_step"] = step
        self.write_status("running")
        self.lease.update(start_step=step)
        self.mirror.live_from = step
        self.mirror.start()
        if step:
            self.say(f"continues from step {step}")
        self._crowd = Crowd()  # from now on
        self._line.start(step)

    # ------------------------------------------------------------------------------------- randomness

    def rng(self, step: int, stream: str = "train") -> torch.Generator:
        """A generator on the run's device for everything drawn at `step` from one of STREAMS."""
        return make_rng(self.cfg.seed, step, stream, self.device)

    def batch_indices(self, step: int) -> torch.Tensor:
        """Indices (batch_size,), on the device, of the examples of `step`; every epoch is one shuffle."""
        epoch, i = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            # on the CPU, so that the order is the same on every kind of device
            rng = make_rng(self.cfg.seed, epoch, "order")
            self._order = epoch, torch.randperm(self.n_train, generator=rng).to(self.device)
        return self._order[1][i * self.cfg.batch_size : (i + 1) * self.cfg.batch_size]

    # ------------------------------------------------------------------------------------- checkpoints

    def restore(self, model: Any, optimizer: Any) -> int:
        """Load the newest undamaged checkpoint and delete rows and media from its step on. Returns the step,
        0 for a new run.
        """
        state = self.checkpoints.load_newest()
        step = 0 if state is None else state["step"]
        if state is not None:
            for target, saved in zip(_several(model, optimizer), state["states"], strict=True):
                target.load_state_dict(saved)
            self._best, self._best_file, self._worst = state["best"], state["best_file"], state["worst"]
            self._best_file_before = self._best_file
            self._loss_sum, self._loss_count = state["loss_sum"].to(self.device), state["loss_count"]
        for name in (METRICS, TIMES):
            kept = [row for row in read_rows(self.folder / name) if row["step"] < step]
            write_bytes(self.folder / name, "".join(json.dumps(r) + "\n" for r in kept).encode())
            if name == METRICS:
                self.metrics = {k: v for row in kept for k, v in row.items()}
        for s, files in media_by_step(self.folder).items():
            for path in files.values() if s >= step else ():
                path.unlink()
        return step

    def save(self, model: Any, optimizer: Any, step: int) -> None:
        """Write a checkpoint of `step` updates after the rows and media before it are on the disk."""
        began = time.perf_counter()
        if self._diverged is not None or step == self._saved_step or not self.lease.check():
            return
        if step == self.cfg.steps and not self._complete and not self.stopping:
            return  # the last step of the loop may still find better weights, and saves
        self._finish_media()
        for path in (self.folder / METRICS, self.folder / TIMES):
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
        self.write_status("running")
        self._saved_step = step
        self._own_s += time.perf_counter() - began

    def keep_best(self, model: Any, metrics: dict[str, Any], step: int) -> None:
        """Keep the weights if the headline in `metrics` is the best so far or equal to it: a share of 0 or 1
        is soon reached, and later weights are better trained. Adds the best headline so far to `metrics`.
        """
        value = float(metrics[self.headline])
        if math.isfinite(value):
            if self._worst is None or value * self.sign > self._worst * self.sign:
                self._worst = value
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

        rows = ("depth", "var_names")  # "encoder", "decoder": what the script calls them
        text = str(summary(model, input_data=list(inputs), verbose=0, depth=4, row_settings=rows))
        write_bytes(self.folder / MODEL_TEXT, f"{text}\n".encode())
        if not self.checkpoints.steps() and not news.quiet:  # a resumed run has printed it already
            print(text, flush=True)

    def update(self, loss: torch.Tensor) -> None:
        """Add a step's loss, a 0-d tensor, to the mean of its epoch; does not wait for the device."""
        if self._loss_count == self.steps_per_epoch:  # an epoch was over before this step: due in this row
            self._epoch_loss = self._loss_sum / self._loss_count
            self._loss_sum, self._loss_count = torch.zeros_like(self._loss_sum), 0
        self._last_loss = loss.detach()
        self._loss_sum += self._last_loss
        self._loss_count += 1

    def log(self, metrics: dict[str, Any], step: int) -> None:
        """Log what was measured at `step`: the one row of this step. Call it once at every step, even with an
        empty dictionary.

        A value is a number (a 0-d tensor counts as one) or a `media.File` that is made in the background.
        """
        began = time.perf_counter()
        row = {k: v for k, v in metrics.items() if not isinstance(v, File)}
        files = {k: v for k, v in metrics.items() if isinstance(v, File)}
        self._complete = step == self.cfg.steps
        if self._complete:
            files[LOSS_CURVE] = picture(loss_curve, self.folder)
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
            if self.lease.check():  # if this process stood still for long, another may own the run now
                append_row(self.folder / METRICS, row)
                append_row(self.folder / TIMES, timed)
        if (row or files) and not self.lease.lost:
            self._pending.append(self._media.submit(self._log_files, step, row | timed, files))
        self._pending = [job for job in self._pending if not (job.done() and job.result() is None)]
        self._line.update(step, row, self._best, self._last_loss)
        self._own_s += time.perf_counter() - began

    def _log_files(self, step: int, row: dict[str, Any], files: dict[str, File]) -> None:
        """In the media thread: write the files of one step, then hand the step to W&B."""
        began, paths = time.thread_time(), {}
        for key, file in files.items():
            paths[key] = self.folder / MEDIA / key / f"{step:08d}{file.suffix}"
            paths[key].parent.mkdir(parents=True, exist_ok=True)
            try:
                file.write(paths[key])
                with open(paths[key], "rb") as f:
                    os.fsync(f.fileno())
            except OSError as error:  # a full disk: name the file
                error.filename = str(paths[key])
                raise
        self._media_s += time.thread_time() - began
        self.mirror.send(step, row, paths)

    def _timing(self, step: int) -> dict[str, Any]:
        """time/* of the steps since the last row; wall time, so that it differs from run to run."""
        now, (then, last) = time.perf_counter(), self._mark
        own = {"logging": self._own_s, "media": self._media_s, "wandb": self.mirror.cpu_s}
        timed: dict[str, Any] = {"step": step} | {f"time/{name}_s": value for name, value in own.items()}
        if last >= 0 and step > last:
            timed["time/step_ms"] = 1000 * (now - then) / (step - last)
            timed["time/examples_per_s"] = self.cfg.batch_size * (step - last) / (now - then)
        self._mark = now, step
        return timed

    def _finish_media(self) -> None:
        """Wait until every picture so far is on the disk; raises the error of a picture that failed."""
        jobs, self._pending = self._pending, []
        for job in jobs:
            job.result()

    # ------------------------------------------------------------------------------------- the end

    def finish(self) -> dict[str, Any]:
        """End the run: status, W&B, lease. Returns the latest metrics; raises Preempted (exit code 75)."""
        self._line.stop()
        if not self.lease.check():  # another process has the run now: end without writing
            self.say("was taken over by another process; this process ends", console)
            self.lease.yield_to_other()
            raise Preempted
        self._finish_media()
        status, reason = self._outcome()
        self.status |= {"reason": reason, "headline": self._best}
        if status == "diverged":
            self.status["headline"] = self._worst  # a bayes sweep must see a bad value, not a missing one
        self.status["step"] = self.cfg.steps if self._complete else max(self._saved_step, self.status["step"])
        self.write_status(status)
        best = self.checkpoints.folder / self._best_file if self._best_file else None
        if status == "finished":
            self._warn_of_loss()
        if status == "diverged":
            self.mirror.alert("diverged", f"{self.folder.name}: {reason}", "WARN")
        if status == "preempted":  # from the exit code W&B decides whether an agent gets the run again
            self.mirror.finish(EXIT_PREEMPTED, None, True, timeout_s=60)
        else:
            self.mirror.finish(0, best, False, timeout_s=300)
        self.lease.release(status)
        AT_CRASH.clear()
        if status == "finished":
            self._show_result()
        self.say(status + (f": {reason}" if reason else ""), news if status == "finished" else console)
        if status == "preempted":
            raise Preempted
        return self.metrics

    def _warn_of_loss(self) -> None:
        """Warn if the last weights are worse than those with which the run began."""
        rows = list(read_rows(self.folder / METRICS))
        for key, sign in {
            "val/loss": 1,
            self.headline: self.sign,
        }.items():  # a share of right answers can hide a rising loss
            if key == "val/loss" and self.goal == "minimize":  # the loss may be a sum whose weights grow
                continue
            values = [row[key] for row in rows if row.get(key) is not None]
            if len(values) > 1 and values[-1] * sign > values[0] * sign:
                what = f"{key} was {values[0]:.5g} at the beginning and is {values[-1]:.5g} at the end"
                self.warn("has not learned", f"{what}; is the learning rate too high or the run too short?")
                break

    def _show_result(self) -> None:
        """Print the test figures, the best of the headline, and where the pictures lie."""
        shown = {k: v for k, v in self.metrics.items() if k.startswith("test/")}
        best = f"{self.headline}_best"
        show_figures("test part, with the best weights", shown | {best: self.metrics.get(best)})
        if (self.folder / MEDIA).exists():
            news.print(f"pictures: {escape(str(self.folder / MEDIA))}")

    def _outcome(self) -> tuple[str, str | None]:
        if self._diverged is not None:
            return "diverged", f"loss is not finite at step {self._diverged}"
        if self._complete:
            return "finished", None
        if self._signal == "SIGTERM" and under_agent():
            # an agent's early stop and a preemption send the same signal; the agent kills its run after this
            # delay
            patience = min(20.0, float(os.environ.get("WANDB_AGENT_KILL_DELAY", 30)) - 10)
            stopped = self.mirror.stop_requested.wait(max(0.0, patience))
            return ("stopped", STOPPED_IN_WANDB) if stopped else ("preempted", "SIGTERM")
        reason = self._signal
        if self._signal == "stop file":  # the file may contain a reason
            with contextlib.suppress(OSError):
                text = (self.folder / STOP).read_text(encoding="utf-8", errors="replace").strip()
                reason = text.partition("\n")[0][:200] or reason
        return ("preempted" if self._signal in ("SIGUSR1", "SIGTERM") else "stopped"), reason

    def warn(self, title: str, text: str) -> None:
        """Report what is wrong with this run's result, in the terminal and as an alert in W&B."""
        console.print(f"[yellow]{escape(title)}:[/] {escape(text)}")
        self.mirror.alert(title, f"{self.folder.name}: {text}", "WARN")

    def crash(self, error: BaseException) -> None:
        """Called on a crash: record in the folder and at W&B what happened, as far as possible."""
        AT_CRASH.clear()
        self._line.stop()
        if not self.lease.lost and self.lease.check():
            self.fail(f"{type(error).__name__}: {error}".split("\n")[0])

    def fail(self, reason: str) -> None:
        """End the run as failed."""
        self.status["reason"] = reason
        try:
            self.write_status("failed")
            self.lease.release("failed")
        except OSError:  # the disk is full: the lease turns stale when this process is gone
            pass
        if self.mirror:
            if self.mirror.ident is None:  # it failed before its loop began
                self.mirror.start()
            self.mirror.alert("failed", f"{self.folder.name}: {reason}", "ERROR")
            self.mirror.finish(1, None, False, timeout_s=30)

    def write_status(self, status: str) -> None:
        self.status["status"] = status
        write_json(self.folder / STATUS, {k: _plain(v) for k, v in self.status.items()})

    def say(self, what: str, to: Console = news) -> None:
        to.print(f"[bold]{escape(str(self.folder))}[/] {escape(what)}")


def loss_curve(folder: Path) -> Any:
    """The training loss of a run against the epoch, uint8 (H, W, 3): the mean of each epoch if there are such
    means, else each logged step; and the validation loss, if the script logs one.
    """
    rows = list(read_rows(folder / METRICS))
    of_epochs = sum("train/loss_epoch" in row for row in rows) >= 2
    keys = {"train, mean of an epoch": "train/loss_epoch"} if of_epochs else {"train": "train/loss"}
    series = {}
    for label, key in (keys | {"validation": "val/loss"}).items():
        points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            series[label] = tuple(zip(*points, strict=True))
    return charts.curves(series, "epoch", "loss", "Loss")


def _plain(value: Any) -> Any:
    """A JSON value: tensors and numpy scalars as Python numbers, values that are not finite as null."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _several(*parts: Any) -> list[Any]:
    """(model, optimizer) as one list; either may be a sequence."""
    return [p for part in parts for p in (part if isinstance(part, (list, tuple)) else [part])]
