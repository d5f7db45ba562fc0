"""One run, through the real `train`: identity, rows, checkpoints, exact resume, signals, divergence."""

import dataclasses
import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data import images, synthetic
from research import bvae_faces, charlm, gan_faces, seq2seq_arith, text_vae, vae_mnist
from research.common import identity, processor, start
from research.common.checkpoints import Checkpoints, load_file
from research.common.commandline import AT_CRASH, EXIT_PREEMPTED, parse
from research.common.flags import result_flags
from research.common.folder import DONE, read_json, read_rows, write_json
from research.common.identity import run_key
from research.common.messages import UserError
from research.common.randomness import STREAMS, make_rng
from research.common.run import Preempted, Run
from research.common.wandb_mirror import Mirror
from tests.conftest import folder_of, killed, results
from tests.forks import run_each

ROOT = Path(__file__).resolve().parents[1]
# what a script imports inside functions, for training too
LATER = {
    "bvae_faces": {
        "data/synthetic.py",
        "research/measure/disentanglement.py",
        "research/measure/mutual_information.py",
    },
    "gan_faces": set(),
    "text_vae": set(),
    "vae_mnist": set(),
    "charlm": set(),
    "seq2seq_arith": set(),
}
FAMILIES = (bvae_faces, charlm, gan_faces, seq2seq_arith, text_vae, vae_mnist)

pytestmark = pytest.mark.usefixtures("dots")
train = bvae_faces.train


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return list(read_rows(folder / "metrics.jsonl"))


def status_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / "status.json")


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, Callable[[Run], Any]], None]]:
    """at_step(s, do): do(run) is called in the middle of step s."""

    def plan(step: int, do: Callable[[Run], Any]) -> None:
        real, count = Run.update, [-1]

        def update(self: Run, loss: torch.Tensor) -> None:
            real(self, loss)
            count[0] += 1
            if count[0] == step:
                do(self)

        monkeypatch.setattr(Run, "update", update)

    return plan


# ------------------------------------------------------------------------------------------ a straight run


def test_one_step(config):
    metrics = train(cfg := config(steps=1))
    folder = folder_of(cfg)
    assert [row["step"] for row in rows_of(folder)] == [0, 1]
    assert status_of(folder)["status"] == "finished" and status_of(folder)["step"] == 1
    assert math.isfinite(metrics["test/mse"]) and metrics == {
        k: v for r in rows_of(folder) for k, v in r.items()
    }


def test_folder_of_a_finished_run(straight):
    rows = rows_of(straight)
    due = {s for s in range(31) if s % 3 == 0 or s % 10 == 0 or s % 6 == 0}
    assert [row["step"] for row in rows] == sorted(due)
    assert all(list(row)[:2] == ["step", "epoch"] for row in rows)
    assert not any(key.startswith("time/") for row in rows for key in row)
    assert [row["step"] for row in rows if "val/mse" in row] == [0, 10, 20, 30]
    assert [row["step"] for row in rows if "train/loss_epoch" in row] == [6, 12, 18, 24, 30]
    assert [row["step"] for row in rows if "test/mse" in row] == [30]
    best = [row["val/mse_best"] for row in rows if "val/mse" in row]
    assert best == [
        min(r["val/mse"] for r in rows[: i + 1] if "val/mse" in r)
        for i, r in enumerate(rows)
        if "val/mse" in r
    ]
    assert status_of(straight)["headline"] == best[-1]
    times = list(read_rows(straight / "time.jsonl"))
    assert [row["step"] for row in times] == [row["step"] for row in rows]
    assert all(key == "step" or key.startswith("time/") for row in times for key in row)


def test_epoch_loss_is_the_mean_of_its_steps(config):
    train(cfg := config(log_every=1, steps=12))
    rows = {row["step"]: row for row in rows_of(folder_of(cfg))}
    for epoch in (0, 1):
        steps = [rows[s]["train/loss"] for s in range(6 * epoch, 6 * epoch + 6)]
        assert rows[6 * epoch + 6]["train/loss_epoch"] == pytest.approx(sum(steps) / 6, rel=1e-5)


def test_checkpoints_left_at_the_end(straight):
    names = sorted(p.name.rpartition("_")[0] for p in (straight / "checkpoints").iterdir())
    assert names == ["best", "step_00000028", "step_00000030"]
    state = load_file(Checkpoints(straight / "checkpoints").steps()[-1][1])
    assert state["step"] == 30 and (straight / "checkpoints" / state["best_file"]).exists()


def test_best_weights_are_the_ones_tested(config, monkeypatch):
    values = iter([3.0, 1.0, 2.0, 5.0])
    tested = []

    def evaluate(model, data, part, cfg, device, step):
        if part == "val":
            return {"val/mse": next(values)}
        tested.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"test/mse": 0.0, "test/active_units": 1}

    monkeypatch.setattr(bvae_faces, "evaluate", evaluate)
    train(cfg := config())
    (path,) = (folder_of(cfg) / "checkpoints").glob("best_*.pt")
    best = load_file(path)
    assert best["step"] == 10 and status_of(folder_of(cfg))["headline"] == 1.0
    assert all(torch.equal(best["states"][0][k], v) for k, v in tested[0].items())


def test_last_visit_is_in_the_last_checkpoint(config, monkeypatch):
    """--save_every coincides with the last step, whose evaluation is the best: the last checkpoint must know
    it.
    """
    values = iter([4.0, 3.0, 2.0, 1.0])

    def evaluate(model, data, part, cfg, device, step):
        return {"val/mse": next(values)} if part == "val" else {"test/mse": 0.0, "test/active_units": 1}

    monkeypatch.setattr(bvae_faces, "evaluate", evaluate)
    train(cfg := config(save_every=10))
    state = load_file(Checkpoints(folder_of(cfg) / "checkpoints").steps()[-1][1])
    assert (state["step"], state["best"]) == (30, 1.0)
    assert load_file(folder_of(cfg) / "checkpoints" / state["best_file"])["step"] == 30


# ------------------------------------------------------------------------------------------- exact resume


@pytest.mark.parametrize(
    ("method", "step", "after"),
    [
        ("log", 0, True),  # before any checkpoint
        ("log", 5, False),  # an epoch is one update short
        ("log", 7, True),  # a row beyond the checkpoint of step 7
        ("log", 10, True),  # an evaluation, and with it best weights, beyond the checkpoint
        ("save", 14, True),  # right behind a checkpoint
        ("log", 18, True),  # the mean of an epoch was in the row
        ("log", 29, True),
        ("log", 30, False),  # in the last visit, before its row
        ("log", 30, True),  # behind its row
        ("save", 30, False),
        ("save", 30, True),  # all is done but the status
    ],
)
def test_interrupted_equals_straight(config, straight, method, step, after):
    with killed(method, step, after):
        train(config())
    folder = folder_of(config())
    assert status_of(folder)["status"] == "running"
    kept = Checkpoints(folder / "checkpoints").newest_step()
    train(config())
    assert results(folder) == results(straight)
    assert status_of(folder)["status"] == "finished"
    assert [row["step"] for row in read_rows(folder / "time.jsonl")] == [r["step"] for r in rows_of(straight)]
    assert [segment["from_step"] for segment in status_of(folder)["segments"]] == [0, kept]


def test_interrupted_again_and_again(config, straight):
    for method, step in (("log", 3), ("save", 7), ("log", 9), ("log", 17), ("log", 23), ("save", 28)):
        with killed(method, step):
            train(config())
    train(config())
    assert results(folder_of(config())) == results(straight)


def test_state_is_really_restored(config, monkeypatch):
    """The figures above could also be equal because a run always starts anew, so this looks at what is
    restored.
    """
    with killed("log", 16):
        train(config())
    saved = load_file(Checkpoints(folder_of(config()) / "checkpoints").steps()[-1][1])
    seen, real = {}, Run.restore

    def restore(self, model, optimizer):
        seen["step"] = real(self, model, optimizer)
        muon, adam = optimizer
        seen["moments"] = [s["momentum_buffer"].clone() for s in muon.state.values()]
        seen["moments"] += [s["exp_avg"].clone() for s in adam.state.values()]
        seen["weights"] = {k: v.clone() for k, v in model.state_dict().items()}
        seen["best"] = self._best
        return seen["step"]

    monkeypatch.setattr(Run, "restore", restore)
    train(config())
    assert seen["step"] == saved["step"] == 14 and seen["best"] == saved["best"] is not None
    assert all(torch.equal(seen["weights"][k], v) for k, v in saved["states"][0].items())
    of_muon, of_adam = (state["state"].values() for state in saved["states"][1:])
    moments = [*(s["momentum_buffer"] for s in of_muon), *(s["exp_avg"] for s in of_adam)]
    assert len(moments) == len(seen["moments"]) and any(m.abs().sum() > 0 for m in moments)
    assert all(torch.equal(a, b) for a, b in zip(moments, seen["moments"], strict=True))


def test_best_value_survives_an_interruption(config, monkeypatch):
    """The best evaluation was before the interruption, and must not be forgotten."""
    real = bvae_faces.evaluate

    def rising(model, data, part, cfg, device, step):
        metrics = real(model, data, part, cfg, device, step)
        if part == "val":
            rising.value += 1.0
            metrics["val/mse"] = rising.value
        return metrics

    rising.value = 0.0
    monkeypatch.setattr(bvae_faces, "evaluate", rising)
    with killed("log", 16):
        train(config())
    train(config())
    (path,) = (folder_of(config()) / "checkpoints").glob("best_*.pt")
    assert load_file(path)["step"] == 0 and status_of(folder_of(config()))["headline"] == 1.0
    assert {row["val/mse_best"] for row in rows_of(folder_of(config())) if "val/mse_best" in row} == {1.0}


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_newest_checkpoint(config, straight, capsys, damage):
    with killed("log", 25):
        train(config())
    newest = Checkpoints(folder_of(config()) / "checkpoints").steps()[-1][1]
    data = bytearray(newest.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    newest.write_bytes({"cut": data[:-100], "flipped": data, "empty": b""}[damage])
    capsys.readouterr()
    train(config())
    said = capsys.readouterr().err
    assert "is damaged" in said and "continues from step 14" in said
    assert newest.with_suffix(".damaged").exists()
    assert results(folder_of(config())) == results(straight)


def test_all_checkpoints_damaged(config, straight):
    with killed("log", 16):
        train(config())
    for path in (folder_of(config()) / "checkpoints").glob("step_*.pt"):
        path.write_bytes(b"")
    train(config())
    assert results(folder_of(config())) == results(straight)


def test_torn_last_lines(config, straight):
    with killed("log", 16):
        train(config())
    for name in ("metrics.jsonl", "time.jsonl"):
        with open(folder_of(config()) / name, "a", encoding="utf-8") as f:
            f.write('{"step": 17, "trai')
    train(config())
    assert results(folder_of(config())) == results(straight)
    assert [r["step"] for r in read_rows(folder_of(config()) / "time.jsonl")] == [
        r["step"] for r in rows_of(straight)
    ]


def test_pictures_beyond_the_checkpoint_go(config):
    cfg = config(sample_every=5)
    with killed("log", 10):
        train(cfg)
    folder = folder_of(cfg) / "media" / "sample" / "random"
    assert (folder / "00000005.png").exists() and (folder / "00000010.png").exists()
    with killed("log", 8):
        train(cfg)
    assert sorted(p.stem for p in folder.iterdir()) == ["00000000", "00000005"]


def test_threads_are_kept(config):
    with killed("log", 2):
        train(config(threads=2, save_every=1))
    torch.set_num_threads(1)
    with killed("log", 2):
        train(config(threads=None))
    assert torch.get_num_threads() == 2
    assert read_json(folder_of(config()) / "config.json")["threads"] == 2


def test_a_changed_environment_is_reported(config, capsys):
    with killed("log", 8):
        train(config(threads=1))
    with killed("log", 8):
        train(config(threads=2))
    assert "warning: not bit-exact from step 7: threads changed" in capsys.readouterr().err
    assert [s["threads"] for s in status_of(folder_of(config()))["segments"]] == [1, 2]


def test_another_processor_is_reported_but_not_one_that_was_never_recorded(config, capsys, monkeypatch):
    monkeypatch.setattr("research.common.processor.name_of", lambda device: f"a {device.type} of today")
    for before, warned in (("of yesterday", True), (None, False)):
        with killed("log", 8):
            train(config(fresh=True))
        folder = folder_of(config())
        status = status_of(folder)
        assert status["segments"][-1].pop("processor") == "a cpu of today"
        status["segments"][-1] |= {"processor": before} if before else {}
        write_json(folder / "status.json", status)
        capsys.readouterr()
        with killed("log", 8):
            train(config())
        assert ("not bit-exact from step 7: processor changed" in capsys.readouterr().err) == warned


def test_the_processor_of_a_gpu_is_its_own_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert processor.name_of(torch.device("cuda:1")) == "GPU 1"
    monkeypatch.setattr(processor, "told_of_cpu", {"model name": "A", "flags": "sse avx2"}.get)
    assert processor.name_of(torch.device("cpu")) == "A with avx2"


# ------------------------------------------------------------------------------------------- randomness


def test_rows_do_not_depend_on_pictures(config, tmp_path, monkeypatch):
    monkeypatch.undo()  # the real pictures
    rows = []
    for every in (1, 1000):
        train(cfg := config(steps=2, eval_every=1, sample_every=every, out=str(tmp_path / f"every-{every}")))
        rows.append((folder_of(cfg).name, results(folder_of(cfg))))
        pictures = folder_of(cfg) / "media" / "latent" / "traversal"
        assert len(list(pictures.iterdir())) == {1: 3, 1000: 2}[every]
    assert rows[0] == rows[1]


def test_cadence_of_pictures(config, tmp_path):
    def due(every: int) -> list[int]:
        run = Run(tmp_path, config(sample_every=every), torch.device("cpu"), ("val/mse", "minimize"), 50)
        return [step for step in range(20) if run.due("sample", step)]

    assert due(0) == [0, 1, 2, 4, 8, 16] and due(7) == [0, 7, 14]


def test_rows_do_not_depend_on_logging(config, straight, tmp_path):
    train(cfg := config(log_every=1, save_every=11))
    assert folder_of(cfg).name == straight.name
    rows = {row["step"]: row for row in rows_of(folder_of(cfg))}
    assert all(row.items() <= rows[row["step"]].items() for row in rows_of(straight))
    last = f"step_{30:08d}"
    assert {n for n in results(straight) if last in n} == {n for n in results(folder_of(cfg)) if last in n}


def test_rng_is_a_function():
    def draw(*args):
        return tuple(torch.randn(4, generator=make_rng(*args)).tolist())

    everything = [
        draw(seed, step, stream) for seed in (0, 1) for step in (0, 1, 10, 11) for stream in STREAMS
    ]
    assert len(set(everything)) == len(everything) == 2 * 4 * len(STREAMS)
    assert draw(1, 10, "train") == everything[(4 + 2) * len(STREAMS)]
    with pytest.raises(AssertionError):
        make_rng(0, 0, "pictuers")


def test_every_example_once_an_epoch(config, tmp_path):
    def run() -> Run:
        return Run(tmp_path, config(batch_size=7), torch.device("cpu"), ("val/mse", "minimize"), 50)

    epochs = [torch.cat([run().batch_indices(s) for s in range(7 * e, 7 * e + 7)]) for e in range(3)]
    for order in epochs:  # 7 batches of 7; the one example too many is another one in each epoch
        assert len(order) == len(set(order.tolist())) == 49 and order.min() >= 0 and order.max() < 50
    assert epochs[0].tolist() != epochs[1].tolist()
    one = run()
    assert all(torch.equal(one.batch_indices(s), run().batch_indices(s)) for s in (20, 3, 4, 0))


# ------------------------------------------------------------------------------------------- identity


def test_golden_keys():
    """These may change only together with KEY_VERSION: otherwise old runs would be mistaken
    for other ones.
    """
    flags = [
        {},
        {"beta": 0.0, "seed": 3, "dataset": "lfw", "out": "elsewhere", "log_every": 7, "threads": 4},
        {"epochs": 2, "image_size": 32, "precision": "bf16", "eval_every": 100},
    ]
    keys = [
        run_key("bvae_faces", bvae_faces.KEY_VERSION, bvae_faces.Config(**f), "0123456789abcdef")
        for f in flags
    ]
    assert keys == ["dc4b1d6b9698", "d25dd6dec2e6", "dbe6d24e552d"]


def test_golden_defaults():
    """A changed default turns old runs into other ones and needs a new KEY_VERSION; a new flag does not."""

    def version_and_digest(module):
        flags = json.dumps(result_flags(module.Config()), sort_keys=True)
        return module.KEY_VERSION, hashlib.sha256(flags.encode()).hexdigest()[:8]

    assert {m.__name__.split(".")[-1]: version_and_digest(m) for m in FAMILIES} == {
        "bvae_faces": (2, "14c36496"),
        "charlm": (1, "240ba2bf"),
        "gan_faces": (1, "983cbe24"),
        "seq2seq_arith": (2, "4f7e25ea"),
        "text_vae": (1, "ca31fef5"),
        "vae_mnist": (1, "ce482343"),
    }


def test_the_source_of_a_run_is_all_that_its_script_imports(tmp_path):
    """They are found by Python itself, in separate processes; imports in functions are
    added, but not tasks.
    """
    families = [module.__name__.split(".")[-1] for module in FAMILIES]
    script = tmp_path / "imported.py"
    script.write_text(
        "import importlib, sys\n"
        "importlib.import_module(f'research.{sys.argv[1]}')\n"
        "files = [getattr(module, '__file__', None) for module in sys.modules.values()]\n"
        "print(*(file for file in files if file), sep='\\n')\n"
    )
    commands = [[script, family] for family in families]
    for family, ended in zip(families, run_each(commands, tmp_path / "said", ROOT, PYTHONPATH=str(ROOT))):
        assert ended.returncode == 0, ended.stderr
        ours = {path for line in ended.stdout.splitlines() if ROOT in (path := Path(line)).parents}
        ours = {path.relative_to(ROOT).as_posix() for path in ours}
        ours = {name for name in ours if name.startswith(("research/", "data/"))}
        found = {path.relative_to(ROOT).as_posix() for path in identity.source_files(family)}
        assert f"research/{family}.py" in ours and ours - {"research/__init__.py"} <= found, family
        later = {name for name in found - ours if not name.endswith("__init__.py")}
        assert later == LATER[family]
        assert not any("/tasks/" in name or name == "research/common/task.py" for name in found), family


def test_the_source_of_a_script_from_elsewhere_is_what_starts_its_runs():
    hashed = {path.relative_to(ROOT).as_posix() for path in identity.source_files("no_such_family")}
    assert {"research/common/start.py", "research/common/run.py", "research/common/checkpoints.py"} <= hashed
    assert hashed < {path.relative_to(ROOT).as_posix() for path in identity.source_files("bvae_faces")}


def test_key_counts_what_changes_numbers_only(config):
    def key(**flags):
        return run_key("bvae_faces", 1, config(**flags), "0")

    same = {
        "log_every": 1,
        "sample_every": 0,
        "save_every": 1,
        "threads": 3,
        "device": "auto",
        "name": "x",
        "project": "p",
        "wandb": "offline",
        "data_dir": "d",
        "reuse": True,
    }
    assert {key(**{k: v}) for k, v in same.items()} == {key()}
    other = {"eval_every": 11, "seed": 1, "precision": "bf16", "compile": True, "deterministic": True}
    assert len({key(), *(key(**{k: v}) for k, v in other.items())}) == 1 + len(other)
    assert run_key("bvae_faces", 2, config(), "0") != key() != run_key("bvae_faces", 1, config(), "1")


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def test_finished_run_is_skipped(config, capsys):
    first = train(config(steps=3))
    before = tree(folder_of(config()))
    assert train(config(steps=3)) == first
    assert "is already finished; --fresh trains it again" in capsys.readouterr().err
    assert tree(folder_of(config())) == before


def test_name_of_another_run_is_refused(config):
    train(config(steps=1, name="mine"))
    before = tree(folder_of(config()))
    with pytest.raises(UserError, match=r"another configuration: --seed=5 \(there: 0\), .*--fresh") as error:
        train(config(steps=1, name="mine", beta=2.0, seed=5))
    assert "--beta=2.0 (there: 4.0)" in str(error.value) and "\n" not in str(error.value)
    assert tree(folder_of(config())) == before


def test_other_data_under_the_same_name_is_refused(config, tmp_path, faces):
    train(config(steps=1, name="mine"))
    other = tmp_path / "other"
    other.mkdir()
    for i, path in enumerate(sorted(faces.iterdir())):
        if i:
            (other / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="the data set's content"):
        train(config(steps=1, name="mine", dataset=str(other)))


def test_changed_code_is_refused(config, straight, monkeypatch, capsys):
    with killed("log", 16):
        train(config())
    monkeypatch.setattr(identity, "source_hash", lambda family: "0123456789abcdef")
    with pytest.raises(UserError, match=r"made by different code.*now 0123456789abcdef.*--fresh.*--reuse"):
        train(config())
    train(config(reuse=True))
    folder = folder_of(config())
    assert "not bit-exact from step 14: source changed" in capsys.readouterr().err
    assert results(folder) == results(straight)
    assert [s["source"] for s in status_of(folder)["segments"]][1] == "0123456789abcdef"


def test_finished_run_of_changed_code(config, straight, monkeypatch):
    train(config())
    folder, old = folder_of(config()), tree(folder_of(config()))
    monkeypatch.setattr(identity, "source_hash", lambda family: "0123456789abcdef")
    with pytest.raises(UserError, match="--fresh"):
        train(config())
    train(config(reuse=True))
    assert tree(folder) == old
    train(config(fresh=True))
    assert results(folder) == results(straight)
    aside = folder.with_name(folder.name + ".old-1")
    assert results(aside) == results(straight) and len(status_of(folder)["segments"]) == 1
    assert read_json(aside / "config.json")["wandb_id"] != read_json(folder / "config.json")["wandb_id"]
    train(config(fresh=True))
    assert folder.with_name(folder.name + ".old-2").is_dir()


def test_epochs_and_steps(config):
    with pytest.raises(UserError, match="--epochs replaces --steps"):
        parse(bvae_faces.Config, ["--epochs=2", "--steps=12"])
    train(cfg := config(epochs=2))
    assert rows_of(folder_of(cfg))[-1]["step"] == 12 and rows_of(folder_of(cfg))[-1]["epoch"] == 2
    assert status_of(folder_of(cfg))["steps"] == 12
    with pytest.raises(UserError, match="--batch_size=49: must be at most 48"):
        train(config(epochs=2, batch_size=49))


def test_config_file_repeats_the_run(config, straight):
    again = parse(bvae_faces.Config, [f"--config={straight / 'config.json'}"])
    assert dataclasses.replace(again, out=".", config=None) == config(out=".")


# ------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_preempted(config, straight, at_step, number):
    at_step(11, lambda run: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as stop:
        train(config())
    assert stop.value.code == EXIT_PREEMPTED == 75
    folder = folder_of(config())
    status = status_of(folder)
    assert (status["status"], status["reason"], status["step"]) == ("preempted", number.name, 12)
    assert Checkpoints(folder / "checkpoints").newest_step() == 12  # saved there and then
    assert read_json(folder / "lease.1")["released"] == "preempted"
    assert not AT_CRASH
    train(config())
    final = results(folder)
    assert final["metrics.jsonl"] == (straight / "metrics.jsonl").read_bytes()
    assert {k for k in final if "000030" in k} == {k for k in results(straight) if "000030" in k}


def test_interrupted_from_the_keyboard(config, straight, at_step, monkeypatch):
    at_step(11, lambda run: os.kill(os.getpid(), signal.SIGINT))
    train(config())  # returns: exit code 0
    status = status_of(folder_of(config()))
    assert (status["status"], status["reason"], status["step"]) == ("stopped", "SIGINT", 12)
    train(config())
    assert (folder_of(config()) / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


def test_second_interrupt_aborts(config, at_step):
    def twice(run: Run) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

    at_step(11, twice)
    with pytest.raises(KeyboardInterrupt):
        train(config())
    assert status_of(folder_of(config()))["step"] == 7


def test_stop_file(config, straight, at_step):
    def ask(run: Run) -> None:
        (run.folder / "stop").touch()
        run._stop_looked = 0.0  # as if the last look was long ago

    at_step(11, ask)
    train(config())
    status = status_of(folder_of(config()))
    assert (status["status"], status["reason"], status["step"]) == ("stopped", "stop file", 12)
    train(config())
    assert (folder_of(config()) / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("stopped", [True, False])
def test_sigterm_of_an_agent(config, at_step, monkeypatch, stopped):
    """An agent's early stop and a preemption send the same signal; W&B's stop flag distinguishes them."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "from-the-agent")
    waited = []

    def term(run: Run) -> None:
        run.mirror.stop_requested = SimpleNamespace(wait=lambda seconds: waited.append(seconds) or stopped)
        os.kill(os.getpid(), signal.SIGTERM)

    at_step(11, term)
    if stopped:
        train(config())
    else:
        with pytest.raises(Preempted):
            train(config())
    folder = Path(config().out) / "from-the-agent"
    status = status_of(folder)
    assert (status["status"], status["step"]) == ("stopped" if stopped else "preempted", 12)
    assert waited == [20] and read_json(folder / "config.json")["wandb_id"] == "from-the-agent"


# ------------------------------------------------------------------------------------------- divergence


def no_constants(name: str) -> None:
    raise AssertionError(f"{name} in JSON")


@pytest.mark.parametrize("learning_rate", [1e6, 1e30])
def test_divergence_is_a_result(config, capsys, learning_rate):
    metrics = train(cfg := config(learning_rate=learning_rate, log_every=1))
    folder = folder_of(cfg)
    status = status_of(folder)
    assert status["status"] == "diverged" and status["status"] in DONE
    rows = [
        json.loads(x, parse_constant=no_constants)
        for x in (folder / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    json.loads((folder / "status.json").read_text(), parse_constant=no_constants)
    assert (
        rows[-1]["train/loss"] is None
        and status["reason"] == f"loss is not finite at step {rows[-1]['step']}"
    )
    finite = [row["val/mse"] for row in rows if row.get("val/mse") is not None]
    assert status["headline"] == max(finite)
    assert train(cfg) == metrics and "is already diverged" in capsys.readouterr().err  # not tried again


@pytest.mark.parametrize("at", [4, 10, 30])
def test_nan_found_anywhere(config, monkeypatch, tmp_path, at):
    """Training, an evaluation and the last step meet NaN weights, with the real pictures and MIG."""
    dots = bvae_faces.training_pictures
    monkeypatch.undo()
    monkeypatch.setattr(synthetic, "N_IMAGES", 60)
    monkeypatch.setattr(bvae_faces, "training_pictures" if at == 4 else "__doc__", dots)
    cfg = config(dataset="synthetic", data_dir=str(tmp_path / "store"), sample_every=10, learning_rate=0.001)
    real, count = Run.update, [0]

    def update(self: Run, loss: torch.Tensor) -> None:
        real(self, loss)
        count[0] += 1
        if count[0] == at:
            spoil["model"].encoder[-1].weight.data.fill_(math.nan)

    spoil, real_build = {}, bvae_faces.build
    monkeypatch.setattr(bvae_faces, "build", lambda *a: spoil.setdefault("model", real_build(*a)))
    monkeypatch.setattr(Run, "update", update)
    train(cfg)
    status = status_of(folder_of(cfg))
    assert status["status"] == "diverged" and math.isfinite(status["headline"])


def test_synthetic_faces_have_mig(config, monkeypatch, tmp_path):
    monkeypatch.setattr(synthetic, "N_IMAGES", 60)
    metrics = train(config(dataset="synthetic", data_dir=str(tmp_path / "store"), steps=2))
    assert 0 <= metrics["test/mig"] <= 1
    assert images.fingerprint("synthetic", str(tmp_path / "store"))


@pytest.mark.parametrize(
    ("owner", "name", "alerts"), [(Run, "describe", [(True, "failed")]), (start, "_set_up_torch", [])]
)
def test_a_crash_before_the_first_step_is_told(config, monkeypatch, owner, name, alerts):
    """To the folder and, once there is a W&B run, to W&B, which is begun for it."""
    seen = []

    def crash(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr(owner, name, crash)
    monkeypatch.setattr(Mirror, "run", lambda self: None)
    monkeypatch.setattr(Mirror, "alert", lambda self, title, *_: seen.append((self.ident is not None, title)))
    cfg = config()
    with pytest.raises(MemoryError) as error:
        bvae_faces.train(cfg)
    for hook in list(AT_CRASH):
        hook(error.value)
    folder = folder_of(cfg)
    status = json.loads((folder / "status.json").read_text())
    assert (status["status"], status["reason"]) == ("failed", "MemoryError: no room")
    assert json.loads((folder / "lease.1").read_text())["released"] == "failed"
    assert seen == alerts
