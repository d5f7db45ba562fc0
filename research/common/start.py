"""Starting a run: choose its folder, take its lease, refuse what does not fit, set up torch."""

import contextlib
import dataclasses
import os
import re
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from research.common import identity, processor
from research.common import lease as leases
from research.common.flags import GIVEN, VARIED, RunFlags, changed_flags, result_flags, result_names
from research.common.folder import (
    CONFIG,
    read_json,
)
from research.common.identity import run_key
from research.common.messages import UserError, console, escape, hush, news
from research.common.run import Preempted, Run
from research.common.threads import set_threads
from research.common.wandb_client import under_agent


def pick_device(name: str) -> torch.device:
    """The torch device of --device. Raises UserError when the one asked for is not there."""
    mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device={name}: torch {torch.__version__} sees no CUDA device; allowed: auto, cpu")
    if name.startswith("cuda:") and int(name[5:]) >= torch.cuda.device_count():
        raise UserError(
            f"--device={name}: there are {torch.cuda.device_count()} CUDA devices, from cuda:0 on"
        )
    if name == "mps" and not mps:
        raise UserError("--device=mps: torch sees no MPS device; allowed: auto, cpu")
    return torch.device(name)


def start_run(cfg: Any, script: str, key_version: int, data: Any, headline: tuple[str, str]) -> Run:
    """Take the run folder of `cfg` and prepare the run: refuse what does not fit, take the lease, set up
    torch.

    script: the caller's `__file__`; data: has `name`, `content_hash` and `train`; headline: the key whose
    best weights are kept, and 'minimize' or 'maximize'. Raises UserError, and Preempted when another process
    is training this run. `run.finished` is True when nothing is left to do.
    """
    hush(cfg.quiet)
    device, family = pick_device(cfg.device), Path(script).stem
    key = run_key(family, key_version, cfg, data.content_hash)
    given = os.environ.get("WANDB_RUN_ID") if under_agent() else None  # W&B's own name for the run
    folder = run_folder(cfg, family, key) if given is None else Path(cfg.out) / (cfg.name or given)
    if leases.HANDOVER in os.environ and folder.name != key:
        raise UserError(f"--dataset={cfg.dataset}: its content is not what it was when the sweep was planned")
    source = identity.source_hash(family)
    kept = read_json(folder / CONFIG)
    if kept is not None and not cfg.fresh:
        _refuse_other(folder, kept, cfg, key, source)

    # check before taking the lease, so that a finished run is not changed, and again afterwards: another
    # process may have ended the run while we waited
    run = Run(folder, cfg, device, headline, len(data.train))
    if run.already_done():
        return run
    run.lease = leases.adopt(folder) or _acquire(folder)
    if run.already_done():
        return run
    kept = read_json(folder / CONFIG)
    if cfg.fresh and kept is not None:
        run.lease = _set_aside(folder, run.lease)
        kept = None
    run.hold(run.lease)

    _set_up_torch(cfg, run.status["segments"])
    git, threads = identity.git_state(), torch.get_num_threads()
    config = _place(cfg) | {
        "family": family,
        "task": "train",
        "key": key,
        "dataset": data.name,
        "data_hash": data.content_hash,
        "flags": dataclasses.asdict(cfg),
        "result_flags": result_names(cfg),
        "headline": run.headline,
        "goal": run.goal,
        "threads": threads,
        "wandb_id": kept["wandb_id"] if kept else given or secrets.token_hex(4),
        "source": {"hash": source, "commit": git["commit"], "dirty": bool(git["diff"])},
    }
    segment = {
        "host": socket.gethostname(),
        "device": device.type,
        "processor": processor.name_of(device),
        "torch": torch.__version__,
        "threads": threads,
        "commit": git["commit"],
        "source": source,
        "started": round(time.time(), 3),
        "from_step": 0,
    }
    run.begin(
        config,
        segment,
        git["diff"],
        job_type="train",
        tags=[family, data.name[:64]],
        name=cfg.name if cfg.name not in (None, key) else _label(cfg),
        group=os.environ.get("WANDB_RUN_GROUP"),
    )
    run.say(f"{family} on {data.name} ({len(data.train):,} training examples), {cfg.steps:,} steps, {device}")
    return run


def run_folder(cfg: Any, family: str, key: str) -> Path:
    """The run's folder in --out: --name, else any folder whose name ends with the run's key, else
    <family>-<flags>-<key>.

    <flags>: the data set and three other flags that are not at their defaults, those of the family before
    those of all families, each with its name before a number; on a command line only flags that are given
    there.
    """
    out = Path(cfg.out)
    if cfg.name:
        return out / cfg.name
    found = [out / key] if (out / key).is_dir() else sorted(out.glob(f"*-{key}"))
    common = {field.name for field in dataclasses.fields(RunFlags)}
    changed = sorted(changed_flags(cfg).items(), key=lambda flag: flag[0] in common)
    changed = [(name, value) for name, value in changed if name in GIVEN or not GIVEN][:3]
    words = [v if isinstance(v, str) else name if v is True else f"{name}{v}" for name, v in changed]
    if cfg.dataset != type(cfg).dataset:
        words.insert(0, cfg.dataset)
    words = [
        re.sub(r"[^\w.]+", "_", Path(word).stem if "/" in word else word)[:24].strip("_") for word in words
    ]
    words = [word for word in words if word.strip("_")]
    return found[0] if found else out / "-".join([family, *words, key])


def _place(cfg: Any) -> dict[str, Any]:
    """W&B project and entity: inside an agent they are those of the sweep, whatever the flags say."""
    place = {"project": cfg.project, "entity": cfg.entity}
    if under_agent():
        place = {k: os.environ.get(f"WANDB_{k.upper()}") or v for k, v in place.items()}
    return place


def _label(cfg: Any) -> str:
    """The run's name in W&B: the flags that its sweep varies, else those that differ from their defaults."""
    names = os.environ.get(VARIED, "").split(",")
    if names == [""] and under_agent():  # an agent of W&B itself: all that the sweep sets
        with contextlib.suppress(KeyError, OSError, ValueError, TypeError):
            given = Path(os.environ["WANDB_SWEEP_PARAM_PATH"]).read_text(encoding="utf-8")
            names = list(yaml.safe_load(given))
    results = result_flags(cfg)
    flags = {k: results[k] for k in names if k in results} or changed_flags(cfg)
    return " ".join(f"{k}={v}" for k, v in flags.items())[:128] or "defaults"


def _refuse_other(folder: Path, kept: dict[str, Any], cfg: Any, key: str, source: str) -> None:
    """Refuse a folder that holds another configuration, or this one made by other code."""
    if kept["key"] != key:
        flags = result_flags(cfg)
        differ = [
            f"--{k}={v} (there: {kept['flags'].get(k)})"
            for k, v in flags.items()
            if kept["flags"].get(k) != v
        ]
        what = ", ".join(differ) or "the data set's content"
        raise UserError(
            f"{folder} holds a run with another configuration: {what}; choose another --name or --fresh"
        )
    if kept["source"]["hash"] != source and not cfg.reuse:
        raise UserError(
            f"{folder} was made by different code (hash {kept['source']['hash']}, now {source}): "
            "--fresh moves it aside and trains it again, --reuse continues it"
        )


def _acquire(folder: Path) -> leases.Lease:
    """The lease of `folder`, after waiting as long as its holder may just be slow.

    Raises Preempted when the holder is alive, that is, its process exists or its counter moves.
    """
    watch, first = leases.Watch(), None
    while (lease := leases.acquire(folder, watch)) is None:
        n, info = leases.newest(folder)
        holder = f"process {info['pid']} on {info['host']}" if info else "an unreadable lease"
        seen = n, info and (info["pid"], info["beats"])
        if leases.is_local(info) or (first or seen) != seen:
            console.print(f"[bold red]error:[/] {escape(str(folder))} is being trained by {escape(holder)}")
            raise Preempted
        if first is None:
            console.print(
                f"{escape(str(folder))} is held by {escape(holder)}: watching whether it is still alive "
                f"(at most {leases.PATIENCE_S['train']:.0f} s)"
            )
        first = seen
        time.sleep(2)
    return lease


def _set_aside(folder: Path, lease: leases.Lease) -> leases.Lease:
    """--fresh: rename the old folder; take the lease in a new, empty one."""
    lease.release("set aside")
    k = 1
    while (old := folder.with_name(f"{folder.name}.old-{k}")).exists():
        k += 1
    folder.rename(old)
    news.print(f"{escape(str(folder))}: the old run is now {escape(old.name)}")
    return _acquire(folder)


def _set_up_torch(cfg: Any, segments: list[dict[str, Any]]) -> None:
    """Set the number of threads that the run had (bit-exact resume depends on it), and deterministic kernels
    if --deterministic.
    """
    set_threads(cfg.threads, segments[-1]["threads"] if segments else None)
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not cfg.deterministic
