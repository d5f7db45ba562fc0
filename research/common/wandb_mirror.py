"""W&B as a view of the run folder. A thread of its own imports the client, starts the run and sends rows, so
that training never waits for W&B; whatever W&B misses is still in the folder, and `replay` sends it again.
"""

import contextlib
import json
import queue
import secrets
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from research.common.checkpoints import resolve
from research.common.folder import (
    CONFIG,
    METRICS,
    MODEL_TEXT,
    SOURCE_DIFF,
    TIMES,
    media_by_step,
    read_json,
    read_rows,
    write_json,
)
from research.common.identity import ROOT, source_files
from research.common.messages import console, escape, news
from research.common.wandb_client import connect, first_line, settings, texts, under_agent

SET_ASIDE = "wandb-set-aside"  # segments of an offline run that a later segment contains completely


def replay(folder: Path, wandb_run: Any, since: int, until: float = float("inf")) -> int:
    """Send the rows and media of `folder` from step `since` to before `until` to a W&B run; returns the next
    step.

    One `log` call a step, steps increasing, as the live run does.
    """
    media, rows = media_by_step(folder), {}
    for name in (METRICS, TIMES):
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
    if media:  # W&B names files by the step at which it gets them
        wandb_run.log({}, step=step, commit=False)
    wandb_run.log(values | {k: kinds[p.suffix](str(p)) for k, p in media.items()}, step=step)


def save_files(folder: Path, wandb_run: Any) -> None:
    """The printed model and the uncommitted change, as files of the W&B run."""
    for name in (MODEL_TEXT, SOURCE_DIFF):
        if (folder / name).exists() and (folder / name).stat().st_size:
            copy = shutil.copy(folder / name, wandb_run.dir)  # W&B would only link to the file itself
            wandb_run.save(copy, base_path=wandb_run.dir, policy="now")


def _log_code(wandb_run: Any, family: str) -> None:
    """The source files behind the run's numbers, for W&B's code tab."""
    with tempfile.TemporaryDirectory() as tmp:  # in the project's root, the client would search everything
        for path in source_files(family):
            copy = Path(tmp, path.relative_to(ROOT))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        wandb_run.log_code(tmp, f"code-{family}")


def log_artifacts(wandb_run: Any, folder: Path, config: dict[str, Any], model: Path) -> None:
    """The data set as an input and the best weights as an output: lineage in W&B's artifact graph."""
    import wandb

    if not wandb_run.offline:  # offline the client refuses inputs; the config has the data set's hash
        data = wandb.Artifact(
            f"data-{config['data_hash']}",
            type="dataset",
            metadata={"name": config["dataset"], "hash": config["data_hash"]},
        )
        with data.new_file("dataset.json") as f:
            json.dump(data.metadata, f)
        wandb_run.use_artifact(data)
    artifact = wandb.Artifact(
        f"{config['family']}-{wandb_run.id}", type="model", metadata={"key": config["key"]}
    )
    artifact.add_file(str(model))
    artifact.add_file(str(folder / CONFIG))
    wandb_run.log_artifact(artifact, aliases=["best"])


def use_model(wandb_run: Any, checkpoint: str, file: Path) -> None:
    """Make the model that --checkpoint names an input of the W&B run; W&B may not have it yet."""
    if Path(checkpoint).exists():  # otherwise the checkpoint is an artifact itself
        config = read_json(file.absolute().parents[1] / CONFIG)
        if config is None or not file.name.startswith("best_"):
            return  # W&B gets only the best weights
        place = f"{config.get('entity') or wandb_run.entity}/{config.get('project') or wandb_run.project}"
        checkpoint = f"{place}/{config['family']}-{config['wandb_id']}:best"
    if not wandb_run.offline:
        with contextlib.suppress(Exception):
            wandb_run.use_artifact(checkpoint)


class Mirror(threading.Thread):
    """The W&B run of one run folder; the training process sends it rows through a queue.

    `stop_requested` is set when a user stops the run in W&B. `config` is what W&B shows as the run's
    config.
    """

    def __init__(self, folder: Path, cfg: Any, config: dict[str, Any], **init: Any):
        super().__init__(name="wandb", daemon=True)
        self.folder, self.cfg, self.config, self.init = folder, cfg, config, init
        self.stop_requested = threading.Event()
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._next_step = 0
        self.cpu_s = 0.0  # CPU time of this thread, the client's import included
        self.live_from = 0  # earlier steps are replayed from the folder, the others come by the queue

    def send(self, step: int, row: dict[str, Any], media: dict[str, Path]) -> None:
        self._queue.put(("row", step, row, media))

    def alert(self, title: str, text: str, level: str) -> None:
        """A message to the followers of the project in W&B; level: INFO, WARN or ERROR."""
        self._queue.put(("alert", title, text, level))

    def finish(self, exit_code: int, model: Path | None, preempting: bool, timeout_s: float) -> None:
        """Log the model artifact and end the W&B run; waits at most `timeout_s` and reports if that was too
        short.
        """
        if self.ident is None:  # never started
            return
        self._queue.put(("finish", exit_code, model, preempting))
        self.join(timeout_s)
        if self.is_alive():
            self._complain("W&B has not taken everything yet")

    def run(self) -> None:
        try:
            wandb_run = connect(self.cfg, self._init)
            if wandb_run is None:
                return None
            self._catch_up(wandb_run)
            while True:
                kind, *job = self._queue.get()
                if kind == "finish":
                    return self._finish(wandb_run, *job)
                if kind == "alert":
                    wandb_run.alert(job[0], job[1], job[2])
                elif job[0] >= self._next_step:
                    send(wandb_run, *job)
                    self._next_step = job[0] + 1
                self.cpu_s = time.thread_time()
        except Exception as error:  # whatever W&B does, training goes on; the folder holds everything
            self._complain("W&B stopped taking this run", error)

    def _complain(self, what: str, error: Exception | None = None) -> None:
        why = f" ({first_line(error)})" if error else ""
        folder = escape(shlex.quote(str(self.folder)))
        console.print(f"[yellow]{what}[/]{why}; {folder} holds everything: python launch/upload.py {folder}")

    def _init(self, wandb: Any, mode: str) -> Any:
        init, wandb_id = dict(self.init), self._wandb_id(mode)
        if not under_agent():  # in a sweep, W&B sets these itself and drops ours with a warning
            init |= {"project": self.cfg.project, "entity": self.cfg.entity, "id": wandb_id}
        return wandb.init(
            dir=str(self.folder),
            mode=mode,
            config=texts(self.config),
            resume="allow",
            settings=settings(mode, stop_fn=lambda: self.stop_requested.set()),  # copied: no bound method
            **texts(init),
        )

    def _catch_up(self, wandb_run: Any) -> None:
        """Send what W&B lacks of the run's earlier attempts; online, W&B knows which rows it has."""
        if not wandb_run.offline:
            news.print(f"W&B: {wandb_run.url}")
        wandb_run.define_metric("train/loss_epoch", step_metric="epoch")
        since = 0 if wandb_run.offline else wandb_run.starting_step
        self._next_step = replay(self.folder, wandb_run, since, self.live_from)
        self._try("the code", _log_code, wandb_run, self.config["family"])
        if self.cfg.checkpoint:
            store = Path(self.cfg.data_dir) / "artifacts"
            file = resolve(self.cfg.checkpoint, self.cfg.weights, store)
            use_model(wandb_run, self.cfg.checkpoint, file)

    def _try(self, what: str, send_it: Callable[..., None], *args: Any) -> None:
        """Send something that may be missing: if it fails, the run continues and its status does not
        change.
        """
        try:
            send_it(*args)
        except Exception as error:
            console.print(f"[yellow]W&B did not take {what} of this run[/] ({first_line(error)})")

    def _wandb_id(self, mode: str) -> str:
        """The run's W&B id. Offline segments of earlier attempts are moved aside, because the new one
        contains their rows.

        Offline, a segment that was already synced can't be taken back: then a new id is made, so that no row
        is sent twice. Online, W&B itself says which rows it has.
        """
        config = read_json(self.folder / CONFIG) or {}
        for segment in sorted((self.folder / "wandb").glob("offline-run-*")):
            if mode == "offline" and not under_agent() and any(segment.glob("*.synced")):
                config["wandb_id"] = secrets.token_hex(4)
                console.print(
                    f"an interrupted part of this run is already on W&B under another id; from now on its "
                    f"W&B id is {config['wandb_id']}, which gets the whole run"
                )
                write_json(self.folder / CONFIG, config)
            aside = self.folder / SET_ASIDE
            aside.mkdir(exist_ok=True)
            shutil.move(str(segment), str(aside / segment.name))
        return config["wandb_id"]

    def _finish(self, wandb_run: Any, exit_code: int, model: Path | None, preempting: bool) -> None:
        if preempting:
            wandb_run.mark_preempting()
        self._try("the files", save_files, self.folder, wandb_run)
        if model is not None:
            self._try("the model", log_artifacts, wandb_run, self.folder, self.config, model)
        wandb_run.finish(exit_code=exit_code)
