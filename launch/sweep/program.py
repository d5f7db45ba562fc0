"""A training script as a sweep sees it: its flags, its data, the key of a run and the figure it is judged by.

The `program:` of a YAML names it. It is imported when it is first asked for something, since that imports
torch: so commands that only read a sweep folder start fast.
"""

import functools
import importlib
import json
import typing
from pathlib import Path
from types import ModuleType
from typing import Any

from launch.sweep.points import as_args
from research.common.commandline import parse
from research.common.folder import read_json, write_json
from research.common.identity import ROOT, run_key

DATA = "data.json"  # in the sweep folder: content hash of each data set that the sweep's flags name


class Program:
    """The training script at `path`, which is relative to the root of the code."""

    def __init__(self, path: str):
        self.path = path

    @property
    def family(self) -> str:
        return Path(self.path).stem

    def is_file(self) -> bool:
        return (ROOT / self.path).is_file()

    @functools.cached_property
    def module(self) -> ModuleType:
        return importlib.import_module(self.path.removesuffix(".py").replace("/", "."))

    def is_training_script(self) -> bool:
        """Whether there is such a file, and it has the flags of a run. Imports it."""
        return self.is_file() and hasattr(self.module, "Config")

    @functools.cached_property
    def flags(self) -> dict[str, Any]:
        """Name and type of each of its flags."""
        return typing.get_type_hints(self.module.Config)

    def default(self, flag: str) -> Any:
        return getattr(self.module.Config, flag, None)

    def config(self, flags: dict[str, Any]) -> Any:
        """Its Config at a point, through its real parser. Raises UserError for what that refuses."""
        return parse(self.module.Config, as_args(flags))

    def headline(self, cfg: Any) -> str | None:
        """The figure that a run with these flags is judged by; None where the script does not say."""
        if not hasattr(self.module, "headline"):
            return None
        name, _ = self.module.headline(cfg)
        return name

    def data_flags(self, cfg: Any) -> tuple[Any, ...]:
        """The flags on which its data depend: where they are equal, so are the data."""
        return tuple(getattr(cfg, name) for name in self.module.DATA_FLAGS)

    def key(self, cfg: Any, data_hash: str) -> str:
        """The key of the run with these flags on data of this content. Raises UserError, of a checkpoint."""
        return run_key(self.family, self.module.KEY_VERSION, cfg, data_hash)


class DataHashes:
    """Content hashes of the data that a script's flags name. Each data set is loaded once at most, and never
    where the sweep folder's data.json knows it: so a worker finds the key of a run without loading data.
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

    def keep(self, folder: Path) -> None:
        """Add what is known here to the folder's data.json."""
        kept = read_json(folder / DATA) or {}
        both = kept | self._known
        if both != kept:
            write_json(folder / DATA, both)
