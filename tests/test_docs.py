"""README and docs are true: commands parse, files and make targets exist, every logged key is explained."""

import argparse
import contextlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro

from research import bvae_faces, charlm, gan_faces, seq2seq_arith, text_vae, vae_mnist
from tests import groups
from tests.forks import run_each

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = (bvae_faces, gan_faces, vae_mnist, charlm, seq2seq_arith, text_vae)
FAMILIES = {f"research/{script.__name__.split('.')[-1]}.py": script for script in SCRIPTS}
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS += [ROOT / folder / "README.md" for folder in ("data", "notebooks")]
PROGRAMS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("research/*.py"), *ROOT.glob("launch/*.py"), ROOT / "data" / "prepare.py")
    if path.stem != "__init__"
)


def commands(path: Path) -> list[str]:
    """Lines of the shell blocks of a Markdown file, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.S)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


class Parsed(BaseException):
    """Raised to leave a program when it has read its command line, before it does anything."""


def parsed(program: str, args: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The flags that `python program args` reads: the program itself is run, in this process, up to that
    point.
    """
    real_cli, real_parse_args = tyro.cli, argparse.ArgumentParser.parse_args

    def cli(*args: Any, **options: Any) -> None:
        raise Parsed(real_cli(*args, **options))

    def parse_args(*args: Any, **options: Any) -> None:
        raise Parsed(real_parse_args(*args, **options))

    said = io.StringIO()
    with monkeypatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(tyro, "cli", cli)
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", [program, *args])
        patch.setattr(sys, "path", [str((ROOT / program).parent), *sys.path])
        try:
            runpy.run_path(str(ROOT / program), run_name="__main__")
        except Parsed as end:
            return end.args[0]
        except SystemExit as end:
            raise AssertionError(f"refused with exit code {end.code}: {said.getvalue()}") from None
    raise AssertionError(f"{program} reads no command line")


def check(line: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fails unless this line of a shell block can be typed; returns the flags that our program has read."""
    words = shlex.split(line)
    for word in words:
        named = re.search(r"(?:^|=)((?:sweeps|docs|tests|benchmarks)/[\w./-]+\.\w+)$", word)
        assert named is None or (ROOT / named[1]).is_file(), f"{line}: {named[1]} is not there"
    if words[0] == "make":
        targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(), re.M)
        assert words[1] in targets, line
    elif words[0] == "wandb":
        import click
        from wandb.cli.cli import cli

        assert words[1] in cli.commands, line
        try:
            cli.commands[words[1]].make_context(words[1], words[2:])
        except click.ClickException as error:
            raise AssertionError(f"{line}: {error.format_message()}") from None
    elif words[:2] == ["python", "-m"]:
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), line
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), line
        return parsed(words[1], words[2:], monkeypatch)
    else:
        assert words[0] in ("source", "conda"), line
    return None


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_parse(path, monkeypatch):
    tasks = {script: set() for script in FAMILIES}
    for line in commands(path):
        flags = check(line, monkeypatch)
        for script in FAMILIES:
            if line.startswith(f"python {script}"):
                tasks[script].add(flags.task)
    for script, family in FAMILIES.items():
        if path.stem == Path(script).stem:
            assert tasks[script] == set(family.TASKS), f"its page shows every task of {script}"


@pytest.mark.parametrize(
    "line",
    [
        "make cofee",
        "python launch/gone.py runs/bvae",
        "python -m launch.gone",
        "python launch/local.py sweeps/gone.yaml",
        "python launch/report.py runs/bvae --csv=sweeps/results/gone.csv",
        "python launch/local.py sweeps/bvae.yaml --wrokers=2",
        "python launch/local.py sweeps/bvae.yaml --workers=two",
        "python launch/slurm.py sweeps/bvae.yaml --partition gpu --gpu 1",
        "python launch/report.py runs/bvae --opn",
        "python launch/upload.py runs/bvae --dryrun",
        "python research/bvae_faces.py --betta=4",
        "python research/bvae_faces.py --beta=-1",
        "python research/bvae_faces.py --task=rotate",
        "python research/charlm_corpus.py --task=expolre",
        "python data/prepare.py celeba --pixels=64",
        "python data/prepare.py celeba --image_size=many",
        "python tests/soak_kills.py --number=3",
        "wandb agnet ENTITY/faces/SWEEP_ID",
        "wandb agent --forward-signal ENTITY/faces/SWEEP_ID",
        "wandb sweep",
        "rm -rf runs",
    ],
)
def test_a_wrong_command_is_found(line, monkeypatch):
    with pytest.raises(AssertionError):
        check(line, monkeypatch)


def test_help(tmp_path):
    """As a process, from any folder."""
    here = tmp_path / "here"
    here.mkdir()
    commands = [[ROOT / program, "--help"] for program in PROGRAMS]
    for program, shown in zip(PROGRAMS, run_each(commands, tmp_path / "said", here), strict=True):
        assert (shown.returncode, shown.stderr) == (0, ""), program
        assert shown.stdout.startswith("usage: ") and Path(program).name in shown.stdout.split("\n")[0]
        assert "--help" in shown.stdout and len(re.findall(r"--\w+", shown.stdout)) > 3, program
    assert not list(here.iterdir())


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.name)
def test_links_and_named_files_exist(path):
    text = path.read_text()
    for target, anchor in re.findall(r"\]\(([^)#:]*)#?([^)#:]*)\)", text):
        page = path.parent / target if target else path
        assert page.exists(), f"{path.name} links to {target}"
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)", page.read_text(encoding="utf-8"))
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{path.name} links to {target}#{anchor}"
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


def test_tests_that_are_named_exist():
    """In the Makefile, and where groups.py says which tests come first and which go to any worker."""
    files = {path.name: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    named = re.findall(r"tests/([\w.]+\.py)", (ROOT / "Makefile").read_text())
    assert len(named) > 8 and all((ROOT / "tests" / name).exists() for name in named), named
    named = {*groups.FIRST, *groups.EACH_ALONE, *groups.ALONE_TOO, *groups.GROUPS}
    for name in named - set(groups.GROUPS.values()):
        assert name in files or any(f"def {name}(" in text for text in files.values()), name


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
