"""The short form of every sweep is short; otherwise the tests that run it would silently take an hour."""

import inspect
import string

import pytest
import torch

from data.sentences import SPECIAL, Vocabulary
from launch.sweep.points import Points, as_args
from research.common.commandline import parse
from research.common.flags import with_epochs
from tests import short_sweeps
from tests.short_sweeps import SWEEPS, read, script_of, short

MAX_STEPS, MAX_PARAMETERS, MAX_POINTS = 60, 150_000, 3


def check(content: dict, places: dict) -> list[dict]:
    """Every point of the short form goes through the script's own parser; fails if one is not short."""
    script = script_of(content)
    planned = list(Points(short(content, places)))
    varies = any(len(given.get("values", [0])) > 1 for given in content["parameters"].values())
    assert (2 if varies else 1) <= len(planned) <= MAX_POINTS
    for point in planned:
        cfg = parse(script.Config, as_args(point))
        if cfg.epochs:
            cfg = with_epochs(cfg, len(script.load_data(cfg).train))
        assert cfg.steps <= MAX_STEPS, f"{cfg.steps} steps at {point}"
        asked = inspect.signature(script.build).parameters
        alphabet = [string.printable] if "alphabet" in asked else []
        if "vocabulary" in asked:
            alphabet = [Vocabulary("char", (*SPECIAL, *string.printable))]
        size = sum(
            weights.numel() for weights in script.build(cfg, *alphabet, torch.device("cpu")).parameters()
        )
        assert size <= MAX_PARAMETERS, f"{size:,} weights at {point}"
    return planned


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_short_form_is_short(path, tmp_path) -> None:
    content = read(path)
    planned = check(content, {"data_dir": str(tmp_path)})
    for point in planned:  # of the sweep's own flags none is lost, and what is no size keeps its value
        assert content["parameters"].keys() <= point.keys()
        for name, parameter in content["parameters"].items():
            if "values" in parameter and name not in (*short_sweeps.CAPS, "dataset"):
                assert point[name] in parameter["values"]
            if "value" in parameter and name not in (*short_sweeps.CAPS, "dataset"):
                assert point[name] == parameter["value"]


@pytest.mark.parametrize(
    ("family", "parameters", "why"),
    [
        ("bvae_faces", {"steps": {"value": 9000}, "beta": {"values": [0, 1]}}, None),
        ("bvae_faces", {"steps": {"values": [9000, 90_000]}, "beta": {"values": [0, 1]}}, None),
        ("charlm", {"hidden_dim": {"value": 2048}, "model": {"values": ["lstm", "tcn"]}}, None),
        ("vae_mnist", {"epochs": {"value": 50}, "batch_size": {"values": [64, 128]}}, None),
        ("vae_mnist", {"epochs": {"value": 50}, "batch_size": {"values": [2, 4]}}, "steps at"),
    ],
)
def test_a_new_sweep_is_cut_down_or_refused(family, parameters, why, tmp_path) -> None:
    content = {"program": f"research/{family}.py", "method": "grid", "parameters": parameters}
    places = {"data_dir": str(tmp_path)}
    if why is None:
        check(content, places)
    else:
        with pytest.raises(AssertionError, match=why):
            check(content, places)


@pytest.mark.parametrize(("cap", "why"), [("steps", "9000 steps at"), ("width", "weights at")])
def test_without_its_cap_a_sweep_is_found(cap, why, tmp_path, monkeypatch) -> None:
    content = read(short_sweeps.ROOT / "sweeps" / "bvae_anneal.yaml")
    content["parameters"]["width"] = {"value": 64}
    monkeypatch.delitem(short_sweeps.CAPS, cap)
    with pytest.raises(AssertionError, match=why):
        check(content, {"data_dir": str(tmp_path)})
