"""The points of a grid or a random sweep, by W&B's own rules and in its order: the flags of each trial."""

import json
import math
import random
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.results.words import POINTS
from research.common.folder import read_json
from research.common.messages import UserError

MOST = 1_000_000  # points of a sweep, at most


class Points(Sequence[dict[str, Any]]):
    """The points of a grid or a random sweep; each is computed when it is needed, and all take equally long.

    W&B's engine (`sweeps.next_run`) gives the same points in the same order. But to find the next point of a
    grid it goes through the whole grid and all runs, so 1,000 points take a million steps. Here the engine
    only reads the parameters, and a point of a grid is computed from its number.

    A grid ends by itself or at its run_cap. In a random sweep, point i depends only on (parameters, i), so
    the same sweep draws the same points everywhere; if the parameters are discrete, points may repeat. Raises
    UserError for parameters that the engine refuses, and for too many points.
    """

    def __init__(self, content: dict[str, Any]):
        self.method, self.parameters = content["method"], content["parameters"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the engine is written for an older pydantic, and says so
            from sweeps.params import HyperParameterSet

            try:
                self._set = HyperParameterSet.from_config(self.parameters)
                self._choices = {p.name: _choices(p) for p in self._set}
            except Exception as error:  # of many types, depending on what people write into a YAML
                why = " ".join(str(getattr(error, "message", error)).split())
                raise UserError(f"refused by W&B's engine: {why or type(error).__name__}") from None
        cap = content.get("run_cap", math.inf)
        n = cap if self.method == "random" else min(cap, self.distinct)
        if n > MOST:
            key = "run_cap: " if self.method == "random" else "parameters: a grid of "
            raise UserError(
                f"{key}{n:,}: at most {MOST:,} points are planned; give a run_cap of that or less"
            )
        self._n = int(n)

    @property
    def distinct(self) -> int | None:
        """How many different points there are; None if a parameter has infinitely many values."""
        sizes = [None if values is None else len(values) for values in self._choices.values()]
        return None if None in sizes else math.prod(sizes)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._n:
            raise IndexError(index)
        return self._drawn(index) if self.method == "random" else self._counted(index)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def _counted(self, index: int) -> dict[str, Any]:
        """Point `index` of the grid; the flag that is last in the alphabet changes fastest."""
        flags = {}
        for name, values in reversed(self._choices.items()):
            index, i = divmod(index, len(values))
            flags[name] = values[i]
        return dict(reversed(flags.items()))

    def _drawn(self, index: int) -> dict[str, Any]:
        seed_engine(self.parameters, index)
        flags = {p.name: plain(p.sample()) for p in self._set}
        for name, value in flags.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"parameter {name}: draw {index} is {value}, not a finite number")
        return flags


def points_of(folder: Path, spec: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """The points of the sweep in a folder: those that were given one by one, or else those of its YAML."""
    kept = read_json(folder / POINTS)
    return Points(spec) if kept is None else kept["points"]


def _choices(parameter: Any) -> Sequence[Any] | None:
    """The values of one of the engine's parameters; None if there are infinitely many.

    As in the engine's grid, values that are equal in YAML, such as 1 and 1.0, count once, and the last one
    is used.
    """
    from sweeps.grid_search import yaml_hash

    given = parameter.config
    if parameter.type == parameter.CONSTANT:
        return [parameter.value]
    if parameter.type == parameter.INT_UNIFORM:
        return range(given["min"], given["max"] + 1)
    if parameter.type == parameter.Q_UNIFORM:
        import numpy as np

        values = np.arange(given["min"], given["max"], given["q"]).tolist()
    elif parameter.type in (parameter.CATEGORICAL, parameter.CATEGORICAL_PROB):
        values = given["values"]
    else:
        return None
    return list({yaml_hash(value): value for value in values}.values())


def seed_engine(parameters: dict[str, Any], index: int, attempt: int = 0) -> None:
    """Seed Python's and numpy's global generators, from which the engine draws, for one trial and attempt."""
    import hashlib

    import numpy as np

    drawn_for = [parameters, index] if attempt == 0 else [parameters, index, attempt]
    text = json.dumps(drawn_for, sort_keys=True)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    random.seed(seed)
    np.random.seed(seed)


def plain(value: Any) -> Any:
    """A value that YAML and JSON can represent, because the engine may return numpy scalars."""
    return value.item() if hasattr(value, "item") else value


def as_args(flags: dict[str, Any]) -> list[str]:
    """Flags as a command line, as `wandb agent` writes them."""
    return [f"--{name}={value}" for name, value in flags.items()]
