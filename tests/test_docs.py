"""README and docs are true: commands parse, files and make targets exist, every logged key is explained."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from research import bvae_faces, charlm, seq2seq_arith, vae_mnist
from research.common.commandline import parse

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = (bvae_faces, vae_mnist, charlm, seq2seq_arith)
FAMILIES = {f"research/{script.__name__.split('.')[-1]}.py": script for script in SCRIPTS}
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "data" / "README.md"]


def commands(path: Path) -> list[str]:
    """Lines of the shell blocks of a Markdown file, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(), re.S)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.name)
def test_commands_parse(path):
    seen = {script: set() for script in FAMILIES}
    for line in commands(path):
        words = shlex.split(line)
        if words[0] == "make":
            targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(), re.M)
            assert words[1] in targets, line
        elif words[0] == "python" and words[1] in FAMILIES:
            cfg = parse(FAMILIES[words[1]].Config, words[2:])
            seen[words[1]].add(cfg.task)
        elif words[:2] == ["python", "-m"]:
            assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), line
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), line
            help_text = subprocess.run(
                [sys.executable, words[1], "--help"], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
            for word in words[2:]:
                if word.startswith("--"):
                    assert word.split("=")[0] in help_text, line
        else:
            assert words[0] in ("wandb", "source", "conda"), line
    if path.name == "README.md" and path.parent == ROOT:
        for script, family in FAMILIES.items():
            assert seen[script] == set(family.TASKS), f"README shows every task of {script}"


def test_readme_results_come_from_the_csv():
    """Each row of the results table is the mean and sd over seeds of the committed runs."""
    figures = {"test/mse": 4, "test/rec_nats": 0, "test/active_units": 1, "test/mig": 2}
    runs = pd.read_csv(ROOT / "sweeps" / "results" / "bvae.csv").groupby("beta")
    readme = (ROOT / "README.md").read_text()
    for beta, seeds in runs:
        cells = [f"{seeds[k].mean():.{n}f} ± {seeds[k].std():.{n}f}" for k, n in figures.items()]
        assert f"| {beta:g} | " + " | ".join(cells) + " |" in readme
    assert len(runs) == 3
    figures = {"test/elbo_nats": 1, "test/iw_nats": 1, "test/kl_nats": 1, "test/knn_accuracy": 3}
    runs = pd.read_csv(ROOT / "sweeps" / "results" / "vae_mnist.csv")
    runs = runs[runs["learning_rate"] == 0.003].groupby(["latent_dim", "beta"])
    for (latent_dim, beta), seeds in runs:
        cells = [f"{seeds[k].mean():.{n}f} ± {seeds[k].std():.{n}f}" for k, n in figures.items()]
        assert f"| {latent_dim} | {beta:g} | " + " | ".join(cells) + " |" in readme
    assert len(runs) == 6


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.name)
def test_links_and_named_files_exist(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"
    for name in re.findall(
        r"`((?:research|data|launch|sweeps|tests|docs)/[\w./-]+\.(?:py|yaml|md|csv))`", text
    ):
        assert (ROOT / name).exists(), f"{path.name} names {name}"


def test_every_logged_key_is_explained(tmp_path, monkeypatch):
    """A tiny run with known factors logs no key that docs/METRICS.md does not have in its tables."""
    from data import synthetic

    monkeypatch.setattr(synthetic, "N_IMAGES", 400)
    tables = "\n".join(
        x for x in (ROOT / "docs" / "METRICS.md").read_text().splitlines() if x.startswith("|")
    )
    cfg = bvae_faces.Config(
        steps=4,
        batch_size=8,
        width=4,
        hidden_dim=8,
        latent_dim=3,
        image_size=32,
        log_every=1,
        data_dir=str(tmp_path),
        out=str(tmp_path),
        wandb="disabled",
        name="run",
        threads=1,
    )
    logged = set(bvae_faces.train(cfg)) | {
        f"time/{k}" for k in ("step_ms", "examples_per_s", "logging_s", "media_s", "wandb_s")
    }
    logged |= {
        p.parent.relative_to(tmp_path / "run/media").as_posix() for p in (tmp_path / "run/media").rglob("*.*")
    }
    for key in logged:
        part, _, name = key.partition("/")
        # 'train/rec_nats, val/…, test/…' in one row
        short = f"`{part}/…`" in tables and f"/{name}`" in tables
        known = f"`{key}`" in tables or short or (key.endswith("_best") and "`<headline>_best`" in tables)
        assert known, f"docs/METRICS.md does not explain {key}"
    assert {"test/mig", "val/rec_floor_nats", "latent/traversal"} <= logged


def test_locked_versions_satisfy_the_project():
    """requirements.lock pins what pyproject.toml asks for, wandb exactly, and names no package index."""
    lock = (ROOT / "requirements.lock").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==([\w.+!]+)", lock, re.M))
    project = (ROOT / "pyproject.toml").read_text()
    asked = re.findall(r'^    "([\w-]+)(?:\[[\w,]+\])?([=>]=[\w.]+)?"', project, re.M)
    assert len(asked) > 15
    for name, _ in asked:
        assert name in pins, f"{name} is not in requirements.lock"
    assert dict(asked)["wandb"] == f"=={pins['wandb']}"
    assert "://" not in lock
    assert "-r requirements.lock" in (ROOT / "environment.yml").read_text()
