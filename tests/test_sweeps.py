"""Every sweep YAML passes W&B's own check and the script's real parser, and its header quotes its results."""

import importlib
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import get_type_hints

import pandas as pd
import pytest
import yaml

from data import digits, images, sentences, text
from launch.results import read
from launch.sweep import bayes, begin, plan
from launch.sweep.points import Points, as_args
from research import seq2seq_arith
from research.common.commandline import parse
from research.common.identity import run_key
from research.common.messages import UserError

ROOT = Path(__file__).resolve().parents[1]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
NOT_MEASURED = "to be measured"
# Figures that a Finding quotes, with their decimals, and the headlines that the scripts log.
FIGURES = {
    "bvae_faces": {"test/mse": 4, "test/rec_nats": 0, "test/active_units": 1, "test/mig": 2},
    "charlm": {"test/loss": 3, "test/bpc": 3},
    "gan_faces": {"test/kernel_distance": 4, "test/frechet_distance": 2, "test/recall": 2},
    "seq2seq_arith": {"test/exact_match": 4, "test/char_accuracy": 4},
    "text_vae": {"test/iw_nats": 1, "test/kl_nats": 2, "test/active_units": 1, "test/exact_tokens": 3},
    "vae_mnist": {"test/elbo_nats": 1, "test/iw_nats": 1, "test/kl_nats": 1, "test/knn_accuracy": 3},
}
HEADLINES = {
    "bvae_faces": ("val/mse", "minimize"),
    "gan_faces": ("train/kernel_distance", "minimize"),
    "text_vae": ("val/elbo_nats", "maximize"),
    "vae_mnist": ("val/elbo_nats", "maximize"),
    "charlm": ("val/bpc", "minimize"),
    "seq2seq_arith": ("val/exact_match", "maximize"),
}
SIGNS = {"beta": "β"}
CHOSEN_WITH = 0  # the seed with which bayes and random sweeps search


def content(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def header(path: Path) -> str:
    return "".join(
        line + "\n" for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")
    )


def violations(content: dict) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine is written for an older pydantic, and says so
        from sweeps.config import schema_violations_from_proposed_config

    return schema_violations_from_proposed_config(content)


def planned(path: Path) -> list[dict]:
    """The points of a grid or a random sweep; of bayes, which has none yet, points at each flag's ends."""
    if content(path)["method"] == "bayes":
        return bayes.probes(content(path)["parameters"])
    return list(Points(content(path)))


def family(path: Path) -> str:
    return Path(content(path)["program"]).stem


def config_of(path: Path) -> type:
    return importlib.import_module(f"research.{family(path)}").Config


def finding_lines(df: pd.DataFrame, figures: dict[str, int]) -> list[str]:
    """The lines of a Finding that a results CSV proves: for each setting, each figure's
    mean ± sd over seeds.
    """
    lines, alone = [], "seed" not in df
    if alone:
        df = df.assign(seed=0)
    if len(df.groupby("seed")) > 1 and (df["seed"] == CHOSEN_WITH).sum() > len(df) / 2:
        df = df[df["seed"] != CHOSEN_WITH]  # the runs that confirm a search: its own choice is biased
    summary = read.summarise_over_seeds(df)
    flags = [name for name in read.flag_columns(df) if name != "seed"]
    for row in summary.to_dict("records"):
        setting = ", ".join(f"{SIGNS.get(f, f)} = {read.show(row[f], 4)}" for f in flags)
        figures_of_row = [
            f"{name} {row[name]:.{digits}f}" + ("" if alone else f" ± {row[f'{name} sd']:.{digits}f}")
            for name, digits in figures.items()
            if not math.isnan(row.get(name, math.nan))  # a language model has no latents
        ]
        lines.append(f"#   {setting}    " + "   ".join(figures_of_row) + ("   (one seed)" if alone else ""))
    return lines


def squeezed(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text)


def unproven(text: str, csv: Path, figures: dict[str, int]) -> list[str]:
    """Lines that the header `text` should have according to `csv` and lacks, and such lines that `csv` does
    not prove.
    """
    if not csv.exists():
        return [] if re.search(rf"(?m)^# Finding +{NOT_MEASURED}$", text) else [NOT_MEASURED]
    lines = [squeezed(line) for line in finding_lines(pd.read_csv(csv), figures)]
    said = [line.rstrip() for line in squeezed(text[text.index("# Finding") :]).splitlines()]
    quoted = [line for line in said if "±" in line or line.endswith("(one seed)")]
    return [x for x in lines if x not in quoted] + [x for x in quoted if x not in lines]


class Loaded(Exception):
    """Raised instead of loading data."""


class Seen:
    """A config that knows which of its flags were read."""

    def __init__(self, cfg):
        self.cfg, self.read = cfg, set()

    def __getattr__(self, name: str):
        self.read.add(name)
        return getattr(self.cfg, name)


@pytest.mark.parametrize(
    ("name", "loader", "flags"),
    [
        ("bvae_faces", images, {}),
        ("gan_faces", images, {}),
        ("text_vae", sentences, {}),
        ("vae_mnist", digits, {}),
        ("charlm", text, {}),
        ("seq2seq_arith", digits, {"mode": "image_to_text"}),
    ],
)
def test_data_flags_are_those_that_load_data_reads(name, loader, flags, monkeypatch):
    """If a script forgets to name a flag, a sweep might use the data of one trial for all others."""
    script = importlib.import_module(f"research.{name}")

    def stop(*_, **__):
        raise Loaded

    monkeypatch.setattr(loader, "load", stop)
    seen = Seen(script.Config(**flags))
    with pytest.raises(Loaded):
        script.load_data(seen)
    assert seen.read == set(script.DATA_FLAGS)


def test_trials_on_other_data_are_planned_with_the_hash_of_their_own(tmp_path, monkeypatch):
    path = ROOT / "sweeps" / "seq2seq_tricks.yaml"
    monkeypatch.chdir(ROOT)
    sweep = plan.read(str(path), ("train_fraction=[0.5, 0.1]", "reverse=[true]", "weight_decay=[0.01]"))
    queue = begin.freeze(sweep, tmp_path / "runs", False, False)
    trials = queue.trials()
    cfgs = [seq2seq_arith.Config(**trial.flags) for trial in trials]
    data = [seq2seq_arith.load_data(cfg).content_hash for cfg in cfgs]
    assert len(trials) == 16 and len(set(data)) == 4  # two shares, in columns or not
    keys = [
        run_key("seq2seq_arith", seq2seq_arith.KEY_VERSION, cfg, hash_)
        for cfg, hash_ in zip(cfgs, data, strict=True)
    ]
    assert [trial.key for trial in trials] == keys


def test_there_are_sweeps():
    assert SWEEPS and all(family(path) in FIGURES for path in SWEEPS)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_wandb_accepts_it(path):
    assert violations(content(path)) == []
    broken = content(path)
    broken["parameters"]["seed"] = {"valuess": [0]}
    assert violations(broken) != []


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_every_point_goes_through_the_scripts_parser(path):
    assert (ROOT / content(path)["program"]).is_file()
    config, parameters = config_of(path), content(path)["parameters"]
    hints = get_type_hints(config)
    assert set(parameters) <= set(hints), "a parameter is no flag"
    made = planned(path)
    assert made
    for point in made:
        cfg = parse(config, as_args(point))
        assert {name: getattr(cfg, name) for name in point} == point  # a number that YAML read as text fails


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_numbers_are_numbers_to_yaml(path):
    """PyYAML reads 1e-3 as text; W&B's own reader may not, so the two would differ."""
    hints = get_type_hints(config_of(path))
    for name, entry in content(path)["parameters"].items():
        for value in [entry.get(k) for k in ("value", "min", "max") if k in entry] + entry.get("values", []):
            if hints[name] in (int, float, int | None, float | None):
                assert isinstance(value, (int, float)) and not isinstance(value, bool), (name, value)
            assert not isinstance(value, str) or not re.fullmatch(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", value)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_the_metric_is_one_that_the_script_logs(path):
    script, metric = importlib.import_module(f"research.{family(path)}"), content(path)["metric"]
    assert script.headline(script.Config()) == HEADLINES[family(path)]
    made = {script.headline(parse(script.Config, as_args(point))) for point in planned(path)}
    assert len(made) == 1  # else its runs could not be compared
    headline, goal = made.pop()
    if metric["name"] != f"{headline}_best":  # a sweep may look for something else than the script does
        assert f"`{metric['name']}`" in (ROOT / "docs" / "METRICS.md").read_text()
        assert metric["name"].startswith("val/") and metric["goal"] in ("minimize", "maximize")
    else:
        assert metric["goal"] == goal


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_a_launcher_takes_it_and_would_confirm_its_best_trial(path):
    varied = content(path)["parameters"].get("seed", {"value": 0})
    alone = len(varied.get("values", [0])) == 1
    sweep = plan.read(str(path), confirm=2 if alone else None)
    assert sweep.content == content(path) and sweep.text == path.read_text()
    if not alone:
        with pytest.raises(UserError, match="the sweep varies seed itself"):
            plan.read(str(path), confirm=2)


def test_importing_what_reads_a_sweep_imports_nothing_slow():
    """A launcher's --help and a look at a sweep folder import none of these."""
    slow = ("torch", "pandas", "sklearn", "jsonschema", "sweeps", "wandb", "matplotlib")
    code = f"import sys, launch.sweep.begin; sys.exit(', '.join(n for n in {slow} if n in sys.modules) or 0)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_the_size_in_the_header(path):
    size, spec = re.search(r"(?m)^# Size +(.*)$", header(path))[1], content(path)
    n = len(planned(path)) if spec["method"] == "grid" else spec["run_cap"]
    assert (f"{n} runs" if n > 1 else "1 run ") in size
    if spec["method"] != "grid":
        assert spec["parameters"]["seed"] == {"value": CHOSEN_WITH}  # else bayes optimises it


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_the_header_tells_what_its_results_prove(path):
    text, spec = header(path), content(path)
    assert path.read_text().startswith("# Question")
    for word in ("Question", "Size", "Time", "Finding"):
        assert len(re.findall(rf"(?m)^# {word} +\S", text)) == 1, word
    csv = ROOT / "sweeps" / "results" / f"{path.stem}.csv"
    assert unproven(text, csv, FIGURES[family(path)]) == []
    if not csv.exists():
        return
    df = pd.read_csv(csv)
    if spec["method"] == "grid":
        made, varied = planned(path), read.flag_columns(df)
        assert set(df["status"]) <= {"finished", "diverged"} and len(df) == len(made)
        if not (df["status"] == "finished").all():
            assert "diverged" in text, "a run that diverged is part of the finding"
        ran = {tuple(str(row[f]) for f in varied) for row in df.astype(object).to_dict("records")}
        assert ran == {tuple(str(pd.Series([p[f]], dtype=df[f].dtype)[0]) for f in varied) for p in made}
    else:
        assert set(df["status"]) <= {"finished", "stopped", "diverged"}
        assert (df["seed"] == CHOSEN_WITH).sum() == spec["run_cap"]


RESULTS = """beta,seed,status,val/mse_best,test/mse,test/rec_nats,test/active_units,test/mig,commit
0,0,finished,0.01,0.0123,6800,32,0.1,abc
0,1,finished,0.01,0.0125,6810,31,0.12,abc
0,2,finished,0.01,0.0124,6790,32,0.14,abc
4,0,finished,0.02,0.02,7000,20,0.2,abc
4,1,finished,0.02,0.03,7000,20,0.2,abc
4,2,failed,,,,,,abc
"""
PROVEN = """# Question  q
# Finding   Some words.
#   β = 0    test/mse 0.0124 ± 0.0001   test/rec_nats 6800 ± 10   test/active_units 31.7 ± 0.6   test/mig 0.12 ± 0.02
#   β = 4    test/mse 0.0250 ± 0.0071   test/rec_nats 7000 ± 0   test/active_units 20.0 ± 0.0   test/mig 0.20 ± 0.00
"""  # noqa: E501


def test_the_check_of_a_finding(tmp_path):
    figures, csv = FIGURES["bvae_faces"], tmp_path / "bvae.csv"
    assert unproven(PROVEN, csv, figures) == [NOT_MEASURED]
    assert unproven(f"# Finding   {NOT_MEASURED}\n", csv, figures) == []
    csv.write_text(RESULTS)
    assert unproven(PROVEN, csv, figures) == []
    assert unproven(PROVEN.replace("   ", "  "), csv, figures) == []  # columns may be aligned otherwise
    assert len(unproven(f"# Finding   {NOT_MEASURED}\n", csv, figures)) == 2
    for old, new in [("6800 ± 10", "6800 ± 11"), ("31.7", "31.8"), ("0.0124", "0.012"), ("β = 4", "β = 5")]:
        assert len(unproven(PROVEN.replace(old, new), csv, figures)) == 2, (old, new)
    stale = PROVEN + "#   β = 20    test/mse 0.0250 ± 0.0071\n"
    assert unproven(stale, csv, figures) == ["# β = 20 test/mse 0.0250 ± 0.0071"]


def test_the_check_of_a_finding_of_one_seed(tmp_path):
    csv, figures = tmp_path / "lr.csv", FIGURES["charlm"]
    csv.write_text("learning_rate,status,test/loss,test/bpc\n0.002,finished,1.72,2.481\n0.004,finished,2,3\n")
    lines = [
        "#   learning_rate = 0.002    test/loss 1.720   test/bpc 2.481   (one seed)",
        "#   learning_rate = 0.004    test/loss 2.000   test/bpc 3.000   (one seed)",
    ]
    proven = "\n".join(["# Finding   Words.", *lines, ""])
    assert unproven(proven, csv, figures) == []
    assert unproven(proven.replace("1.720", "1.721"), csv, figures) != []
    assert unproven(proven.replace(lines[1], "#"), csv, figures) == [squeezed(lines[1])]
