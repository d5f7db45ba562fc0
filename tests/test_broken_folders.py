"""Through launch/local.py: trials whose folder can't be used, scripts outside of research/, W&B's places."""

import json
import re
import sys
from pathlib import Path

import pytest

from launch.results import read
from launch.sweep import begin, plan
from launch.sweep.queue import Queue, Trial
from tests.forks import Ended, run_each
from tests.online import ROOT
from tests.test_unreadable import without_roots_rights

pytestmark = pytest.mark.filterwarnings("ignore")  # the engine is written for an older pydantic, and says so
SLOW = ("sweeps", "pandas", "sklearn.ensemble", "jinja2")  # what local.py imports
SWEEP = """
program: tests/stand_in.py
method: grid
metric: {name: val/loss, goal: minimize}
parameters:
  x: {values: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}
  steps: {value: 2}
"""
MEND = """
import os, pathlib, shutil, sys

for name in sys.argv[1:]:
    path = pathlib.Path(name)
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        path.chmod(0o700)
        shutil.rmtree(path / "output.log", ignore_errors=True)
"""
PLACED = """
program: tests/stand_in.py
method: grid
metric: {name: val/loss, goal: minimize}
project: a project
entity: a team
parameters:
  x: {values: [0.1, 0.2]}
  steps: {value: 2}
"""
FLAGS = ["--wandb=disabled", "--workers=2", "--threads=1"]


def frozen(place: Path, name: str, text: str) -> list[Trial]:
    """The trials of a sweep of this text, whose folder is made and whose workers have not begun."""
    (place / f"{name}.yaml").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))  # the stand-in puts its own tree first, as a script
        sweep = plan.read(str(place / f"{name}.yaml"))
        return begin.freeze(sweep, place / "runs" / name, False, False).trials()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sweeps: `broken`, where five of seven run folders can't be used, and `placed`."""
    place = tmp_path_factory.mktemp("place")
    trials = frozen(place, "broken", SWEEP)
    a_file, unwritable, closed, a_link, no_log = (
        place / "runs" / "broken" / trial.key for trial in trials[1:6]
    )
    a_file.write_text("somebody's notes")
    unwritable.mkdir(mode=0o500)
    closed.mkdir(mode=0o000)
    a_link.symlink_to(place / "nowhere")
    (no_log / "output.log").mkdir(parents=True)
    frozen(place, "placed", PLACED)
    script = place / "runs" / "placed" / "code" / "tests" / "stand_in.py"
    script.write_text(script.read_text().replace("- 0.37) ** 2", "- 0.37) ** 2 + 10"))
    return place


@pytest.fixture(scope="module")
def ended(place: Path) -> dict[str, Ended]:
    """What local.py printed, for one start after the other."""
    (place / "mend.py").write_text(MEND, encoding="utf-8")
    broken = [place / "runs" / "broken" / trial.key for trial in Queue(place / "runs/broken").trials()[1:6]]

    def local(name: str, *flags: str) -> list[str]:
        return [str(ROOT / "launch/local.py"), f"{name}.yaml", *FLAGS, *flags]

    commands = {
        "first": local("broken"),
        "second": local("broken"),
        "mended": ["mend.py", *broken],
        "third": local("broken", "--retry"),
        "placed": local("placed"),
        "elsewhere": local("placed", "--project=my project", "--entity=me", "--name=elsewhere"),
    }
    said = run_each(
        list(commands.values()),
        place / "said",
        place,
        imported=SLOW,
        before=without_roots_rights,
        COLUMNS="200",
    )
    return dict(zip(commands, said, strict=True))


def test_a_folder_that_cannot_be_used_is_one_failed_trial(place, ended) -> None:
    """Whatever is in the folder's place, the other trials finish."""
    first, second = ended["first"].stderr, ended["second"].stderr
    a_file, unwritable, closed, a_link, no_log = (
        f"runs/broken/{trial.key}" for trial in Queue(place / "runs/broken").trials()[1:6]
    )
    reasons = [
        rf"what is there is not a folder \({a_file}\)",
        rf"Permission denied \({unwritable}/\.lease\.\S+\)",
        rf"Permission denied \({closed}/\.lease\.\S+\)",
        rf"what is there is not a folder \({a_link}\)",
        rf"Is a directory \({no_log}/output\.log\)",
    ]
    for i, reason in enumerate(reasons, 1):
        line = rf"^000{i}  x=0\.{i + 1}  failed: its folder can't be used: {reason}$"
        assert len(re.findall(line, first, re.MULTILINE)) == 1, first
    assert re.findall(r"^(\d+)  x=\S+  finished, ", first, re.MULTILINE) == ["0000", "0006"], first
    for name in ("first", "second"):
        text = ended[name].stderr
        assert ended[name].returncode == 1 and "some trials failed; --retry runs" in text, text
        for words in ("another worker takes its place", "ended with", "free some space", "Traceback"):
            assert words not in text, text
        assert len(re.findall(r"^ *0\.\d +failed ", text, re.MULTILINE)) == 5, text  # its table
    assert "7 trials, 0 of them open" in second


def test_retry_runs_it_once_its_folder_is_mended(place, ended) -> None:
    folder, text = place / "runs" / "broken", ended["third"].stderr
    assert ended["mended"].returncode == 0, ended["mended"].stderr
    assert ended["third"].returncode == 0 and "7 trials, 5 of them open" in text, text
    assert "5 failed trials are open again" in text
    queue = Queue(folder)
    trials = queue.trials()
    assert {queue.status(trial)["status"] for trial in trials} == {"finished"}
    assert not list((folder / "trials").glob("*.failed"))
    assert {run.status["status"] for run in read.read_sweep(folder).runs} == {"finished"}
    again = [trial.index for trial in trials if (queue.run_folder(trial) / "lease.2").exists()]
    assert set(again).isdisjoint({0, 6})  # what had finished was not run again


def configs(folder: Path) -> list[dict]:
    return [json.loads(path.read_text())["flags"] for path in folder.glob("*/config.json")]


def test_a_script_outside_of_research_runs_from_the_snapshot(place, ended) -> None:
    """In that copy of the script the loss is 10 higher, so it shows which copy was run."""
    assert ended["placed"].returncode == 0, ended["placed"].stderr
    runs = read.read_sweep(place / "runs" / "placed").runs
    assert [run.status["headline"] > 10 for run in runs] == [True, True]


def test_project_and_entity_arrive_as_they_are_given(place, ended) -> None:
    """The values of the YAML reach each trial, and those of the command line win."""
    assert ended["elsewhere"].returncode == 0, ended["elsewhere"].stderr
    for name, expected in (("placed", ("a project", "a team")), ("elsewhere", ("my project", "me"))):
        found = [(flags["project"], flags["entity"]) for flags in configs(place / "runs" / name)]
        assert found == [expected] * 2
