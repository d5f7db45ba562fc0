"""Starting a run: which folder, whose lease, what is refused, how torch is set up."""

import contextlib
import dataclasses
import os
import secrets
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from research.common import lease as leases
from research.common import provenance
from research.common.client import under_agent
from research.common.commandline import AT_CRASH
from research.common.files import read_json, read_rows, write_bytes, write_json
from research.common.flags import VARIED, UserError, changed_flags, console, escape, result_flags, run_key
from research.common.run import STOP_FILE, Preempted, Run
from research.common.tracking import Mirror

DONE = ("finished", "diverged")  # a run with such a status is skipped


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


def start_run(cfg: Any, script: str, key_version: int, data: Any, headline: str, goal: str) -> Run:
    """Take the run folder of `cfg` and get ready: refuse what does not fit, take the lease, seed, start W&B.

    script: the caller's `__file__`; data: has `name`, `content_hash` and `train`; headline: the key whose
    best weights are kept, goal: 'minimize' or 'maximize'. Raises UserError, and Preempted when another
    process is training this run. `run.finished` is True when nothing is left to do.
    """
    device, family = pick_device(cfg.device), Path(script).stem
    key = run_key(family, key_version, cfg, data.content_hash)
    given = os.environ.get("WANDB_RUN_ID") if under_agent() else None  # W&B's own name for the run
    name = cfg.name or given or key
    folder = Path(cfg.out) / name
    if leases.HANDOVER in os.environ and name != key:
        raise UserError(f"--dataset={cfg.dataset}: its content is not what it was when the sweep was planned")
    source = provenance.source_hash(family)
    kept = read_json(folder / "config.json")
    if kept is not None and not cfg.fresh:
        _refuse_other(folder, kept, cfg, key, source)
    run = Run(folder, cfg, device, headline, goal, len(data.train))
    if _skip(run):  # before the lease: nothing is touched
        return run
    run.lease = leases.adopt(folder) or _acquire(folder)
    if _skip(run):  # another process ended it while we waited for the lease
        return run
    kept = read_json(folder / "config.json")
    if cfg.fresh and kept is not None:
        run.lease = _set_aside(folder, run.lease)
        kept = None
    run.status = (read_json(folder / "status.json") if kept else None) or {"segments": []}
    AT_CRASH.append(run.crash)
    died = leases.deaths_without_progress(folder, run.checkpoints.newest_step()) - 1  # less this attempt
    if died >= leases.MAX_DEATHS:
        run.fail(reason := f"died {died} times at step {run.checkpoints.newest_step()}")
        console.print(f"[bold red]error:[/] {escape(str(folder))} {reason}; run it again to try once more")
        sys.exit(1)
    (folder / STOP_FILE).unlink(missing_ok=True)
    _set_up_torch(cfg, kept)
    git = provenance.git_state()
    # inside an agent the run goes where the sweep is, whatever its flags say
    place = {k: (under_agent() and os.environ.get(f"WANDB_{k.upper()}")) or getattr(cfg, k)
             for k in ("project", "entity")}  # fmt: skip
    config = place | {
        "family": family, "task": "train", "key": key, "dataset": data.name, "data_hash": data.content_hash,
        "flags": dataclasses.asdict(cfg), "headline": headline, "goal": goal, "threads":
        torch.get_num_threads(), "wandb_id": kept["wandb_id"] if kept else given or secrets.token_hex(4),
        "source": {"hash": source, "commit": git["commit"], "dirty": bool(git["diff"])},
    }  # fmt: skip
    write_json(folder / "config.json", config)
    write_bytes(folder / "source.diff", git["diff"].encode(errors="surrogateescape"))
    segment = {
        "host": socket.gethostname(),
        "device": device.type,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "commit": git["commit"],
        "source": source,
        "started": round(time.time(), 3),
        "from_step": 0,
    }
    _warn_changed(run, segment)
    run.status = {
        "status": "running",
        "reason": None,
        "step": 0,
        "steps": cfg.steps,
        "headline": None,
        "segments": [*run.status["segments"], segment],
    }
    run._write_status("running")
    shown = {k: v for k, v in config.items() if k != "flags"} | config["flags"]
    run.mirror = Mirror(folder, cfg, shown, job_type="train", tags=[family, data.name[:64]],
                        name=cfg.name if cfg.name not in (None, key) else _label(cfg),
                        group=os.environ.get("WANDB_RUN_GROUP"))  # fmt: skip
    _handle_signals(run)
    run._say(
        f"{family} on {data.name} ({len(data.train):,} training examples), {cfg.steps:,} steps, {device}"
    )
    return run


def _label(cfg: Any) -> str:
    """The run's name in W&B: the flags that its sweep varies, else those that differ from their defaults."""
    names = os.environ.get(VARIED, "").split(",")
    if names == [""] and under_agent():  # an agent of W&B itself: all that the sweep sets
        with contextlib.suppress(KeyError, OSError, ValueError, TypeError):
            names = list(yaml.safe_load(Path(os.environ["WANDB_SWEEP_PARAM_PATH"]).read_text()))
    results = result_flags(cfg)
    flags = {k: results[k] for k in names if k in results} or changed_flags(cfg)
    return " ".join(f"{k}={v}" for k, v in flags.items())[:128] or "defaults"


def _skip(run: Run) -> bool:
    """Whether the run is done already, and not to be trained anew; then `run` is ready to be returned."""
    status = read_json(run.folder / "status.json") or {}
    whole = (run.folder / "config.json").exists()
    if run.cfg.fresh or not whole or status.get("status") not in DONE:
        return False
    run.finished, run.status = True, status
    run.metrics = {k: v for row in read_rows(run.folder / "metrics.jsonl") for k, v in row.items()}
    if run.lease:
        run.lease.release(status["status"])
    run._say(f"is {status['status']} already; --fresh trains it anew")
    return True


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
            f"{folder} holds a run of another configuration: {what}; choose another --name or --fresh"
        )
    if kept["source"]["hash"] != source and not cfg.reuse:
        raise UserError(
            f"{folder} was made by other code than this ({kept['source']['hash']}, now {source}): "
            "--fresh sets it aside and trains anew, --reuse goes on with it"
        )


def _acquire(folder: Path) -> leases.Lease:
    """The lease of `folder`, after waiting as long as its holder may only be slow; Preempted when it is
    alive.
    """
    watch, told, first = leases.Watch(), False, None
    while (lease := leases.acquire(folder, watch)) is None:
        n, info = leases.newest(folder)
        holder = f"process {info['pid']} on {info['host']}" if info else "an unreadable lease"
        seen = n, info and (info["pid"], info["beats"])
        if leases.is_local(info) or (first or seen) != seen:  # its process is there, or its counter moves
            console.print(f"[bold red]error:[/] {escape(str(folder))} is being trained by {escape(holder)}")
            raise Preempted
        first = seen
        if not told:
            console.print(
                f"{escape(str(folder))} is held by {escape(holder)}: watching whether it is still alive "
                f"(at most {leases.PATIENCE_S['train']:.0f} s)"
            )
            told = True
        time.sleep(2)
    return lease


def _set_aside(folder: Path, lease: leases.Lease) -> leases.Lease:
    """--fresh: the old folder gets another name; the lease is taken anew in an empty one."""
    lease.release("set aside")
    k = 1
    while (old := folder.with_name(f"{folder.name}.old-{k}")).exists():
        k += 1
    folder.rename(old)
    console.print(f"{escape(str(folder))}: the old run is now {escape(old.name)}")
    return _acquire(folder)


def _set_up_torch(cfg: Any, kept: dict[str, Any] | None) -> None:
    """Threads as the run had them (bit-exact resume depends on it), deterministic kernels where asked for."""
    threads = cfg.threads or (kept["threads"] if kept else None)
    if threads:
        torch.set_num_threads(threads)
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not cfg.deterministic


def _warn_changed(run: Run, segment: dict[str, Any]) -> None:
    step = run.checkpoints.newest_step()
    if run.status["segments"] and step:
        before = run.status["segments"][-1]
        changed = [k for k in ("device", "torch", "threads", "source") if before.get(k) != segment[k]]
        if changed:
            run._say(f"warning: not bit-exact from step {step}: {', '.join(changed)} changed")


def _handle_signals(run: Run) -> None:
    """Handlers only set a flag; the loop acts on it at the next step boundary."""

    def handle(number: int, _frame: Any) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT" and run._signal == "SIGINT":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        run._signal = name
        console.print(f"{name}: saving at the next step" + (" (again: abort)" if name == "SIGINT" else ""))

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handle)
