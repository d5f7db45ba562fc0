"""Checkpoint files: named by step and digest, written whole or not at all, found by listing.

`step_00001500_<sha8>.pt` holds 1,500 updates; `best_<sha8>.pt` the weights with the best headline. The digest
in the name reveals a damaged file. The same training state gives the same bytes, whether or not it was
interrupted.
"""

import hashlib
import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.common.flags import require
from research.common.folder import CHECKPOINTS, CONFIG, read_json, write_bytes
from research.common.messages import UserError, console, escape

KEPT = 2  # step files; the one before the newest is used if the newest is damaged
_NAME = re.compile(r"(?:step_(\d{8})|best)_([0-9a-f]{8})\.pt")


def canonical(value: Any) -> Any:
    """A copy of nested dicts, lists and tuples, with tensors on the CPU and strings interned.

    Pickle writes a reference when it meets the same object again, so otherwise the bytes of a loaded state
    would differ from those of a state made in this process.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, Mapping):
        return {canonical(k): canonical(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(canonical(v) for v in value)
    return value


def is_whole(path: Path) -> bool:
    """Whether the content of a checkpoint has the digest in its name."""
    match = _NAME.fullmatch(path.name)
    return bool(match) and hashlib.sha256(path.read_bytes()).hexdigest()[:8] == match[2]


class Checkpoints:
    """The checkpoint folder of one run."""

    def __init__(self, folder: Path):
        self.folder = folder

    def steps(self) -> list[tuple[int, Path]]:
        """(step, file) of every step checkpoint, oldest first."""
        names = ((_NAME.fullmatch(p.name), p) for p in self.folder.glob("step_*.pt"))
        return sorted((int(m[1]), p) for m, p in names if m)

    def newest_step(self) -> int:
        """How many updates the newest checkpoint holds; 0 without one."""
        return max((step for step, _ in self.steps()), default=0)

    def save(self, state: dict[str, Any], name: str) -> Path:
        """Write `state` as `<name>_<sha8>.pt`; name is 'best' or 'step_00001500'."""
        import torch

        buffer = io.BytesIO()
        torch.save(canonical(state), buffer)
        data = buffer.getvalue()
        path = self.folder / f"{name}_{hashlib.sha256(data).hexdigest()[:8]}.pt"
        if not path.exists():
            self.folder.mkdir(exist_ok=True)
            write_bytes(path, data)
        return path

    def load_newest(self) -> dict[str, Any] | None:
        """The newest undamaged step checkpoint, or None; damaged ones are renamed with a warning."""
        for _, path in reversed(self.steps()):
            if is_whole(path):
                return load_file(path)
            aside = path.with_suffix(".damaged")
            path.rename(aside)
            console.print(
                f"[yellow]checkpoint {escape(str(path))} is damaged[/]: renamed to {aside.name}; "
                "the one before it is used"
            )
        return None

    def prune(self, newest: Path, best_files: set[str | None]) -> None:
        """Keep `newest`, the step file before it, and `best_files`, which these two refer to."""
        step = int(_NAME.fullmatch(newest.name)[1])
        before = [path for s, path in self.steps() if s < step]
        kept = {newest, *before[-(KEPT - 1) :], *(self.folder / name for name in best_files if name)}
        for pattern in ("step_*.pt", "best_*.pt"):
            for path in set(self.folder.glob(pattern)) - kept:
                path.unlink()


def load_file(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU. Only tensors and plain values are read, never code."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of exceptions for a broken file
        raise UserError(f"{path}: not a readable checkpoint ({str(error).splitlines()[0]})") from None


def _step_of(path: Path) -> int:
    return load_file(path)["step"]


def resolve(spec: str, weights: str, download_to: Path) -> Path:
    """The file that --checkpoint names: a run folder, a file, or a W&B artifact entity/project/name:alias.

    weights: 'best' or 'last', for a run folder. Raises UserError when there is none.
    """
    path = Path(spec)
    if not path.exists() and re.fullmatch("[0-9a-f]{12}", path.name):  # a key, which ends a folder's name
        named = sorted(path.parent.glob(f"*-{path.name}"))
        if len(named) > 1:
            raise UserError(f"--checkpoint={spec}: must be one of {', '.join(map(str, named))}")
        path = named[0] if named else path
    if path.is_file():
        return path
    if path.is_dir():
        files = sorted((path / CHECKPOINTS).glob("best_*.pt" if weights == "best" else "step_*.pt"))
        if not files:
            raise UserError(
                f"--checkpoint={spec}: this folder has no {weights} checkpoint; is it a run folder?"
            )
        # an unfinished run can hold several best files, and the digests in their names give no order
        return files[-1] if len(files) == 1 or weights == "last" else max(files, key=_step_of)
    if ":" not in spec:
        raise UserError(
            f"--checkpoint={spec}: no such run folder or file (W&B artifacts are ENTITY/PROJECT/NAME:ALIAS)"
        )
    import wandb

    try:
        folder = Path(
            wandb.Api().artifact(spec, type="model").download(str(download_to / spec.replace("/", "_")))
        )
    except (wandb.errors.Error, ValueError) as error:
        raise UserError(
            f"--checkpoint={spec}: W&B gives no such artifact ({str(error).splitlines()[0]})"
        ) from None
    return next(folder.glob("*.pt"))


def config_of(file: Path) -> dict[str, Any] | None:
    """The config.json of the run that made a checkpoint, or None: two levels above it, or, where it was
    downloaded as a W&B artifact, beside it.
    """
    file = file.absolute()
    return read_json(file.parent.parent / CONFIG) or read_json(file.parent / CONFIG)


def load_weights(cfg: Any, model: Any, file: Path | None = None, same: Sequence[str] = ()) -> Any:
    """`model` with the weights of --checkpoint, or of its `file` if that is known. UserError: the weights do
    not fit.

    same: flags that define the parts of the data and must equal those of the run that made the weights:
    otherwise the model may have been trained on the test part.
    """
    file = file or resolve(cfg.checkpoint, cfg.weights, Path(cfg.data_dir) / "artifacts")
    flags = (config_of(file) or {}).get("flags", {})
    for name in same:
        require(name in flags, cfg, "checkpoint", f"of a run whose config.json has the flag --{name}")
        allowed = (
            f"{flags[name]}, as in the run of --checkpoint; else the model may have been trained on "
            "the test part"
        )
        require(flags[name] == getattr(cfg, name), cfg, name, allowed)
    try:
        model.load_state_dict(load_file(file)["states"][0])
    except (UserError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"--checkpoint={cfg.checkpoint}: no weights of this model ({reason})") from None
    return model
