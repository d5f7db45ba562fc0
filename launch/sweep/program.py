"""A training script as a sweep sees it: its flags, its data, the keys of its runs, and their headline.

The `program:` of a YAML names it. It is imported only when it is needed, because that imports torch; so
commands that only read a sweep folder start fast.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import operator
import os
import typing
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from launch.sweep.points import as_args
from research.common.commandline import parse
from research.common.flags import result_names
from research.common.folder import read_json, write_json
from research.common.identity import ROOT, run_key
from research.common.messages import UserError

DATA = "data.json"  # in the sweep folder: the content hash of each data set that the sweep's flags name


class Program:
    """The training script at `path`, which is relative to the root of the code."""

    def __init__(self, path: str):
        self.path = path
        self._typed: dict[tuple[str, str], Any] = {}  # (flag, text) -> the value that the parser reads

    @classmethod
    def found(cls, given: Any) -> "Program | None":
        """The script at a path relative to the root of the code, or absolute; None if there is none."""
        if not isinstance(given, str) or not given.endswith(".py") or "\0" in given:
            return None
        for path in (Path(os.path.abspath(ROOT / given)), (ROOT / given).resolve()):
            if path.is_relative_to(ROOT) and path.is_file():
                return cls(path.relative_to(ROOT).as_posix())
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.path == other.path

    @property
    def family(self) -> str:
        return Path(self.path).stem

    @property
    def module_name(self) -> str:
        return self.path.removesuffix(".py").replace("/", ".")

    @functools.cached_property
    def module(self) -> ModuleType:
        """The script as a module. Raises UserError if it can't be imported."""
        try:
            return importlib.import_module(self.module_name)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # of any type, in a script that somebody is still writing
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"program: {self.path} cannot be imported ({why})") from error

    def is_training_script(self) -> bool:
        """Whether it has the flags of a run; this imports it."""
        return dataclasses.is_dataclass(getattr(self.module, "Config", None))

    @functools.cached_property
    def flags(self) -> dict[str, Any]:
        """Name and type of each of its flags."""
        return typing.get_type_hints(self.module.Config)

    def default(self, flag: str) -> Any:
        return getattr(self.module.Config, flag, None)

    def config(self, flags: dict[str, Any]) -> Any:
        """Its Config at a point, as its own parser makes it. Raises UserError for what the parser refuses.

        The parser takes 10 ms per point. So it reads each value of a flag only once, and not at all if the
        value is a number that it would leave unchanged. Further Configs are made from these values. The
        checks in a Config itself are made for each point.
        """
        if "config" in flags or {"epochs", "steps"} <= flags.keys():  # flags that the parser reads by itself
            return parse(self.module.Config, as_args(flags))
        read, asked = {}, {}
        for name, value in flags.items():
            if type(value) is self._numbers.get(name):  # a number that the flag takes as it is
                read[name] = value
            else:
                asked[name] = f"{value}"
        if not all(pair in self._typed for pair in asked.items()):
            one = parse(self._unchecked, as_args(flags))
            self._typed |= {(name, text): getattr(one, name) for name, text in asked.items()}
        return self.module.Config(**read, **{pair[0]: self._typed[pair] for pair in asked.items()})

    @functools.cached_property
    def _numbers(self) -> dict[str, type]:
        """int or float for each flag that takes nothing else, except perhaps None."""
        kinds = {name: {*typing.get_args(hint)} or {hint} for name, hint in self.flags.items()}
        found = {name: kind - {type(None)} for name, kind in kinds.items()}
        return {name: kind.pop() for name, kind in found.items() if kind in ({int}, {float})}

    @functools.cached_property
    def _unchecked(self) -> type:
        """Its Config without the checks of flag values."""
        return type("Config", (self.module.Config,), {"__post_init__": lambda self: None})

    def headline(self, cfg: Any) -> tuple[str, str] | None:
        """The figure by which a run with these flags is judged, and its goal; None if the script has no
        `headline`.
        """
        return self.module.headline(cfg) if hasattr(self.module, "headline") else None

    def data_flags(self, cfg: Any) -> tuple[Any, ...]:
        """The values of the flags on which the data depend: if they are equal, the data are equal."""
        return tuple(getattr(cfg, name) for name in self.module.DATA_FLAGS)

    def key(self, cfg: Any, data_hash: str) -> str:
        """The key of the run with these flags and this hash of the data. UserError: a
        checkpoint is unusable.
        """
        return run_key(self.family, self.module.KEY_VERSION, cfg, data_hash)

    def fingerprint(self, cfg: Any) -> bytes:
        """It differs between runs on equal data exactly if their keys do, and takes a tenth of the time."""
        if cfg.checkpoint is not None:  # the content of the checkpoint counts
            text = self.key(cfg, "")
        else:
            text = repr((self._numbers_depend_on(cfg), cfg.epochs or cfg.steps, cfg.epochs is None))
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    @functools.cached_property
    def _numbers_depend_on(self) -> Callable[[Any], tuple[Any, ...]]:
        """A function that returns those values of a Config that are always in a run's key; see
        `result_flags`.
        """
        left_out = ("checkpoint", "weights", "epochs", "steps")
        return operator.attrgetter(*(n for n in result_names(self.module.Config) if n not in left_out))


class DataHashes:
    """Content hashes of the data that a script's flags name. Each data set is loaded at most once, and not at
    all if the sweep folder's data.json has its hash; so a worker finds a run's key without loading data.
    """

    def __init__(self, program: Program, folder: Path | None = None):
        self.program, self.folder = program, folder
        self._known: dict[str, str] = {}

    def of(self, cfg: Any) -> str:
        name = json.dumps(self.program.data_flags(cfg))
        if name not in self._known:
            kept = read_json(self.folder / DATA) if self.folder else None
            found = (kept or {}).get(name)
            self._known[name] = found or self.program.module.load_data(cfg).content_hash
        return self._known[name]

    def refuse_others(self, folder: Path) -> None:
        """Raise UserError if the folder's trials were made for another content of a data set known here."""
        kept = read_json(folder / DATA) or {}
        for name, found in self._known.items():
            if kept.get(name, found) != found:
                values = zip(self.program.module.DATA_FLAGS, json.loads(name))
                flags = " ".join(f"--{k}={v}" for k, v in values)
                raise UserError(
                    f"{folder}: the data of its trials changed ({flags}; hash {kept[name]}, now {found}): "
                    "choose another --name, or --fresh"
                )

    def keep(self, folder: Path) -> None:
        """Add the hashes that are known here to the folder's data.json."""
        kept = read_json(folder / DATA) or {}
        both = kept | self._known
        if both != kept:
            write_json(folder / DATA, both)
