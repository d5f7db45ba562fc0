"""What a person sees of a run and of a task: progress, figures, names of folders; and what --quiet hides."""

import dataclasses
import io
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from data import waiting
from research import bvae_faces, charlm
from research.bvae_faces import train
from research.common import commandline, flags, messages, progress, start, task
from research.common.checkpoints import resolve
from research.common.messages import UserError
from research.common.progress import Line, clock
from research.common.run import loss_curve

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def not_hushed():
    yield
    messages.hush(False)


# ---- while a run goes on --------------------------------------------------------------------------------


def test_a_log_gets_a_line_for_each_evaluation(config, capsys):
    cfg = config(steps=6, eval_every=2, log_every=1)
    train(cfg)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert [int(re.match(r"step (\d+) of 6  ", line)[1]) for line in lines] == [0, 2, 4, 6]
    value = bvae_faces.headline(cfg)[0]
    shown = rf"step 4 of 6  loss \S+  {value} \S+ \(best \S+\)  \S+ examples/s  0:\d\d left"
    assert re.fullmatch(shown, lines[2])


def test_the_end_tells_the_test_figures_and_where_the_pictures_lie(config, capsys):
    metrics = train(config(steps=2))
    said = capsys.readouterr().err
    for name in (name for name in metrics if name.startswith("test/")):
        assert re.search(rf"^ +{re.escape(name)} +\S+", said, re.MULTILINE), name
    (folder,) = re.findall(r"pictures: (.+)", said)
    assert list(Path(folder).rglob("*.png"))


def test_quiet_says_nothing(config, capsys):
    train(config(steps=8, learning_rate=0.003, quiet=True))
    said = capsys.readouterr()
    assert [line for line in (said.err + said.out).splitlines() if "posterior collapse" not in line] == []


def test_quiet_says_what_went_wrong(config, capsys):
    train(config(steps=4, quiet=True, learning_rate=1e30))
    assert "diverged" in capsys.readouterr().err


@pytest.fixture
def terminal(monkeypatch):
    """A terminal for messages about runs, which keeps what it gets."""
    console = Console(force_terminal=True, width=120, file=io.StringIO())
    for module in (progress, messages):
        monkeypatch.setattr(module, "news", console)
    return console


def test_a_terminal_has_one_live_line(terminal, monkeypatch):
    shown = []
    monkeypatch.setattr(
        progress.Progress, "refresh", lambda self: shown.append(self.tasks[0].description), raising=True
    )
    line = Line(steps=100, batch_size=8, headline="val/loss")
    line.start(10)
    for step in range(10, 30):
        line.update(step, {"val/loss": 1.25} if step == 20 else {}, 1.25, torch.tensor(2.5))
        time.sleep(0.05)
    line.stop()
    seen = [text for text in shown if text.startswith("step ")]
    assert 2 <= len(seen) <= 6  # of 20 steps: a line is drawn four times a second
    assert "loss 2.5" in seen[-1] and "val/loss 1.25 (best 1.25)" in seen[-1] and "left" in seen[-1]


def test_what_is_left_is_of_the_steps_made_here():
    line = Line(steps=100, batch_size=8, headline="val/loss")
    line.start(50)
    line._began = 1000.0
    assert line.text(60, 1020.0) == "step 60 of 100  4 examples/s  1:20 left"
    assert line.text(50, 1020.0) == "step 50 of 100"


def test_in_less_room_the_speed_goes_first_and_the_time_left_stays():
    line = Line(steps=4690, batch_size=64, headline="val/elbo_nats")
    line.start(0)
    line._began, line._value, line._best = 1000.0, -139.812345, -139.712345
    whole = line.text(1200, 1012.0, 142.123)
    assert whole == (
        "step 1,200 of 4,690  loss 142.1  val/elbo_nats -139.81 (best -139.71)  6,400 examples/s  0:35 left"
    )
    assert line.text(1200, 1012.0, 142.123, 79) == (
        "step 1,200 of 4,690  loss 142.1  val/elbo_nats -139.81  0:35 left"
    )
    assert line.text(1200, 1012.0, 142.123, 50) == "step 1,200 of 4,690  val/elbo_nats -139.81  0:35 left"


@pytest.mark.parametrize(("s", "text"), [(0.4, "0:00"), (65, "1:05"), (3725, "1:02:05")])
def test_clock(s, text):
    assert clock(s) == text


def test_figures_are_numbers_and_words(capsys):
    values = {"n": 12345, "mse": torch.tensor(0.00123456), "by": {"a": 1.0, "b": float("nan")}, "none": None}
    progress.show_figures("evaluate", values | {"list": [1, 2], "text": "x" * 100, "named": "digits"})
    rows = dict(line.split() for line in capsys.readouterr().err.splitlines()[1:])
    assert rows == {
        "n": "12,345",
        "mse": "0.0012346",
        "by/a": "1",
        "by/b": "nan",
        "none": "–",
        "named": "digits",
    }


def test_loading_that_takes_long_says_so(capsys, monkeypatch):
    monkeypatch.setattr(waiting, "AFTER_S", 0.05)
    slow = waiting.announced("reading {}")(lambda name, s: time.sleep(s) or name)
    assert slow("a", 0.0) == "a" and capsys.readouterr().err == ""
    assert slow("b", 0.2) == "b"
    assert capsys.readouterr().err.splitlines() == ["reading b …", "reading b: 0 s"]
    messages.hush(True)
    slow("c", 0.2)
    assert capsys.readouterr().err == ""


# ---- its picture of the loss, and a run that has not learned --------------------------------------------


def test_every_run_has_a_picture_of_its_loss(config):
    cfg = config(steps=4, log_every=1)
    train(cfg)
    (folder,) = Path(cfg.out).iterdir()
    (file,) = folder.glob("media/train/curve/*.png")
    assert file.name == "00000004.png"
    picture = np.asarray(Image.open(file))
    assert np.array_equal(picture, loss_curve(folder))
    blue = np.abs(picture[..., :3].astype(int) - [0, 0x72, 0xB2]).sum(-1) < 30  # of the training loss
    rows, columns = np.nonzero(blue)
    assert len(rows) > 200 and np.ptp(columns) > 200 and np.ptp(rows) > 50


def test_a_run_that_ends_worse_than_it_began_is_told(config, capsys, monkeypatch):
    name, values = bvae_faces.headline(config())[0], iter([1.0, 0.5, 2.0])
    evaluate = bvae_faces.evaluate

    def worse(*args):
        return evaluate(*args) | {name: next(values, 2.0)}

    monkeypatch.setattr(bvae_faces, "evaluate", worse)
    train(config(steps=4, eval_every=2))
    assert f"has not learned: {name} was 1 at the beginning and is 2 at the end" in capsys.readouterr().err


def test_a_run_that_learns_is_not_warned_of(config, capsys):
    train(config(steps=8, learning_rate=0.003))
    assert "has not learned" not in capsys.readouterr().err


def test_files_in_wandb_are_named_by_the_step_of_their_row(config, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    cfg = config(steps=5, sample_every=3, eval_every=1, wandb="offline")
    train(cfg)
    (media,) = Path(cfg.out).glob("*/wandb/offline-run-*/files/media/images")
    steps = {int(file.stem.split("_")[-2]) for file in media.rglob("*.png")}
    assert steps == {0, 3, 5}


# ---- names of folders -----------------------------------------------------------------------------------


def test_a_run_has_a_readable_name_beside_its_key(tmp_path):
    cfg = charlm.Config(out=str(tmp_path), steps=7, model="tcn", seq_len=32, dataset="my songs/all of.txt")
    folder = start.run_folder(cfg, "charlm", "0123456789ab")
    assert folder == tmp_path / "charlm-all_of-tcn-seq_len32-steps7-0123456789ab"
    assert start.run_folder(charlm.Config(out="runs"), "charlm", "ab").name == "charlm-ab"
    assert start.run_folder(charlm.Config(name="mine"), "charlm", "ab") == Path("runs/mine")


@pytest.mark.parametrize("old", ["0123456789ab", "charlm-otherwise-0123456789ab"])
def test_a_folder_that_is_called_by_the_key_is_found(tmp_path, old):
    (tmp_path / old).mkdir()
    assert start.run_folder(charlm.Config(out=str(tmp_path)), "charlm", "0123456789ab") == tmp_path / old


def test_a_checkpoint_is_found_by_the_key_alone(tmp_path):
    for key in ("0123456789ab", "ba9876543210"):
        file = tmp_path / f"charlm-tcn-{key}" / "checkpoints" / "best_00000000.pt"
        file.parent.mkdir(parents=True)
        file.touch()
    assert resolve(str(tmp_path / "0123456789ab"), "best", tmp_path).parts[-3] == "charlm-tcn-0123456789ab"
    for name in ("0123", "tcn-0123456789ab", "ba987654321"):  # the end of a name, but no key
        with pytest.raises(UserError, match="no such run folder"):
            resolve(str(tmp_path / name), "best", tmp_path)
    (tmp_path / "other-0123456789ab").mkdir()
    with pytest.raises(UserError, match=r"must be one of .*charlm-tcn-0123456789ab, .*other-0123456789ab"):
        resolve(str(tmp_path / "0123456789ab"), "best", tmp_path)


def test_a_tasks_folder_tells_its_flags():
    best, step = Path("r/checkpoints/best_0a.pt"), Path("r/checkpoints/step_00000500_0a.pt")
    run = {"flags": {"dataset": "faces", "beta": 4.0}}

    def name(file=best, **changed):
        cfg = bvae_faces.Config(task="interpolate", checkpoint="r", dataset="faces")
        return task._folder_name(dataclasses.replace(cfg, **changed), file, run, {})

    assert name() == "interpolate"
    assert name(index=3, random=False, seed=2) == "interpolate-seed=2-index=3"
    assert name(step) == "interpolate-step_00000500"
    assert name(dataset="photos") == "interpolate-dataset=photos"
    assert name(beta=7.0) == "interpolate-beta=7.0"  # a task may have read it as given
    assert name(precision="bf16") == "interpolate-precision=bf16"
    paths = [name(image=path) for path in ("a/b c.png", "a/b/c.png", "a_b_c.png")]
    assert len(set(paths)) == 3 and all(one.startswith("interpolate-image=a_b_c.png") for one in paths)
    assert name(device="cpu", wandb="disabled", threads=1) == "interpolate"
    long = [name(image="x" * 200 + end) for end in "ab"]
    assert long[0] != long[1] and all(len(one) <= 100 for one in long)


# ---- flags that could not act ---------------------------------------------------------------------------


def command(monkeypatch, script, *args) -> None:
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *args])
    module = {"bvae_faces": bvae_faces, "charlm": charlm}[script]
    commandline.main(module.Config, module.train, tasks=f"research.tasks.{script}")


@pytest.mark.parametrize(
    ("script", "args", "line"),
    [
        ("bvae_faces", ["--index=3"], "--index=3: --task=train does not read it, only"),
        ("charlm", ["--start=To be"], "--start=To be: --task=train does not read it, only generate"),
        ("charlm", ["--task=evaluate", "--checkpoint=x", "--chars=9"], "--chars=9: --task=evaluate does not"),
        (
            "charlm",
            ["--task=generate", "--checkpoint=x", "--fresh"],
            "--fresh=True: --task=generate does not",
        ),
        ("charlm", ["--task=generate", "--checkpoint=x", "--log_every=5"], "--log_every=5: --task=generate"),
    ],
)
def test_a_flag_that_the_task_does_not_read_is_refused(monkeypatch, capsys, script, args, line):
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, script, *args)
    assert stop.value.code == 2 and f"error: {line}" in capsys.readouterr().err
    assert not flags.GIVEN


def test_a_flag_that_a_task_cannot_change_is_refused(monkeypatch):
    kept = dataclasses.asdict(charlm.Config(model="tcn", learning_rate=0.5))
    cfg = charlm.Config(task="generate", checkpoint="x", model="lstm")
    monkeypatch.setattr(flags, "GIVEN", {"model", "task"})
    monkeypatch.setattr(task, "GIVEN", flags.GIVEN)
    with pytest.raises(UserError, match="--model=lstm: must be tcn, as in the run of --checkpoint"):
        task.flags_of_run(cfg, {"flags": kept})
    same = dataclasses.replace(cfg, model="tcn")
    assert task.flags_of_run(same, {"flags": kept}).model == "tcn"


def test_who_reads_no_further_gets_no_traceback():
    code = "import sys; sys.path[0] = sys.argv[1]\nfrom dataclasses import dataclass\n"
    code += "from research.common.commandline import main\n@dataclass\nclass Flags:\n    n: int = 100000\n"
    code += "def run(flags):\n    for i in range(flags.n): print(i)\nsys.argv = ['x']\nmain(Flags, run)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 128 + 13
