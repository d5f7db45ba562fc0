"""The command line as users and `wandb agent` write it, refusals in one line, and the key made of flags."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from research.bvae_faces import Config
from research.common.commandline import parse
from research.common.flags import changed_flags, result_flags, with_epochs
from research.common.identity import run_key
from research.common.messages import UserError
from tests.forks import run_each
from tests.run_flags import RUN_RESULT_FLAGS

ROOT = Path(__file__).resolve().parents[1]

# Adding, renaming or removing a flag changes what users type and what kept runs mean: do it on purpose.
RESULT_FLAGS = RUN_RESULT_FLAGS | {
    "beta",
    "width",
    "depth",
    "latent_dim",
    "hidden_dim",
    "image_size",
    "objective",
    "beta_start",
    "beta_steps",
    "capacity",
    "capacity_steps",
    "tc_sampling",
    "arch",
    "patch",
    "optimizer",
}
ASIDE_FLAGS = {
    "task",
    "dataset",
    "data_dir",
    "out",
    "name",
    "config",
    "log_every",
    "sample_every",
    "save_every",
    "device",
    "threads",
    "quiet",
    "wandb",
    "project",
    "entity",
    "fresh",
    "reuse",
    "image",
    "index",
    "image2",
    "index2",
    "random",
    "dim",
}
ANOTHER = {  # of every flag, a value that is not its default
    "seed": 1,
    "steps": 7,
    "epochs": 2,
    "batch_size": 5,
    "learning_rate": 0.5,
    "eval_every": 9,
    "precision": "bf16",
    "compile": True,
    "deterministic": True,
    "beta": 1.5,
    "width": 3,
    "depth": 2,
    "latent_dim": 3,
    "hidden_dim": 3,
    "image_size": 32,
    "objective": "capacity",
    "beta_start": 9.0,
    "beta_steps": 7,
    "capacity": 3.5,
    "capacity_steps": 7,
    "tc_sampling": "weighted",
    "arch": "broadcast",
    "patch": 8,
    "optimizer": "adam",
    "dataset": "lfw",
    "data_dir": "elsewhere",
    "out": "elsewhere",
    "name": "mine",
    "log_every": 3,
    "sample_every": 0,
    "save_every": 3,
    "device": "cpu",
    "threads": 3,
    "wandb": "disabled",
    "project": "mine",
    "entity": "me",
    "fresh": True,
    "reuse": True,
    "quiet": True,
    "image": "a.png",
    "index": 3,
    "image2": "b.png",
    "index2": 3,
    "random": True,
    "dim": 1,
}
WHOLE = ("seed", "steps", "epochs", "batch_size", "threads", "width", "depth", "latent_dim", "sample_every")
REAL = ("beta", "learning_rate", "beta_start", "capacity")


def refusal(*args: str) -> str:
    """The one line in which `args` are refused."""
    with pytest.raises(UserError) as caught:
        parse(Config, args)
    text = str(caught.value)
    assert len(text.splitlines()) == 1 and text.isprintable(), repr(text)
    return text


def key(*args: str, version: int = 1, data: str = "d") -> str:
    return run_key("bvae_faces", version, parse(Config, args), data)


# ---- how flags are written -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--beta=2.5", "--seed=3"], {"beta": 2.5, "seed": 3}),
        (["--beta", "2.5", "--seed", "3"], {"beta": 2.5, "seed": 3}),
        (["--latent-dim=3", "--batch-size", "5"], {"latent_dim": 3, "batch_size": 5}),
        (["--latent_dim=3", "--batch_size", "5"], {"latent_dim": 3, "batch_size": 5}),
        (["--compile", "--seed=3"], {"compile": True, "seed": 3}),
        (["--compile", "--deterministic"], {"compile": True, "deterministic": True}),
        (["--compile=True", "--deterministic=true"], {"compile": True, "deterministic": True}),
        (["--compile=True", "--deterministic", "True", "--compile=False"], {"deterministic": True}),
        (["--compile=false", "--deterministic", "false", "--seed=3"], {"seed": 3}),
        (["--epochs=None", "--name=None", "--threads=None", "--wandb=None", "--entity", "None"], {}),
        (
            ["--learning_rate=0.001", "--beta=4.0", "--steps=4", "--batch_size=4.0"],
            {"learning_rate": 0.001, "steps": 4, "batch_size": 4},
        ),
        (["--learning_rate=1e-05", "--beta=0"], {"learning_rate": 1e-5, "beta": 0.0}),
        (["--_wandb=x", "--_wandb.sweep=y", "--seed=3"], {"seed": 3}),
        (["--dataset=a=b, c", "--name", "x y"], {"dataset": "a=b, c", "name": "x y"}),
        (
            ["--image_size=32", "--precision=bf16", "--wandb=offline", "--task=train"],
            {"image_size": 32, "precision": "bf16", "wandb": "offline"},
        ),
        (["--task=rotate", "--checkpoint=runs/x"], {"task": "rotate", "checkpoint": "runs/x"}),
        (["--epochs=3"], {"epochs": 3}),
        (["--epochs=None", "--steps=3"], {"steps": 3}),
    ],
)
def test_ways_to_write_a_flag(args, expected):
    cfg = parse(Config, args)
    default = Config()
    flags = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)}
    assert {k: v for k, v in flags.items() if v != getattr(default, k)} == expected
    for name in (*expected, "beta", "steps", "seed", "compile"):
        kind = float if name in REAL else type(expected.get(name, flags[name]))
        assert type(flags[name]) is kind, (
            name,
            flags[name],
        )  # --beta=0 is 0.0: its key is that of --beta=0.0


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--betta=3"], ["unknown flag --betta", "did you mean --beta?"]),
        (["--learning-rat=3"], ["unknown flag --learning_rat", "did you mean --learning_rate?"]),
        (["--xyzzy=3"], ["unknown flag --xyzzy", "--help"]),
        (["4"], ["'4' is not a flag", "--name=value"]),
        (["-b", "4"], ["'-b' is not a flag"]),
        (["--beta"], ["--beta needs a value", "a number"]),
        (["--beta", "--seed=1"], ["--beta needs a value", "a number"]),
        (["--beta=four"], ["--beta=four", "must be a number"]),
        (["--steps=1.5"], ["--steps=1.5", "must be a whole number"]),
        (["--steps=None"], ["--steps=None", "must be a whole number"]),
        (["--epochs=few"], ["--epochs=few", "must be a whole number or None"]),
        (["--compile=maybe"], ["--compile=maybe", "must be True or False"]),
        (["--precision=fp16"], ["--precision=fp16", "one of fp32, bf16"]),
        (["--wandb=offlin"], ["--wandb=offlin", "offline, disabled or None", "did you mean offline?"]),
        (["--task=rotat"], ["--task=rotat", "did you mean rotate?"]),
        (["--image_size=50"], ["--image_size=50", "32, 64, 128"]),
        (["--beta=-1"], ["--beta=-1", "at least 0"]),
        (["--beta", "-1"], ["--beta=-1", "at least 0"]),
        (["--beta=nan"], ["--beta=nan", "at least 0"]),
        (["--beta=inf"], ["--beta=inf", "at least 0"]),
        (["--objective=tcc"], ["--objective=tcc", "did you mean tc?"]),
        (["--objective=tc", "--beta=0.9"], ["--beta=0.9", "with --objective=tc at least 1"]),
        (["--objective=capacity", "--beta=0"], ["--beta=0", "above 0"]),
        (["--objective=tc", "--batch_size=1"], ["--batch_size=1", "above 1 with --objective=tc"]),
        (["--beta_start=0"], ["--beta_start=0", "above 0"]),
        (["--beta=0", "--beta_start=3"], ["--beta_start=3", "--beta above 0"]),
        (["--beta_start=nan"], ["--beta_start=nan", "above 0"]),
        (["--capacity=-1"], ["--capacity=-1", "at least 0 nats"]),
        (["--capacity_steps=0"], ["--capacity_steps=0", "at least 1"]),
        (["--beta_steps=0"], ["--beta_steps=0", "at least 1"]),
        (["--learning_rate=0"], ["--learning_rate=0", "above 0"]),
        (["--steps=0"], ["--steps=0", "at least 1"]),
        (["--sample_every=-1"], ["--sample_every=-1", "at least 0"]),
        (["--seed=-1"], ["--seed=-1", "from 0 to 2147483647"]),
        (["--device=gpu"], ["--device=gpu", "auto, cpu, cuda, cuda:N or mps"]),
        (["--name=a/b"], ["--name=a/b", "plain folder name"]),
        (["--depth=6"], ["--depth=6", "from 1 to 5", "--image_size=64"]),
        (["--depth=5", "--image_size=32"], ["--depth=5", "from 1 to 4", "--image_size=32"]),
        (["--latent_dim=0"], ["--latent_dim=0", "at least 1"]),
        (["--dim=-1"], ["--dim=-1", "from 0 on"]),
        (["--task=rotate"], ["--task=rotate", "--checkpoint"]),
        (["--image=a", "--index=1"], ["--index=1", "without --image"]),
        (["--fresh", "--reuse"], ["--fresh", "without --reuse"]),
        (["--epochs=3", "--steps=30"], ["--epochs", "replaces --steps"]),
    ],
)
def test_refusals_name_flag_value_and_what_is_allowed(args, parts):
    text = refusal(*args)
    assert all(part in text for part in parts), text


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(WHOLE), st.text(max_size=12) | st.floats().map(str) | st.integers().map(str))
@example("seed", "3\n4")
@example("steps", "--seed=3")
@example("steps", "\udcff")
@example("steps", "[bold]")
@example("width", "4.0")
@example("width", "4.5")
@example("depth", "٣")
def test_any_text_for_a_whole_number(flag, text):
    any_text(flag, text, int)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(REAL), st.text(max_size=12) | st.floats().map(str) | st.integers().map(str))
@example("beta", "nan")
@example("beta", "1\r\n")
@example("beta", "-0.0")
@example("learning_rate", "1e-3")
def test_any_text_for_a_number(flag, text):
    any_text(flag, text, float)


def any_text(flag: str, text: str, kind: type) -> None:
    """`--flag=text` is that number, or is refused in one line that names the flag and what is allowed."""
    try:
        value = getattr(parse(Config, [f"--{flag}={text}"]), flag)
    except UserError as error:
        message = str(error)
        assert message.isprintable() and message.startswith(f"--{flag}=") and ": must be " in message, message
        try:
            number = float(text)
        except ValueError:
            return
        plain = re.fullmatch(r"-?[0-9]+(\.0+)?", text) if kind is int else math.isfinite(number)
        if plain:  # of the right kind: the line must not say that it is none, but tell the range
            assert "a number or" not in message, message
            assert not re.search(r"a (whole )?number( or None)?$", message), message
    else:
        if text != "None":
            assert type(value) is kind and float(value) == float(text)


# ---- --config ------------------------------------------------------------------------------------------


def config_file(path: Path, **flags) -> str:
    path.write_text(json.dumps({"key": "0", "flags": dataclasses.asdict(Config()) | flags}), encoding="utf-8")
    return f"--config={path}"


def test_config_file_is_where_explicit_flags_start(tmp_path):
    file = config_file(
        tmp_path / "config.json",
        beta=2.5,
        seed=3,
        compile=True,
        out="there",
        name="old",
        wandb="offline",
        task="rotate",
        checkpoint="runs/x",
        fresh=True,
    )
    cfg = parse(Config, ["--seed=4", file, "--wandb=None"])
    assert (cfg.beta, cfg.seed, cfg.compile, cfg.wandb, cfg.checkpoint) == (2.5, 4, True, None, "runs/x")
    assert (cfg.out, cfg.name, cfg.task, cfg.fresh) == ("runs", None, "train", False)  # where, not what
    assert parse(Config, ["--config=None", "--seed=4"]) == Config(seed=4)


@pytest.mark.parametrize(
    ("kept", "given", "expected"),
    [
        ({"epochs": 3, "steps": 60}, [], (3, Config().steps)),  # steps followed from epochs
        ({"epochs": 3, "steps": 60}, ["--epochs=4"], (4, Config().steps)),
        ({"epochs": 3, "steps": 60}, ["--steps=9"], (None, 9)),
        ({"steps": 60}, [], (None, 60)),
        ({"steps": 60}, ["--epochs=4"], (4, Config().steps)),
    ],
)
def test_config_file_with_epochs(tmp_path, kept, given, expected):
    cfg = parse(Config, [*given, config_file(tmp_path / "config.json", **kept)])
    assert (cfg.epochs, cfg.steps) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("not JSON {", "not a run's config.json"),
        ("[1, 2]", "not a run's config.json"),
        ('{"key": 1}', "not a run's config.json"),
        ('{"flags": 5}', "not a run's config.json"),
        ('{"flags": {"betta": 5}}', "no flag --betta"),
        ('{"flags": {"beta": -5}}', "--beta=-5"),
        (None, "No such file"),
    ],
)
def test_config_file_refused(tmp_path, text, part):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    assert part in refusal(f"--config={path}")


# ---- what the key is made of ---------------------------------------------------------------------------


def test_the_flags_of_bvae_faces():
    assert {f.name for f in dataclasses.fields(Config)} == RESULT_FLAGS | ASIDE_FLAGS
    assert not RESULT_FLAGS & ASIDE_FLAGS


@pytest.mark.parametrize("name", sorted(ASIDE_FLAGS - {"task", "config"}))
def test_flags_beside_the_result_do_not_change_the_key(name):
    assert key(f"--{name}={ANOTHER[name]}") == key()
    assert name not in result_flags(Config())


@pytest.mark.parametrize("name", sorted(RESULT_FLAGS - {"checkpoint", "weights"}))
def test_result_flags_change_the_key(name):
    cfg = parse(Config, [f"--{name}={ANOTHER[name]}"])
    others = {"learning_rate": 0.002} if name == "optimizer" else {}  # its own
    assert changed_flags(cfg) == {name: ANOTHER[name]} | others
    assert key(f"--{name}={ANOTHER[name]}") != key()


def test_key_is_twelve_digits_of_family_version_flags_and_data():
    assert len(key()) == 12 and int(key(), 16) >= 0
    assert len({key(), key(version=2), key(data="e"), run_key("other", 1, Config(), "d")}) == 4
    assert changed_flags(Config()) == {}
    assert key("--beta=4", "--seed=0") == key()  # what is given as its default is not a change
    assert key("--beta=2", "--seed=3", "--width=8") == key("--width=8", "--seed=3", "--beta=2.0")
    assert key("--beta=2", "--seed=3") != key("--beta=3", "--seed=2")


def test_the_task_and_the_checkpoint_in_the_key(tmp_path):
    files = [tmp_path / name for name in ("a/best_00000001.pt", "b/best_00000001.pt", "b/best_00000002.pt")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
    a, moved, other = (key(f"--checkpoint={file}") for file in files)
    assert a == moved  # the name has the content's digest: where the file lies does not count
    assert len({a, other, key()}) == 3
    assert key(f"--checkpoint={files[0]}", "--task=rotate") == a
    assert "weights" not in result_flags(Config(weights="last"))
    assert result_flags(Config(checkpoint="x", weights="last"))["weights"] == "last"


def test_epochs_stand_in_the_key_instead_of_steps():
    cfg = with_epochs(parse(Config, ["--epochs=3", "--batch_size=8"]), n_train=50)
    assert cfg.steps == 18  # of 6 whole batches each
    assert changed_flags(cfg) == {"epochs": 3, "batch_size": 8}
    assert "epochs" not in result_flags(Config(steps=18))
    keys = [run_key("f", 1, c, "d") for c in (cfg, with_epochs(cfg, 500), Config(steps=18, batch_size=8))]
    assert keys[0] == keys[1] != keys[2]
    assert with_epochs(Config(steps=18), 50).steps == 18
    with pytest.raises(UserError, match="--batch_size=32: must be at most 31"):
        with_epochs(Config(), 31)


# ---- as a process --------------------------------------------------------------------------------------


def test_a_refusal_is_one_line_on_stderr_and_code_2_and_leaves_nothing(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for i in range(3):
        (texts / f"{i}.txt").write_text("no picture")
    cases = {
        "typo": ["--betta=3"],
        "range": ["--beta=-1"],
        "missing_folder": ["--dataset=no/such/folder"],
        "folder_of_texts": [f"--dataset={texts}"],
        "image_size": ["--image_size=50"],
        "depth": ["--depth=7"],
        "task_without_checkpoint": ["--task=rotate"],
        "checkpoint_missing": [f"--checkpoint={tmp_path / 'none'}", f"--dataset={texts}"],
        "line_break": ["--name=a\nb/c"],
    }
    named = {
        "typo": "--betta",
        "range": "--beta=-1",
        "missing_folder": "--dataset=no/such/folder",
        "folder_of_texts": f"--dataset={texts}",
        "image_size": "--image_size=50",
        "depth": "--depth=7",
        "task_without_checkpoint": "--task=rotate",
        "checkpoint_missing": "--",
        "line_break": r"--name=a\nb/c",
    }
    common = ["--out=out", "--data_dir=store", "--wandb=disabled", "--steps=1"]
    script = ROOT / "research" / "bvae_faces.py"
    commands = [[script, *args, *common] for args in cases.values()]
    refused = run_each(commands, tmp_path / "said", tmp_path, OMP_NUM_THREADS="1", COLUMNS="40")
    for name, ended in zip(cases, refused, strict=True):
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), (name, ended)
        assert ended.stderr.startswith("error: ") and named[name] in ended.stderr, (name, ended)
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["said", "texts"]
