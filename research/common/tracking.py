"""W&B as a view of the run folder. A thread of its own imports the client, starts the run and sends rows, so
that training never waits for W&B; whatever W&B misses is still in the folder, and `replay` sends it again.
"""

import json
import os
import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from research.common.files import media_by_step, read_json, read_rows, write_json
from research.common.flags import console, escape

SET_ASIDE = "wandb-set-aside"  # segments of an offline run that a later one holds whole


def replay(folder: Path, wandb_run: Any, since: int, until: float = float("inf")) -> int:
    """Send the rows and media of `folder` from step `since` to before `until` to a W&B run; returns the next
    step.

    One `log` call a step, steps increasing, as the live run does.
    """
    media, rows = media_by_step(folder), {}
    for name in ("metrics.jsonl", "time.jsonl"):
        for row in read_rows(folder / name):
            rows.setdefault(row["step"], {}).update(row)
    for step in sorted(rows.keys() | media.keys()):
        if since <= step < until:
            send(wandb_run, step, rows.get(step, {}), media.get(step, {}))
            since = step + 1
    return since


def send(wandb_run: Any, step: int, row: dict[str, Any], media: dict[str, Path]) -> None:
    """One W&B `log` call: the scalars of a row, and files as images, videos or HTML by their suffix."""
    import wandb

    kinds = {".png": wandb.Image, ".mp4": wandb.Video, ".gif": wandb.Video, ".html": wandb.Html}
    values = {k: float("nan") if v is None else v for k, v in row.items() if k != "step"}
    wandb_run.log(values | {k: kinds[p.suffix](str(p)) for k, p in media.items()}, step=step)


def connect(cfg: Any, init: Callable[[Any, str], Any]) -> Any:
    """The W&B run that `init(wandb, mode)` starts, offline when W&B can't be reached; None when disabled.

    The mode is that of --wandb, else of WANDB_MODE, else online when logged in, else offline.
    """
    mode = cfg.wandb or os.environ.get("WANDB_MODE", "").replace("dryrun", "offline") or None
    if mode == "disabled":
        return None
    os.environ.setdefault("WANDB__SERVICE_WAIT", "300")  # starting on a slow shared file system
    import wandb

    if mode is None:
        mode = "online" if wandb.login(prompt=False) else "offline"
    try:
        return init(wandb, mode)
    except wandb.errors.CommError as error:
        reason = escape(str(error).split("\n")[0])
        console.print(
            f"[yellow]W&B can't be reached[/] ({reason}): this run is kept offline; upload it later"
        )
        return init(wandb, "offline")


class Mirror(threading.Thread):
    """The W&B run of one run folder, fed through a queue from the training process.

    `stop_requested` is set when somebody stops the run in W&B. `config` is what W&B shows as the run's
    config.
    """

    def __init__(self, folder: Path, cfg: Any, config: dict[str, Any], **init: Any):
        super().__init__(name="wandb", daemon=True)
        self.folder, self.cfg, self.config, self.init = folder, cfg, config, init
        self.stop_requested = threading.Event()
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._next_step = 0
        self.cpu_s = 0.0  # CPU time of this thread, the client's import included
        self.live_from = 0  # steps below are replayed from the folder, the others come through the queue

    def send(self, step: int, row: dict[str, Any], media: dict[str, Path]) -> None:
        self._queue.put(("row", step, row, media))

    def finish(self, exit_code: int, model: Path | None, preempting: bool, timeout_s: float) -> None:
        """Log the model artifact and end the W&B run; waits at most `timeout_s` and says if it is short."""
        if self.ident is None:  # never started
            return
        self._queue.put(("finish", exit_code, model, preempting))
        self.join(timeout_s)
        if self.is_alive():
            console.print(
                "[yellow]W&B has not taken everything yet;[/] the run folder has it all: upload later"
            )

    def run(self) -> None:
        wandb_run = None
        try:
            wandb_run = connect(self.cfg, self._init)
            if wandb_run is None:
                return None
            while True:
                kind, *job = self._queue.get()
                if kind == "finish":
                    return self._finish(wandb_run, *job)
                if job[0] >= self._next_step:
                    send(wandb_run, *job)
                    self._next_step = job[0] + 1
                self.cpu_s = time.thread_time()
        except Exception as error:  # whatever W&B does, training goes on; the folder holds everything
            reason = escape(str(error).split("\n")[0])
            console.print(
                f"[yellow]W&B stopped taking this run[/] ({reason}); training goes on, "
                f"{escape(str(self.folder))} holds everything"
            )

    def _init(self, wandb: Any, mode: str) -> Any:
        init, wandb_id = dict(self.init), self._wandb_id()
        if (
            "WANDB_SWEEP_ID" not in os.environ
        ):  # in a sweep, W&B hands these over and drops ours with a warning
            init |= {"project": self.cfg.project, "entity": self.cfg.entity, "id": wandb_id}
        settings = wandb.Settings(quiet=True, silent=mode == "offline", stop_fn=self.stop_requested.set)
        wandb_run = wandb.init(
            dir=str(self.folder), mode=mode, config=self.config, resume="allow", settings=settings, **init
        )
        if mode == "online":
            console.print(f"W&B: {wandb_run.url}")
        wandb_run.define_metric("train/loss_epoch", step_metric="epoch")
        since = wandb_run.starting_step if mode == "online" else 0
        self._next_step = replay(self.folder, wandb_run, since, self.live_from)
        return wandb_run

    def _wandb_id(self) -> str:
        """The run's W&B id. Offline segments of earlier attempts are set aside, for the new one holds their
        rows.

        A segment that was already synced can't be taken back: then a new id is made, so that nothing comes
        twice.
        """
        config = read_json(self.folder / "config.json") or {}
        for segment in sorted((self.folder / "wandb").glob("offline-run-*")):
            if any(segment.glob("*.synced")):
                config["wandb_id"] = secrets.token_hex(4)
                console.print(
                    f"an interrupted part of this run is already on W&B under another id; from now on its "
                    f"W&B id is {config['wandb_id']}, which gets the whole run"
                )
                write_json(self.folder / "config.json", config)
            aside = self.folder / SET_ASIDE
            aside.mkdir(exist_ok=True)
            shutil.move(str(segment), str(aside / segment.name))
        return config["wandb_id"]

    def _finish(self, wandb_run: Any, exit_code: int, model: Path | None, preempting: bool) -> None:
        if preempting:
            wandb_run.mark_preempting()
        elif model is not None:
            self._log_artifacts(wandb_run, model)
        wandb_run.finish(exit_code=exit_code)

    def _log_artifacts(self, wandb_run: Any, model: Path) -> None:
        """The data set as an input and the best weights as an output: lineage in W&B's artifact graph."""
        import wandb

        if not wandb_run.offline:  # offline the client refuses inputs; the config has the data set's hash
            data = wandb.Artifact(
                f"data-{self.config['data_hash']}",
                type="dataset",
                metadata={"name": self.config["dataset"], "hash": self.config["data_hash"]},
            )
            with data.new_file("dataset.json") as f:
                json.dump(data.metadata, f)
            wandb_run.use_artifact(data)
        artifact = wandb.Artifact(
            f"{self.config['family']}-{wandb_run.id}", type="model", metadata={"key": self.config["key"]}
        )
        artifact.add_file(str(model))
        artifact.add_file(str(self.folder / "config.json"))
        wandb_run.log_artifact(artifact, aliases=["best"])
