"""Every command of docs/coursework.md is run: tiny trainings on embedded data, then tasks and reports.

Sweeps are run in their short form by tests/test_wandb_sweeps.py, which takes each YAML in sweeps/; what needs
a server or a download has tests of its own, named below.
"""

import csv
import re
import shlex
from pathlib import Path

import pytest

from tests.forks import run_each
from tests.short_sweeps import CAPS, DATASETS, FIXED, ROOT, SWEEPS
from tests.test_docs import commands

PAGE = commands(ROOT / "docs" / "coursework.md")
ELSEWHERE = {  # what a command has in it → the tests that run such commands
    "data/prepare.py mnist": "test_digits.py",
    "data/prepare.py shakespeare": "test_text_files.py",
    "wandb login": "test_doctor.py",
    "launch/local.py": "test_wandb_sweeps.py",
    "--publish": "test_wandb_report.py",
}
OWN = {"songs.csv": "songs.csv", "chapter.txt": "any.txt", "any.txt": "any.txt", "photos": "photos"}
QUICK = {"wandb": "disabled", "device": "cpu", "threads": 1, "data_dir": "store", "steps": 3, "eval_every": 3}
FAMILIES = tuple(FIXED)


def own_data(place: Path) -> None:
    """Pictures, songs and texts, as a user may have them."""
    from PIL import Image

    (place / "photos").mkdir()
    for i in range(80):
        Image.new("RGB", (32, 32), (3 * i, 90, 255 - 3 * i)).save(place / "photos" / f"{i}.png")
    with open(place / "songs.csv", "w", encoding="utf-8", newline="") as file:
        rows = [(f"Band {i % 5}", f"Song {i}", f"the moon {i}\nand the river\nand me") for i in range(60)]
        csv.writer(file).writerows([("artist", "song", "lyrics"), *rows])
    (place / "any.txt").write_text("Thou art the moon.\nWhither goest thou?\n" * 60, encoding="utf-8")


def family_of(line: str) -> str:
    return Path(shlex.split(line)[1]).stem


def is_training(line: str) -> bool:
    return line.startswith("python research/") and "--task=" not in line


def trained(line: str, name: str) -> list[str]:
    """A training command as a tiny run of that name."""
    family = family_of(line)
    flags = dict(word.removeprefix("--").split("=", 1) for word in shlex.split(line)[2:])
    for flag, cap in CAPS.items():
        if flag in flags:
            flags[flag] = str(min(float(flags[flag]), cap)).removesuffix(".0")
    dataset = flags.get("dataset", "")
    if dataset.startswith("path/to/"):
        flags["dataset"] = OWN[Path(dataset).name]
    elif family in DATASETS:
        flags["dataset"] = DATASETS[family]
    sizes = {k: v for k, v in FIXED[family].items() if not (k == "hidden_dim" and "parameters" in flags)}
    flags = {k: str(v) for k, v in sizes.items()} | flags | {k: str(v) for k, v in QUICK.items()}
    words = [f"--{flag}={value}" for flag, value in flags.items()]
    return [str(ROOT / "research" / f"{family}.py"), *words, f"--name={name}"]


def asked(line: str, run: str) -> list[str]:
    """A command on what was trained, with the folders that exist here."""
    words = shlex.split(line)
    script, words = words[1], [word for word in words[2:] if word != "--open"]
    if script == "launch/report.py":
        # all families' runs together are longer than one sweep
        words = ["runs", *(word for word in words if not word.startswith(("runs/", "--max_pages=")))]
        return [str(ROOT / script), *words]
    words = [re.sub(r"runs/(?:\w+/)?<\w+>$", f"runs/{run}", word) for word in words]
    words = [re.sub(r"path/to/(\S+)$", lambda m: OWN[m[1]], word) for word in words]
    common = ("data_dir",) if "--task=explore" in words else ("wandb", "device", "threads", "data_dir")
    return [str(ROOT / script), *words, *(f"--{name}={QUICK[name]}" for name in common)]


def ran_elsewhere(line: str) -> bool:
    return any(part in line for part in ELSEWHERE)


def test_the_page_serves_every_family_and_names_sweeps_that_are_there():
    assert {family_of(line) for line in PAGE if line.startswith("python research/")} >= set(FAMILIES)
    names = {path.name for path in SWEEPS}
    assert {m[1] for line in PAGE if (m := re.search(r"sweeps/(\S+\.yaml)", line))} <= names
    for part, file in ELSEWHERE.items():
        assert any(part in line for line in PAGE), f"{part} stands no longer on the page"
        assert (ROOT / "tests" / file).is_file()


def test_folders_of_sweeps_are_those_that_earlier_commands_make():
    made = set()
    for line in PAGE:
        if "launch/local.py" in line:
            name = re.search(r"--name=(\S+)", line)
            own = "--set" not in line and re.search(r"sweeps/(\w+)\.yaml", line)
            assert name or own, f"{line}: its folder's name has a suffix that nobody knows beforehand"
            made.add((name or own)[1])
        elif "--publish" not in line:
            assert set(re.findall(r"runs/(\w+)", line)) <= made, line


@pytest.mark.soak  # two minutes of a core; each task and each sweep has quicker tests of its own
def test_every_command_of_the_page_runs(tmp_path):
    own_data(tmp_path)
    of_page = [line for line in PAGE if is_training(line)]
    # a run of each family for its tasks; songs for those of the character model
    base = {family: f"python research/{family}.py" for family in FAMILIES}
    base["charlm"] += " --dataset=path/to/songs.csv --model=lstm"
    for family in ("bvae_faces", "gan_faces"):  # to render faces takes a minute
        base[family] += " --dataset=path/to/photos"
    trainings = [trained(line, family) for family, line in base.items()]
    trainings += [trained(line, f"own{i}") for i, line in enumerate(of_page)]
    tasks = [line for line in PAGE if not is_training(line) and not ran_elsewhere(line)]
    autoencoder, vae = (f"own{i}" for i, line in enumerate(of_page) if "bvae_faces.py" in line)
    gan = next(f"own{i}" for i, line in enumerate(of_page) if "gan_faces.py" in line)
    commands_run = list(trainings)
    for line in tasks:
        family = family_of(line).removesuffix("_corpus")
        words = asked(line, family)
        if "<autoencoder>" in line:
            models = iter((autoencoder, vae, gan))
            words = [f"--checkpoint=runs/{next(models)}" if "--checkpoint" in w else w for w in words]
        commands_run.append(words)
    assert len(commands_run) > 25 and len(commands_run) == len(trainings) + len(tasks)
    ended = run_each(commands_run, tmp_path / "said", tmp_path, timeout_s=1500)
    failed = [
        (" ".join(words), end.stderr[-600:]) for words, end in zip(commands_run, ended) if end.returncode
    ]
    assert failed == []
    made = {path.name for path in (tmp_path / "runs").iterdir()}
    assert made >= set(FAMILIES) and (tmp_path / "hand-in.pdf").is_file()


@pytest.mark.parametrize("line", ["python research/charlm.py --task=generate --checkpoint=runs/<run>"])
def test_a_command_of_a_task_gets_a_run_that_is_there(line):
    words = asked(line, "tiny")
    assert "--checkpoint=runs/tiny" in words and not any("<" in word for word in words)
