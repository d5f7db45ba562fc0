"""Flags: a flat, frozen dataclass per script, the common flags of all scripts, and the flags that make up a
run's key.

Flags that cannot change a run's numbers are marked with `aside(...)`; all others are *result flags* and make
up the run's key.
"""

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from research.common.messages import UserError

C = TypeVar("C")
GIVEN: set[str] = set()  # the flags that the command line gave; empty if Python calls a script's function
VARIED = "RUN_VARIED"  # environment: names of the flags that a sweep varies, separated by commas


def aside(default: Any, *tasks: str) -> Any:
    """A flag that does not change a run's numbers (paths, cadence, device, W&B) and so is not in its key.

    tasks: the only tasks that read it; with any other task the flag is refused, because it would have no
    effect.
    """
    return field(default=default, metadata={"result": False, "tasks": tasks})


def of_data(default: Any) -> Any:
    """A flag that says how the file of --dataset is read. The key contains the hash of what was read instead;
    a task on the run's own --dataset takes the flag from the run.
    """
    return field(default=default, metadata={"result": False, "of_data": True})


def per_task(default: Any, *tasks: str) -> Any:
    """A flag that changes a run's numbers, but that a task on its checkpoint sets for itself.

    tasks: the only tasks that read it, train among them.
    """
    return field(default=default, metadata={"per_task": True, "tasks": tasks})


def resolved(default: Any) -> Any:
    """A flag that is None until the script derives its value from others; for the key, `default` is its
    default.
    """
    return field(default=None, metadata={"default": default})


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """The flags that every family has, with the same meaning everywhere."""

    WITHOUT_CHECKPOINT: ClassVar[tuple[str, ...]] = ("train",)  # tasks that read none

    task: str = aside("train")
    """train, or what to do with a --checkpoint"""
    dataset: str = aside("synthetic")
    """a named set, or a path to your own file or folder (its content, not its name, enters the run's key)"""
    data_dir: str = aside("data/store")
    """folder of the named data sets and of the cache of decoded data"""
    out: str = aside("runs")
    """folder that holds the run folders"""
    name: str | None = aside(None)
    """name of this run's folder; default: the family, the flags that differ from their defaults, and the
    run's key"""
    checkpoint: str | None = None
    """a run folder, a checkpoint file or a W&B artifact; with --task=train: start from these weights"""
    weights: Literal["best", "last"] = "best"
    """which weights of --checkpoint to use"""
    config: str | None = aside(None)
    """start from the flags in this config.json; flags given on the command line win"""
    seed: int = 0
    """seed of all random draws; the draws of a step depend only on (seed, step)"""
    steps: int = 1000
    """training length in steps; a step is one optimiser update"""
    epochs: int | None = None
    """training length in full passes over the training part, instead of --steps"""
    batch_size: int = 64
    """examples per step"""
    learning_rate: float = 0.001
    """peak learning rate"""
    log_every: int = aside(50, "train")
    """steps between rows of training metrics"""
    eval_every: int = 500
    """steps between evaluations on the validation part; step 0 and the last step are always evaluated"""
    sample_every: int = aside(500, "train")
    """steps between pictures; 0: at steps 0, 1, 2, 4, 8 ..."""
    save_every: int = aside(500, "train")
    """steps between checkpoints; the last step is always saved"""
    device: str = aside("auto")
    """auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """arithmetic of the forward pass; parameters stay fp32"""
    compile: bool = False
    """torch.compile the model"""
    threads: int | None = aside(None)
    """number of CPU threads of torch; a number given here is kept even when other processes need the cores.
    Default: one per free core (after an interruption: as many as before), and only one when other processes
    take the cores"""
    deterministic: bool = False
    """deterministic kernels, needed for bit-exact resume on CUDA"""
    wandb: Literal["online", "offline", "disabled"] | None = aside(None)
    """W&B mode; default: the value of WANDB_MODE if it is set, else online if you are logged in, else
    offline"""
    project: str = aside("letters-and-latents")
    """W&B project"""
    entity: str | None = aside(None)
    """W&B entity (user or team); default: yours"""
    fresh: bool = aside(False, "train")
    """move an existing folder of this run aside and start from the beginning"""
    reuse: bool = aside(False, "train")
    """continue an existing run (or skip it if it is finished) even if the code has changed since"""
    quiet: bool = aside(False)
    """print only warnings, errors and requested output; do not print progress, layers and figures"""

    def __post_init__(self):
        for name in ("steps", "batch_size", "log_every", "eval_every", "save_every", "epochs", "threads"):
            value = getattr(self, name)
            if value is not None:
                require(value >= 1, self, name, "at least 1")
        require(self.sample_every >= 0, self, "sample_every", "at least 0 (0: at steps 0, 1, 2, 4, 8 ...)")
        require(0 < self.learning_rate < float("inf"), self, "learning_rate", "a number above 0")
        require(0 <= self.seed < 2**31, self, "seed", "from 0 to 2147483647")
        ok = re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device)
        require(bool(ok), self, "device", "auto, cpu, cuda, cuda:N or mps")
        has_checkpoint = self.task in self.WITHOUT_CHECKPOINT or self.checkpoint is not None
        require(has_checkpoint, self, "task", "used with --checkpoint=RUN_FOLDER, which it reads")
        require(not (self.fresh and self.reuse), self, "fresh", "used without --reuse")
        plain = self.name is None or (self.name not in ("", ".", "..") and "/" not in self.name)
        require(plain, self, "name", "a plain folder name; --out says where it lies")


def refuse_idle(cfg: Any) -> None:
    """Refuse a flag that the command line gives and that the task of `cfg` does not read."""
    for f in dataclasses.fields(cfg):
        tasks = f.metadata.get("tasks", ())
        if f.name in GIVEN and tasks and cfg.task not in tasks:
            if f.name == "checkpoints":  # the user did not write that name
                n = len(cfg.checkpoints) + 1
                raise UserError(f"--checkpoint was given {n} times: only --task={tasks[0]} takes several")
            own = typing.get_args(typing.get_type_hints(type(cfg))["task"])  # some flags serve two scripts
            value, readers = getattr(cfg, f.name), ", ".join(task for task in tasks if task in own or not own)
            raise UserError(f"--{f.name}={value}: --task={cfg.task} does not read it, only {readers}")


def require(ok: bool, cfg: Any, name: str, allowed: str) -> None:
    """Refuse the flag `name` of `cfg` in one line unless `ok`."""
    if not ok:
        raise UserError(f"--{name}={getattr(cfg, name)}: must be {allowed}")


def result_names(cfg: Any) -> list[str]:
    """Names of the flags, of an instance or a class, that a run's numbers may depend on."""
    return [f.name for f in dataclasses.fields(cfg) if f.metadata.get("result", True)]


def result_flags(cfg: Any) -> dict[str, Any]:
    """The flags of `cfg` that its numbers depend on. With --epochs, --steps only follows from it."""
    flags = {name: getattr(cfg, name) for name in result_names(cfg)}
    if cfg.checkpoint is None:
        flags.pop("weights")  # --weights says nothing without --checkpoint
    flags.pop("epochs" if cfg.epochs is None else "steps")
    return flags


def changed_flags(cfg: Any) -> dict[str, Any]:
    """The result flags of `cfg` that differ from the defaults of its class (required flags always count)."""
    defaults = {f.name: f.metadata.get("default", f.default) for f in dataclasses.fields(cfg)}
    return {k: v for k, v in result_flags(cfg).items() if v != defaults[k]}


def with_epochs(cfg: C, n_train: int) -> C:
    """`cfg` with --steps derived from --epochs (if given) for `n_train` training examples.

    An epoch is `n_train // batch_size` steps. Raises UserError when the batch is larger than the data set.
    """
    steps_per_epoch = n_train // cfg.batch_size
    require(steps_per_epoch >= 1, cfg, "batch_size", f"at most {n_train}, the number of training examples")
    return cfg if cfg.epochs is None else dataclasses.replace(cfg, steps=cfg.epochs * steps_per_epoch)
