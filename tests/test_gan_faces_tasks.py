"""The tasks on a trained GAN: their files and numbers, which data, what is refused."""

import json
import math
import shutil

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from data import DataError, synthetic
from research import gan_faces as script
from research.common.messages import UserError
from research.measure import sample_quality
from research.parts import face_reader
from research.tasks import faces_bench, faces_ways
from research.tasks import gan_faces as tasks
from tests.task_folders import latest

SMALL = {"image_size": 32, "width": 4, "depth": 1, "latent_dim": 4, "batch_size": 16, "arch": "skip"}
SMALL |= {"steps": 2, "eval_every": 5, "sample_every": 1000, "device": "cpu", "wandb": "disabled"}
FILES = {
    "random_generation": {"samples.png", "walk.mp4", "walk.gif", "nearest.png"},
    "interpolate": {"strip.png", "way.mp4", "way.gif"},
    "evaluate": {"samples.png"},
}
N_FRAMES = 9
# of nine frames: a loop leaves out its last one, which is its first; another way goes there and back
FRAMES = {"random_generation": 2 * N_FRAMES - 2, "interpolate": 2 * N_FRAMES - 2}
SCORES = {"kernel_distance", "kernel_distance_floor", "frechet_distance", "frechet_distance_floor"}
SCORES |= {"precision", "recall", "density", "coverage", "n", "precision_of_real", "recall_of_real"}
SCORES |= {"two_sample_accuracy", "two_sample_accuracy_of_real", "network"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, photos, and a tiny finished run on the rendered faces."""
    place = tmp_path_factory.mktemp("gan")
    rng = np.random.default_rng(0)
    (place / "photos").mkdir()
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(place / f"photos/{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "N_IMAGES", 320)
        for module in (tasks, faces_ways):
            patch.setattr(module, "N_FRAMES", N_FRAMES)
        patch.setattr(tasks, "N_SCORED", 24)
        patch.setattr(face_reader, "STEPS", 3)  # reads nothing: tests/test_face_reader.py has one that does
        patch.setattr(script, "N_SCORED", 16)
        patch.setattr(script, "film", lambda: 0.0)  # of no interest here
        for name in ("training_pictures", "interpolation", "nearest_pictures"):
            patch.setattr(script, name, lambda *args: {})
        common = SMALL | {"data_dir": str(place / "store"), "out": str(place / "runs")}
        script.train(script.Config(**common, name="run"))
        yield place


def config(place, task, **flags) -> script.Config:
    common = {"checkpoint": str(place / "runs/run"), "wandb": "disabled", "device": "cpu"}
    return script.Config(**{"task": task} | common | flags)


def do(place, task, **flags):
    """Run a task; returns its folder and what results.json says."""
    tasks.run(config(place, task, **flags))
    folder = latest(place / "runs/run", task)
    return folder, json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)


def check_finite(value, where: str = "results.json") -> int:
    """The number of figures in nested JSON values, all of which must be finite."""
    if isinstance(value, dict):
        return sum(check_finite(v, f"{where}: {k}") for k, v in value.items())
    if isinstance(value, list):
        return sum(check_finite(v, where) for v in value)
    assert value is not None, where
    if isinstance(value, (int, float)):
        assert math.isfinite(value), where
        return 1
    return 0


@pytest.mark.parametrize("task", FILES)
def test_tasks_write_their_files_and_leave_the_training_run_alone(place, task):
    before = {p: p.read_bytes() for p in (place / "runs/run").glob("*.json*")}
    folder, results = do(place, task)
    assert {path.name for path in folder.iterdir()} == FILES[task] | {"results.json"}
    assert set(results["files"]) == FILES[task] and results["task"] == task
    assert check_finite(results) >= 3
    assert results["data_hash"] == results["trained_on_data_hash"]
    for path in folder.glob("*.png"):
        assert np.asarray(Image.open(path)).std() > 3
    for path in folder.glob("*.mp4"):
        assert len(imageio.mimread(path, memtest=False)) == FRAMES[task]
        assert Image.open(path.with_suffix(".gif")).n_frames <= FRAMES[task] // 2
    assert {p: p.read_bytes() for p in (place / "runs/run").glob("*.json*")} == before
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    if task != "interpolate":
        return
    do(place, task)  # done again it gives the same bytes
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_every_task_of_the_script_is_there():
    assert {"train", "compare", *tasks.RUNS} == set(script.TASKS) and set(tasks.RUNS) == set(FILES)


def test_scores_stand_beside_those_of_real_pictures(place):
    _, results = do(place, "evaluate")
    assert results["n_scored"] == 24
    for name in ("random", "reader"):
        assert set(results[name]) == SCORES and results[name]["n"] == 24
        shares = ("precision", "recall", "coverage", "precision_of_real", "recall_of_real")
        assert all(0 <= results[name][share] <= 1 for share in shares)
    assert results["random"]["network"] != results["reader"]["network"]
    found = results["random"]
    assert found["two_sample_accuracy"] > found["two_sample_accuracy_of_real"], "it is not trained at all"
    assert found["kernel_distance"] > found["kernel_distance_floor"]
    assert found["recall"] < found["recall_of_real"]
    assert all(0 <= results[name] <= 1 for name in ("d_train_real", "d_held_out_real", "d_generated"))


def test_a_generator_that_draws_the_test_pictures_is_not_told_from_them(place):
    bench, _, _ = tasks.bench_of(config(place, "evaluate"))
    found = tasks.scores(bench.data.test[:24], bench.data, bench.cfg)
    for name in ("random", "reader"):
        assert found[name]["precision"] == found[name]["recall"] == 1
        assert found[name]["frechet_distance"] == pytest.approx(0, abs=1e-3)
        assert found[name]["kernel_distance"] <= found[name]["kernel_distance_floor"]
        assert found[name]["two_sample_accuracy"] <= 0.5
    copies = tasks.scores(bench.data.train[:24], bench.data, bench.cfg)["random"]
    assert copies["kernel_distance"] == pytest.approx(copies["kernel_distance_floor"])
    assert copies["precision"] == copies["precision_of_real"]


def test_numbers_are_of_the_best_weights_averaged(place):
    bench, model, _ = tasks.bench_of(config(place, "evaluate"))
    assert not any(module.training for module in model.modules())
    (file,) = (place / "runs/run/checkpoints").glob("best_*.pt")
    kept = torch.load(file, weights_only=True)["states"][0]
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        list(model.average.parameters())[-1].add_(0.5)  # else both are those of step 0 and alike
    assert np.abs(bench.decode(z) - script.generate(model.generator, z, bench.task.device).numpy()).max() > 9
    expected = script.generate(model.average, z, torch.device("cpu")).numpy().astype(int)
    assert np.abs(bench.decode(z) - expected).max() <= 1
    with pytest.raises(AssertionError, match="encodes no pictures"):
        bench.encode(bench.data.test[:2])


def test_the_nearest_training_pictures_are_found(place, monkeypatch):
    """For a generator that has copied training pictures, the nearest ones are at distance 0."""
    bench, model, _ = tasks.bench_of(config(place, "random_generation"))
    copied = bench.data.train[40:104].numpy()
    shown = []
    decode = faces_bench.Bench.decode
    monkeypatch.setattr(
        faces_bench.Bench, "decode", lambda self, z: copied if z.shape == (64, 4) else decode(self, z)
    )
    monkeypatch.setattr(tasks, "stack", lambda panels, axis: shown.append(panels) or panels[0])
    grids = []
    real = tasks.pictures.grid
    monkeypatch.setattr(tasks.pictures, "grid", lambda x, *a, **k: grids.append((x, a)) or real(x, *a, **k))
    monkeypatch.setattr(tasks, "animate", lambda *_, **__: None)
    found = tasks.random_generation(bench, model)
    assert found["nearest_distance"] == 0 < found["nearest_distance_of_test"]
    assert found["n_train"] == len(bench.data.train)
    pairs = [x for x, a in grids if len(a) == 2 and a[1] == ["G(z)", "nearest"]]
    assert len(pairs) == 2 and len(shown) == 1
    for pair, start in zip(pairs, (0, 8), strict=True):
        assert np.array_equal(pair[0], copied[start : start + 8]) and np.array_equal(pair[0], pair[1])


def test_the_walk_keeps_the_distribution_of_codes_and_closes(place, monkeypatch):
    bench, model, _ = tasks.bench_of(config(place, "random_generation"))
    decoded, decode = [], faces_bench.Bench.decode
    monkeypatch.setattr(faces_bench.Bench, "decode", lambda self, z: decoded.append(z) or decode(self, z))
    monkeypatch.setattr(tasks, "animate", lambda *_, **__: None)
    tasks.random_generation(bench, model)
    z, walk = decoded
    assert z.shape == (64, 4) and walk.shape == (2 * N_FRAMES - 2, 16, 4)
    torch.testing.assert_close(walk[0], z[:16])
    quarter = len(walk) // 4
    torch.testing.assert_close(walk[quarter], z[16:32])
    torch.testing.assert_close(walk[2 * quarter], -z[:16])
    steps = (walk - walk.roll(1, 0)).norm(dim=(1, 2))
    assert (steps / steps.mean() - 1).abs().max() < 0.5, "the last step is no jump"


def test_ways_between_random_codes(place):
    _, results = do(place, "interpolate")
    assert (results["from"], results["to"], results["way"]) == ("random", "random", "linear and spherical")
    line, arc = (results[way] for way in ("linear", "spherical"))
    assert line["code_norms"][0] == pytest.approx(arc["code_norms"][0])
    assert line["code_norms"][-1] == pytest.approx(arc["code_norms"][-1])
    assert line["code_norms"][4] < arc["code_norms"][4], "the line passes through shorter codes"
    for way in (line, arc):
        assert len(way["code_norms"]) == len(way["rmse_to_first"]) == N_FRAMES
        assert way["rmse_to_first"][0] == way["rmse_to_last"][-1] == 0
        assert len(way["rmse_between_frames"]) == N_FRAMES - 1
    folder, other = do(place, "interpolate", seed=1)
    assert folder.name == "interpolate-seed=1" and other["linear"] != line


def test_another_data_set_is_scored_when_it_is_given(place):
    photos = str(place / "photos")
    folder, results = do(place, "evaluate", dataset=photos)
    assert results["data"] == "photos" and results["data_hash"] != results["trained_on_data_hash"]
    assert results["n_scored"] == 6, "as many as its test part holds"
    assert folder.name.startswith("evaluate-dataset=") and check_finite(results) > 10
    folder, results = do(place, "random_generation", dataset=photos)
    assert results["n_train"] == 48 and results["nearest_distance"] > 0
    with pytest.raises(DataError, match="--dataset=no/such"):
        tasks.run(config(place, "evaluate", dataset="no/such"))


def test_flags_of_the_model_cannot_be_changed(place, monkeypatch):
    monkeypatch.setattr("research.common.task.GIVEN", {"width"})
    with pytest.raises(UserError, match=r"--width=99: must be 4, as in the run of --checkpoint"):
        tasks.run(config(place, "evaluate", width=99))


def test_checkpoints_that_are_not_ours_are_refused(place, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(place / "runs/run", run, ignore=shutil.ignore_patterns(*(f"{t}*" for t in FILES)))
    kept = json.loads((run / "config.json").read_text())
    cfg = script.Config(task="evaluate", checkpoint=str(run), wandb="disabled", device="cpu")
    for change, message in (
        ({"family": "bvae_faces"}, "must be a run of gan_faces; this one is of bvae_faces"),
        ({"flags": kept["flags"] | {"width": 5}}, "no weights of this model"),
        ({"flags": kept["flags"] | {"arch": "dcgan"}}, "no weights of this model"),
        ({"flags": {}}, "must be of a run whose config.json lists its flags"),
    ):
        (run / "config.json").write_text(json.dumps(kept | change))
        with pytest.raises(UserError, match=f"^--checkpoint=.*{message}") as error:
            tasks.run(cfg)
        assert "\n" not in str(error.value)
    (run / "config.json").write_text(json.dumps(kept))
    next((run / "checkpoints").glob("best_*.pt")).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"^--checkpoint=.*not a readable checkpoint"):
        tasks.run(cfg)
    assert not (run / "evaluate").exists()
    with pytest.raises(UserError, match=r"--checkpoint=no/such/run: no such run"):
        tasks.run(config(place, "evaluate", checkpoint="no/such/run"))


def test_floors_are_of_real_pictures(place):
    """The distances and shares of real pictures compare training with test pictures."""
    bench, _, _ = tasks.bench_of(config(place, "evaluate"))
    made = 255 - bench.data.test[:24]
    found = tasks.scores(made, bench.data, bench.cfg)["random"]
    fake, real, other = (
        tasks.picture_features.random_features(x) for x in (made, bench.data.test[:24], bench.data.train[:24])
    )
    assert found["kernel_distance"] == sample_quality.kernel_distance(fake, real)
    assert found["kernel_distance_floor"] == sample_quality.kernel_distance(other, real)
    assert found["recall_of_real"] == sample_quality.precision_recall(other, real).recall
    assert found["two_sample_accuracy_of_real"] == sample_quality.two_sample_accuracy(other, real, 0)
