"""The points of a sweep, by W&B's own engine: which flags each trial sets."""

import json
import random
from collections.abc import Iterator
from typing import Any


def points(sweep: dict[str, Any], taken: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The points of a W&B sweep, by W&B's own engine: flags of each trial that is not in `taken`.

    A grid ends by itself. A random sweep needs `run_cap`; point i is a function of (parameters, i), so that
    the same sweep draws the same points anywhere. Raises ValueError for what the engine refuses.
    """
    from sweeps import RunState, SweepRun, next_run

    def as_run(flags: dict[str, Any]) -> SweepRun:
        return SweepRun(config={k: {"value": v} for k, v in flags.items()}, state=RunState.finished)

    config = {k: sweep[k] for k in ("method", "metric", "parameters") if k in sweep}
    seen, cap = [as_run(flags) for flags in taken], sweep.get("run_cap", float("inf"))
    yielded = set()
    index = len(taken) if sweep["method"] == "grid" else 0
    while index < cap:
        if sweep["method"] == "random":
            seed_engine(sweep["parameters"], index)
        point = next_run(config, seen)
        if point is None:
            return
        flags = {name: plain(entry["value"]) for name, entry in point.config.items()}
        index += 1
        if sweep["method"] == "grid":
            seen.append(as_run(flags))
        fingerprint = json.dumps(flags, sort_keys=True)
        if fingerprint not in yielded and flags not in taken:  # random search repeats discrete points
            yielded.add(fingerprint)
            yield flags


def seed_engine(parameters: dict[str, Any], index: int, attempt: int = 0) -> None:
    """The engine draws from Python's and numpy's global generators: both must be seeded."""
    import hashlib

    import numpy as np

    drawn_for = [parameters, index] if attempt == 0 else [parameters, index, attempt]
    text = json.dumps(drawn_for, sort_keys=True)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    random.seed(seed)
    np.random.seed(seed)


def plain(value: Any) -> Any:
    """A value as YAML and JSON have it: the engine returns numpy scalars."""
    return value.item() if hasattr(value, "item") else value


def as_args(flags: dict[str, Any]) -> list[str]:
    """Flags as a command line, as `wandb agent` writes them."""
    return [f"--{name}={value}" for name, value in flags.items()]
