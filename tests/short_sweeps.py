"""Every sweep of the project in a form that trains in seconds: few points, few steps, a tiny model.

`short` makes it from the YAML's own parameters, so that a new sweep needs no entry here. Where it sets a flag
that a cap doesn't know and that makes its runs long, tests/test_short_sweeps.py fails with its name.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
# what a sweep's own values are cut down to
CAPS = {
    "steps": 30,
    "epochs": 1,
    "image_size": 32,
    "seq_len": 16,
    "parameters": 40_000,  # enough for the words of the embedded lines
    "width": 16,
    "depth": 3,
    "hidden_dim": 16,
    "embed_dim": 16,
    "encoder_dim": 16,
    "latent_dim": 6,
    "n_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "beta_steps": 20,
    "capacity_steps": 20,
    "iw_samples": 2,
    "pretrain": 2,
}
# what each family gets where its sweep says nothing. In W&B a run is named after the result flags that its
# sweep sets, up to 128 characters: many more flags would crowd out those that vary.
FIXED: dict[str, dict[str, Any]] = {
    "bvae_faces": {"image_size": 32, "width": 4, "depth": 2, "hidden_dim": 16, "latent_dim": 4}
    | {"batch_size": 8, "steps": 30, "log_every": 3, "eval_every": 10, "save_every": 7},
    "gan_faces": {"image_size": 32, "width": 4, "depth": 1, "latent_dim": 4}
    | {"batch_size": 8, "steps": 20, "log_every": 3, "eval_every": 10, "save_every": 7},
    "text_vae": {"encoder_dim": 8, "hidden_dim": 16, "embed_dim": 8, "latent_dim": 4}
    | {"batch_size": 8, "steps": 6},
    "vae_mnist": {"width": 16, "depth": 2, "steps": 20},
    "charlm": {"n_layers": 1, "embed_dim": 32, "steps": 6},
    "seq2seq_arith": {"hidden_dim": 16, "steps": 6},
}
# the data that each family trains on here: made from files that are always there
DATASETS = {"vae_mnist": "digits", "text_vae": "verses", "charlm": "pydoc", "seq2seq_arith": "digits"}


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def script_of(content: dict[str, Any]) -> ModuleType:
    return importlib.import_module(content["program"].removesuffix(".py").replace("/", "."))


def short(content: dict[str, Any], places: dict[str, Any], n_values: int = 2) -> dict[str, Any]:
    """The sweep as a grid over the first parameter that varies, with its first and last `n_values` values.

    places: flags that say where a run reads and writes (--data_dir, --out, for faces --dataset ...).
    """
    family = Path(content["program"]).stem
    given = content["parameters"]
    choices = {name: _capped(name, parameter) for name, parameter in given.items()}
    varied = [name for name, values in choices.items() if len(values) > 1]
    varied.sort(key=lambda name: name == "seed")  # another seed only where nothing else varies
    first = varied[0] if varied else "seed"
    parameters = {name: {"value": values[-1]} for name, values in choices.items()}
    parameters[first] = {"values": _ends(choices[first], n_values)}
    fixed = {k: v for k, v in FIXED[family].items() if k not in given}
    if "epochs" in given:
        fixed.pop("steps", None)
    if family in DATASETS:
        fixed["dataset"] = DATASETS[family]
    parameters |= {name: {"value": value} for name, value in (fixed | places).items()}
    kept = {k: v for k, v in content.items() if k not in ("early_terminate", "run_cap")}
    return kept | {"method": "grid", "parameters": parameters}


def _capped(name: str, parameter: dict[str, Any]) -> list[Any]:
    """The values of a parameter, at most as many as its cap, without repetitions; for a distribution its
    lower end.
    """
    if "values" in parameter:
        values = parameter["values"]
    elif "value" in parameter:
        values = [parameter["value"]]
    else:
        values = [parameter["min"] if "min" in parameter else parameter["mu"]]
    cap = CAPS.get(name)
    if cap is not None:
        values = [value if value is None else min(value, cap) for value in values]
    return [value for i, value in enumerate(values) if value not in values[:i]]


def _ends(values: list[Any], n: int) -> list[Any]:
    """`n` of the values: the first ones, and the last."""
    return values if len(values) <= n else [*values[: n - 1], values[-1]]
