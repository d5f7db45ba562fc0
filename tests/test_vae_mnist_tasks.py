"""The tasks on a trained VAE of digits: their files and numbers, which pictures, what is refused."""

import dataclasses
import json
import math
import shutil
from types import SimpleNamespace

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from research import vae_mnist
from research.common.checkpoints import load_weights
from research.common.messages import UserError
from research.parts import digit_classifier, vae_mnist_maps
from research.tasks import vae_mnist as tasks
from tests.task_folders import latest

SMALL = {"width": 16, "depth": 1, "batch_size": 64, "steps": 3, "iw_samples": 2, "device": "cpu"}
SMALL |= {"eval_every": 3, "wandb": "disabled", "threads": 1}
FILES = {
    "generate": {"classes.png", "random.png"},
    "latent_space": {"codes.png", "manifold.png", "manifold_wide.png", "kl_per_latent.png"},
    "interpolate": {"strip.png", "path.png", "way.mp4", "way.gif"},
    "evaluate": {"scored.png"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with tiny finished runs: two latents, three, and two with binarised pixels."""
    place = tmp_path_factory.mktemp("analysis")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "N_FRAMES", 13)
        patch.setattr(tasks, "N_EXACT", 20)
        patch.setattr(tasks, "GRID_STEP", 0.1)  # what a model hardly knows is wide
        patch.setattr(vae_mnist_maps, "N_MAP", 4)
        patch.setattr(
            digit_classifier, "STEPS", 3
        )  # tells nothing: tests/test_digit_classifier.py has one that does
        patch.setattr(vae_mnist, "training_pictures", lambda *_: {})
        patch.setattr(vae_mnist_maps, "interpolation", lambda *_: {})
        patch.setattr(vae_mnist.views, "film", lambda *_: None)
        patch.setattr(vae_mnist, "final", lambda *_: {"test/active_units": 1})
        common = SMALL | {"data_dir": str(place / "store"), "out": str(place / "runs")}
        vae_mnist.train(vae_mnist.Config(**common, name="two"))
        vae_mnist.train(vae_mnist.Config(**common, name="three", latent_dim=3, arch="conv", beta=0.5))
        vae_mnist.train(vae_mnist.Config(**common, name="black", binarize="dynamic"))
        yield place


def config(place, task, run="two", **flags):
    fixed = {"task": task, "checkpoint": str(place / "runs" / run), "wandb": "disabled", "device": "cpu"}
    return vae_mnist.Config(**fixed | {"iw_samples": 2, "threads": 1} | flags)


def model_of(place, run, cfg):
    """The model of `cfg` with the best weights of a run."""
    file = next((place / "runs" / run / "checkpoints").glob("best_*.pt"))
    return load_weights(cfg, vae_mnist.build(cfg, torch.device("cpu")), file)


def do(place, task, run="two", **flags):
    """Run a task; returns its folder and what results.json says."""
    for folder in (place / "runs" / run).glob(f"{task}*"):
        shutil.rmtree(folder)
    tasks.run(config(place, task, run, **flags))
    folder = latest(place / "runs" / run, task)
    return folder, json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("task", FILES)
@pytest.mark.parametrize("run", ["two", "three"])
def test_tasks_write_their_files_and_leave_the_training_run_alone(place, task, run):
    before = {p: p.read_bytes() for p in (place / "runs" / run).glob("*.json*")}
    folder, results = do(place, task, run)
    files = FILES[task] | ({"traversal.png"} if (run, task) == ("three", "latent_space") else set())
    assert {path.name for path in folder.iterdir()} == files | {"results.json"}
    assert set(results["files"]) == files and results["task"] == task
    assert (results["beta"], results["data"]) == (1 if run == "two" else 0.5, "digits")
    assert results["data_hash"] == results["trained_on_data_hash"]
    for path in folder.glob("*.png"):
        assert np.asarray(Image.open(path)).std() > 5
    assert {p: p.read_bytes() for p in (place / "runs" / run).glob("*.json*")} == before
    assert not (place / "runs" / run / "wandb").exists()


def test_evaluate_tells_each_score_beside_that_of_real_pictures(place):
    _, results = do(place, "evaluate", "two")
    assert {"rec_nats", "kl_nats", "elbo_nats", "iw_nats", "knn_accuracy", "active_units"} <= set(results)
    assert results["elbo_nats"] == pytest.approx(-results["rec_nats"] - results["kl_nats"])
    assert results["n_scored"] == results["n_test"] == 359 and results["iw_samples"] == 2
    assert 1 <= results["inception_score"] <= 10 and 1 <= results["inception_score_of_real"] <= 10
    assert results["frechet"] > results["frechet_of_real"] > 0
    assert sum(results["share_of_class"].values()) == pytest.approx(1)
    (kept,) = (place / "store").glob("readers/*/best_*.pt")
    assert results["classifier"] in kept.name and 0 <= results["classifier_accuracy"] <= 1
    _, binary = do(place, "evaluate", "black")
    assert {"elbo_nats_bin", "iw_nats_bin"} <= set(binary) and "elbo_nats" not in binary
    assert binary["frechet_of_real"] == results["frechet_of_real"]  # scored as they are shown: grey


def test_the_likelihood_summed_over_a_grid_is_what_the_bound_rises_to(place):
    _, results = do(place, "evaluate", "two")
    cfg = config(place, "train", "two", **SMALL | {"checkpoint": None, "iw_samples": 3000})
    model, data = model_of(place, "two", cfg), vae_mnist.load_data(cfg)
    for part in ("train", "test"):
        found, x = results["inference"][part], getattr(data, part)[:20]
        bound = vae_mnist.log_likelihood(model, x, cfg, torch.device("cpu"))
        assert found["n"] == 20 and found["exact_nats"] == pytest.approx(bound, abs=0.1)
        elbo = vae_mnist.evaluate(model, x, part, cfg, torch.device("cpu"))[f"{part}/elbo_nats"]
        assert found["gap_nats"] == pytest.approx(found["exact_nats"] - elbo) and found["gap_nats"] > 0


def test_the_grid_goes_beyond_all_codes(place):
    cfg = config(place, "train", "two", **SMALL | {"checkpoint": None, "iw_samples": 3000})
    model, data = model_of(place, "two", cfg), vae_mnist.load_data(cfg)
    with torch.no_grad():  # codes as far as a small β lets them go
        model.encoder[-1].weight[:2] *= 12 / model.encode(vae_mnist.to_float(data.test, "cpu"))[0].abs().max()
    x = data.test[:20]
    task = SimpleNamespace(device=torch.device("cpu"))
    (found,) = tasks.exact_nats(tasks.Bench(cfg, model, data, task), x)
    wide = torch.linspace(-14, 14, 281)
    z = torch.cartesian_prod(wide, wide)
    logits = model.decode(z).flatten(1).detach()
    log_p = vae_mnist.to_float(x, "cpu").flatten(1) @ logits.T - torch.nn.functional.softplus(logits).sum(1)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    assert found == pytest.approx((log_p + prior + 2 * math.log(0.1)).logsumexp(1).mean().item(), abs=0.01)


def test_evaluate_finds_what_training_found(place):
    _, results = do(place, "evaluate", "two")
    cfg = config(place, "train", "two", **SMALL | {"checkpoint": None, "width": 16})
    model, data = model_of(place, "two", cfg), vae_mnist.load_data(cfg)
    found = vae_mnist.evaluate(model, data.test, "test", cfg, torch.device("cpu"))
    assert results["elbo_nats"] == found["test/elbo_nats"]
    assert results["iw_nats"] == vae_mnist.log_likelihood(model, data.test, cfg, torch.device("cpu"))


def test_generate_from_a_code_and_of_a_class(place):
    _, results = do(place, "generate", z="0.5,-1")
    assert results["z"] == [0.5, -1] and set(results["files"]) == {"decoded.png"}
    _, results = do(place, "generate", label="7")
    assert set(results["files"]) == {"class.png"} and list(results["centres"]) == ["7"]
    _, results = do(place, "generate")
    assert list(results["centres"]) == list("0123456789")


def test_a_class_without_training_pictures_is_refused(place, monkeypatch):
    """As in a set whose labels begin at 1."""
    data = vae_mnist.load_data(config(place, "train", checkpoint=None))
    labels = data.train_labels.clamp(min=1)
    monkeypatch.setattr(vae_mnist, "load_data", lambda cfg: dataclasses.replace(data, train_labels=labels))
    with pytest.raises(UserError, match=r"^--label=0: must be one of 1, 2, 3, 4, 5, 6, 7, 8, 9$"):
        tasks.run(config(place, "generate", label="0"))
    assert list(do(place, "generate", label="1")[1]["centres"]) == ["1"]
    named = dataclasses.replace(data, class_names=(*"123456789", "ten"))
    monkeypatch.setattr(vae_mnist, "load_data", lambda cfg: named)
    with pytest.raises(UserError, match=r"^--label=0: must be one of 1, 2"):  # a name, not a place
        tasks.run(config(place, "generate", label="0"))
    words = dataclasses.replace(data, class_names=tuple("abcdefghij"))
    monkeypatch.setattr(vae_mnist, "load_data", lambda cfg: words)
    assert list(do(place, "generate", label="2")[1]["centres"]) == ["c"]


def test_the_inception_score_stands_beside_the_most_that_it_could_be(place, monkeypatch):
    titles, real = [], tasks.pictures.grid

    def grid(*args, **options):
        titles.append(options["title"])
        return real(*args, **options)

    monkeypatch.setattr(tasks.pictures, "grid", grid)
    _, results = do(place, "evaluate")
    score, of_real = (results[f"inception_score{what}"] for what in ("", "_of_real"))
    assert results["inception_score_at_most"] == 10
    (title,) = titles
    assert f"Inception Score {score:.2f} (at most 10; real pictures {of_real:.2f}) of 359" in title


def test_axes_circles_latents_and_times_are_named(place, monkeypatch):
    scatters, grids, bars = [], [], []
    empty = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr(tasks.charts, "scatter", lambda *_, **what: scatters.append(what) or empty)
    monkeypatch.setattr(tasks.charts, "bars", lambda values, names, *_: bars.append(names) or empty)
    real = tasks.pictures.grid

    def grid(images, n_cols=None, row_labels=None, col_labels=None, title="", **options):
        grids.append((row_labels, col_labels, title))
        return real(images, n_cols, row_labels, col_labels, title, **options)

    monkeypatch.setattr(tasks.pictures, "grid", grid)
    do(place, "latent_space", "two")
    assert [what["axes"] for what in scatters] == [("z₀", "z₁")] and scatters[0]["rings"] == (1, 2, 3)
    assert all("z₀ to the right, z₁ upwards" in title for *_, title in grids) and len(grids) == 2
    assert sorted(bars[0]) == ["z₀", "z₁"]
    do(place, "latent_space", "three")
    assert scatters[1]["axes"] == ("first principal component", "second principal component")
    (rows,) = (rows for rows, columns, _ in grids if columns and len(columns) == 13)
    assert sorted(row.split()[0] for row in rows) == ["z₀", "z₁", "z₂"]
    grids.clear()
    do(place, "interpolate", "two")
    assert scatters[2]["axes"] == ("z₀", "z₁") and scatters[2]["rings"] == (1, 2, 3)
    assert grids[0][1] == [f"t = {t / 12:.2f}" for t in range(13)] and grids[1][2] == "t = 0.00"


def test_interpolation_is_between_two_classes_or_the_pictures_that_were_chosen(place):
    folder, results = do(place, "interpolate")
    assert results["from"] != results["to"]
    assert len(imageio.mimread(folder / "way.mp4", memtest=False)) == 24  # 13 there and back
    _, other = do(place, "interpolate", seed=1)
    assert (other["index"], other["index2"]) != (results["index"], results["index2"])
    _, results = do(place, "interpolate", index=3, index2=4)
    assert (results["index"], results["index2"]) == (3, 4)
    steps = [results[f"rmse_between_frames_{way}"] for way in ("pixels", "linear", "spherical")]
    assert all(len(step) == 12 for step in steps)
    assert steps[0] == pytest.approx([steps[0][0]] * 12, rel=1e-4)  # pixels are mixed at an even pace


def test_a_task_done_again_gives_the_same_bytes(place):
    for task in ("interpolate", "evaluate"):
        folder, _ = do(place, task)
        first = {path.name: path.read_bytes() for path in folder.glob("*")}
        folder, _ = do(place, task)
        assert {path.name: path.read_bytes() for path in folder.glob("*")} == first


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("interpolate", {"index": 359}, r"--index=359: must be from 0 to 358, the test part"),
        ("interpolate", {"index2": -1}, r"--index2=-1: must be from 0 to 358"),
        ("generate", {"z": "1"}, r"--z=1: must be 2 numbers separated by commas"),
        ("generate", {"z": "1,x"}, r"--z=1,x: must be 2 numbers"),
        ("generate", {"z": "1,nan"}, r"--z=1,nan: must be 2 numbers"),
        ("generate", {"label": "10"}, r"--label=10: must be one of 0, 1, 2"),
        ("generate", {"label": "shirt"}, r"--label=shirt: must be one of 0, 1"),
        ("evaluate", {"checkpoint": "no/such/run"}, r"--checkpoint=no/such/run: no such run"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(place, task, flags, message):
    with pytest.raises(UserError, match=message) as error:
        tasks.run(config(place, task, **flags))
    assert "\n" not in str(error.value)


def test_weights_of_another_model_are_refused(place, tmp_path):
    """Other faults of a checkpoint are tested with the tasks on faces, which use the same code."""
    run = tmp_path / "run"
    shutil.copytree(place / "runs/two", run, ignore=shutil.ignore_patterns(*FILES))
    kept = json.loads((run / "config.json").read_text())
    kept["flags"]["width"] = 17
    (run / "config.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match=r"^--checkpoint=.*no weights of this model"):
        tasks.run(vae_mnist.Config(task="evaluate", checkpoint=str(run), wandb="disabled", device="cpu"))
    assert not (run / "evaluate").exists()
