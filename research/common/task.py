"""A task that reads a checkpoint and writes pictures and numbers beside it; in W&B it is a separate run.

A family calls `find_run`, `flags_of_run`, `load_weights` and `start_task`, then `picture`, `video`, `gif`,
`html` and `numbers`, at the end `finish`. The training run's log and its W&B folder are never touched.
Running a task again with the same flags overwrites its files; with other flags it writes to another folder.
"""

import dataclasses
import hashlib
import math
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from data.terminal import readable
from research.common.checkpoints import config_of, resolve
from research.common.flags import GIVEN, RunFlags, require, result_names
from research.common.folder import CONFIG, RESULTS, write_bytes, write_json
from research.common.messages import console, escape, hush, news
from research.common.progress import show_figures
from research.common.randomness import make_rng
from research.common.start import pick_device
from research.common.threads import set_threads
from research.common.wandb_client import connect, first_line, settings, texts
from research.common.wandb_mirror import SET_ASIDE, send, use_model
from research.draw import pictures

OF_EVERY_TASK = ("dataset", "checkpoint", "weights", "seed")  # result flags that each task sets for itself


def find_run(cfg: Any, family: str) -> tuple[Path, dict[str, Any]]:
    """The file that --checkpoint names, and the config.json of the run that made it.

    Raises UserError, which names --checkpoint, where either is missing or the run is of another family.
    """
    file = resolve(cfg.checkpoint, cfg.weights, Path(cfg.data_dir) / "artifacts").absolute()
    config = config_of(file)
    require(config is not None, cfg, "checkpoint", f"of a run: no readable config.json in {file.parents[1]}")
    made_by = config.get("family")
    require(made_by == family, cfg, "checkpoint", f"a run of {family}; this one is of {made_by}")
    return file, config


def flags_of_run(cfg: Any, run_config: dict[str, Any], *reads: str) -> Any:
    """`cfg` with the run's own model: every result flag of the family except those that are `per_task`; and
    with the run's data, read as in the run, unless the user chose other data. reads: other result flags that
    this task sets for itself.

    Any other flag on the command line must have the run's value, because it could have no effect. For a run
    that is older than a flag, the flag has its default, as it does in the run's key.
    """
    common = {field.name for field in dataclasses.fields(RunFlags)}
    of_task = {field.name for field in dataclasses.fields(cfg) if field.metadata.get("per_task")}
    names = [name for name in result_names(cfg) if name not in common | of_task]
    defaults = {field.name: field.default for field in dataclasses.fields(cfg)}
    names += [name for name in ("dataset", "data_dir") if getattr(cfg, name) == defaults[name]]
    kept = run_config.get("flags", {})
    require(bool(kept), cfg, "checkpoint", "of a run whose config.json lists its flags")
    for name in result_names(cfg):
        if name in GIVEN and name not in of_task and name not in (*OF_EVERY_TASK, *reads):
            of_run = kept.get(name, defaults[name])
            allowed = f"{of_run}, as in the run of --checkpoint: --task={cfg.task} cannot change it"
            require(getattr(cfg, name) == of_run, cfg, name, allowed)
    if "dataset" in names:  # how its file is read
        of_data = [field.name for field in dataclasses.fields(cfg) if field.metadata.get("of_data")]
        names += [name for name in of_data if name in kept and getattr(cfg, name) == defaults[name]]
    for name in names:
        if name not in kept:
            console.print(f"this run is older than the flag --{name}: the default, {defaults[name]}, is used")
    return dataclasses.replace(cfg, **{name: kept.get(name, defaults[name]) for name in names})


def start_task(cfg: Any, checkpoint_file: Path, run_config: dict[str, Any], **more: Any) -> "Task":
    """The task of `cfg` on the checkpoint and config.json that `find_run` found. more: what the user gave
    besides the flags; W&B and the name of the folder show it, too.

    The task's folder lies in the run's folder, or, for a checkpoint outside a run, in <out>/<name or the
    run's key>/. Its name consists of the task, a checkpoint's step and the flags that are not at their
    defaults. Nothing is
    written there before the first file. Raises UserError if --device does not exist.
    """
    run = checkpoint_file.absolute().parents[1]
    if not (run / CONFIG).exists():
        run = Path(cfg.out) / (cfg.name or run_config.get("key") or checkpoint_file.stem)
    hush(cfg.quiet)
    device = pick_device(cfg.device)
    set_threads(cfg.threads)
    name = _folder_name(cfg, checkpoint_file, run_config, more)
    return Task(cfg, run / name, device, checkpoint_file, run_config, more)


def _folder_name(cfg: Any, checkpoint_file: Path, run_config: dict[str, Any], more: dict[str, Any]) -> str:
    """The task, a checkpoint's step, and flags not at their defaults: `interpolate-index=3-seed=1`."""
    words = [cfg.task]
    if checkpoint_file.name.startswith("step_"):
        words.append(checkpoint_file.stem[: len("step_00001500")])
    kept, results = run_config.get("flags", {}), set(result_names(cfg))
    common = {field.name for field in dataclasses.fields(RunFlags)}
    flags = dict(more)
    for f in dataclasses.fields(cfg):
        readers, value = f.metadata.get("tasks", ()), getattr(cfg, f.name)
        own = cfg.task in readers or f.metadata.get("per_task") or f.name in ("seed", "precision")
        of_run = f.name == "dataset" or f.metadata.get("of_data") or f.name in results - common
        if (own and value != f.default) or (not own and of_run and value != kept.get(f.name, value)):
            flags[f.name] = value
    for flag, value in flags.items():
        slug = re.sub(r"[^\w.,+=-]+", "_", str(value))
        if slug != str(value):  # otherwise another text could give the same name
            slug += f"~{hashlib.sha256(str(value).encode(errors='replace')).hexdigest()[:4]}"
        words.append(f"{flag}={slug}")
    name = "-".join(words)
    return name if len(name) <= 100 else f"{name[:90]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class Task:
    """A running task, made by `start_task`. folder: where its files go; device: torch.device."""

    def __init__(
        self, cfg: Any, folder: Path, device: torch.device, source: Path, run_config: dict, more: dict
    ):
        self.cfg, self.folder, self.device = cfg, folder, device
        self._source, self._run_config, self._more = source, run_config, more
        self._files: dict[str, Path] = {}  # by their key in W&B
        self._results: dict[str, Any] = {}

    def rng(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A new generator with --seed at each call; by default on the CPU, so that draws are equal on every
        device.
        """
        return make_rng(self.cfg.seed, 0, "pictures", device)

    def picture(self, name: str, array: Any) -> None:
        """Write `<name>.png` of uint8 (H, W, 3)."""
        self._wrote(name, pictures.write_png(self.folder / f"{name}.png", array))

    def video(self, name: str, frames: Any, fps: float, **options: Any) -> None:
        """Write `<name>.mp4`; frames and options as in `pictures.write_mp4`."""
        self._wrote(name, pictures.write_mp4(self.folder / f"{name}.mp4", frames, fps, **options))

    def gif(self, name: str, frames: Any, fps: float, **options: Any) -> None:
        """Write `<name>.gif`; frames and options as in `pictures.write_gif`."""
        self._wrote(f"{name}_gif", pictures.write_gif(self.folder / f"{name}.gif", frames, fps, **options))

    def html(self, name: str, page: str) -> None:
        """Write `<name>.html`."""
        path = self.folder / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, readable(page).encode())
        self._wrote(name, path)

    def numbers(self, values: Mapping[str, Any]) -> None:
        """Write `results.json`: nested numbers, tensors and text (null: not finite), checkpoint and files."""
        self._results = _plain(values)
        content = {
            "task": self.cfg.task,
            "checkpoint": str(self._source),
            "seed": self.cfg.seed,
        } | self._results
        content["files"] = sorted(path.name for path in self._files.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / RESULTS, content)
        news.print(escape(str(self.folder / RESULTS)))
        show_figures(f"{self.cfg.task} of {self._run_config.get('key')}", self._results)

    def finish(self) -> None:
        """Log everything to W&B as a separate run. If W&B fails, the files are still there, and one line says
        so.
        """
        try:
            if (wandb_run := connect(self.cfg, self._init)) is None:
                return
            use_model(wandb_run, self.cfg.checkpoint, self._source)
            send(wandb_run, 0, dict(_numbers(self._results, f"{self.cfg.task}/")), self._files)
            copy = shutil.copy(self.folder / RESULTS, wandb_run.dir)  # W&B would make a link
            wandb_run.save(copy, base_path=wandb_run.dir, policy="now")
            wandb_run.finish(exit_code=0)
        except Exception as error:  # whatever W&B raises, the files are there
            reason, folder = first_line(error), escape(str(self.folder))
            console.print(f"[yellow]W&B did not take this task[/] ({reason}); {folder} holds everything")

    def _wrote(self, key: str, path: Path) -> None:
        self._files[f"{self.cfg.task}/{key}"] = path
        news.print(escape(str(path)))

    def _init(self, wandb: Any, mode: str) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)  # otherwise W&B would choose another folder
        for segment in (self.folder / "wandb").glob("offline-run-*"):  # of an earlier call, now overwritten
            (self.folder / SET_ASIDE).mkdir(exist_ok=True)
            shutil.move(str(segment), str(self.folder / SET_ASIDE / segment.name))
        run, digest = self._run_config, hashlib.sha256(self._source.read_bytes()).hexdigest()
        lineage = {
            "family": run["family"],
            "checkpoint_run": run.get("wandb_id"),
            "checkpoint_key": run.get("key"),
            "checkpoint_file": self._source.name,
            "checkpoint_sha256": digest,
        }
        return wandb.init(
            dir=str(self.folder),
            mode=mode,
            project=self.cfg.project,
            entity=self.cfg.entity,
            id=secrets.token_hex(4),
            name=f"{self.cfg.task} of {run.get('key')}",
            job_type=self.cfg.task,
            tags=[run["family"], self.cfg.task],
            config=texts(dataclasses.asdict(self.cfg) | self._more | lineage),
            settings=settings(mode),
        )


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Single numbers by their key, those of nested tables by all their names joined; lists are only in the
    file.
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            yield f"{prefix}{name}", value


def _plain(value: Any) -> Any:
    """Nested JSON values: tensors and arrays as lists, values that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
