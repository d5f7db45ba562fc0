"""The tasks on a trained autoencoder or β-VAE: their files and numbers, which faces, what is refused."""

import dataclasses
import json
import shutil
import sys
import time
import types

import imageio.v2 as imageio
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from data import DataError, synthetic
from research import bvae_faces
from research.common.messages import UserError
from research.common.task import find_run, flags_of_run, start_task
from research.draw import charts, pictures
from research.measure.latents import Aggregate
from research.parts import face_reader
from research.tasks import bvae_faces as tasks
from research.tasks import faces_bench, faces_rotation, faces_ways
from tests.task_folders import latest

SMALL = {"image_size": 32, "width": 4, "depth": 3, "hidden_dim": 16, "batch_size": 16, "steps": 5}
SMALL |= {"eval_every": 5, "sample_every": 5, "device": "cpu", "wandb": "disabled"}
FILES = {
    "random_generation": {"samples.png", "walk.mp4", "walk.gif"},
    "latent_analysis": {"factors.png", "per_latent.png", "sweep.mp4", "sweep.gif"}
    | {f"traversal_{i}.png" for i in (1, 2, 3)},
    "rotate": {
        "strip.png",
        "distance.png",
        "turn.mp4",
        "turn.gif",
        "mirror_test.png",
        "yaw_read.png",
        "others.png",
    },
    "interpolate": {"strip.png", "way.mp4", "way.gif"},
}
FRAMES = {"random_generation": 16, "latent_analysis": 8, "rotate": 16, "interpolate": 16}  # of 9


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, photos, and tiny finished runs: β = 4 (20 latents), β = 0 and one on the photos."""
    place = tmp_path_factory.mktemp("analysis")
    rng = np.random.default_rng(0)
    (place / "photos").mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(place / f"photos/{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "N_IMAGES", 400)
        patch.setattr(tasks, "N_FRAMES", 9)
        patch.setattr(faces_ways, "N_FRAMES", 9)
        patch.setattr(tasks, "N_REPEATS", 1)
        patch.setattr(faces_rotation, "N_FRAMES", 9)
        patch.setattr(faces_rotation, "N_FACES", 8)
        patch.setattr(face_reader, "STEPS", 3)  # reads nothing: tests/test_face_reader.py has one that does
        for name in ("training_pictures", "interpolation"):  # of no interest here
            patch.setattr(bvae_faces, name, lambda *args: {})
        common = SMALL | {"data_dir": str(place / "store"), "out": str(place / "runs")}
        bvae_faces.train(bvae_faces.Config(**common, name="b4", beta=4, latent_dim=20))
        bvae_faces.train(bvae_faces.Config(**common, name="b0", beta=0, latent_dim=6))
        other = common | {"arch": "conv", "optimizer": "adam", "dataset": str(place / "photos")}
        bvae_faces.train(bvae_faces.Config(**other, name="photos", latent_dim=6))
        yield place


def do(place, task, run="b4", **flags):
    """Run a task; returns its folder and what results.json says."""
    tasks.run(config(place, task, run, **flags))
    folder = latest(place / "runs" / run, task)
    return folder, json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)


def config(place, task, run="b4", **flags):
    return bvae_faces.Config(
        **{"task": task, "checkpoint": str(place / "runs" / run), "wandb": "disabled", "device": "cpu"}
        | flags
    )


def check_files(folder, task, missing=()):
    names = {path.name for path in folder.iterdir()} - {"results.json"}
    assert names == FILES[task] - set(missing)
    for path in folder.glob("*.png"):
        assert np.asarray(Image.open(path)).std() > 5
    (video,) = folder.glob("*.mp4")
    assert len(imageio.mimread(video, memtest=False)) == FRAMES[task]
    assert Image.open(video.with_suffix(".gif")).n_frames <= FRAMES[task] // 2


@pytest.fixture
def said(monkeypatch):
    """What pictures of tiles and charts say: titles and labels, in the order in which they are drawn."""
    words = []

    def listen(module, name):
        draw = getattr(module, name)

        def spy(*args, **kwargs):
            given = [*args[1:], *kwargs.values()]
            words.extend(str(w) for w in given if isinstance(w, str))
            words.extend(str(w) for row in given if isinstance(row, (list, tuple)) for w in row)
            return draw(*args, **kwargs)

        monkeypatch.setattr(module, name, spy)

    listen(pictures, "grid")
    for name in ("bars", "curves", "heatmap"):
        listen(charts, name)
    return words


@pytest.mark.parametrize("task", FILES)
@pytest.mark.parametrize("run", ["b4", "b0"])
def test_tasks_write_their_files_and_leave_the_training_run_alone(place, task, run):
    before = {p: p.read_bytes() for p in (place / "runs" / run).glob("*.json*")}
    folder, results = do(place, task, run)
    check_files(folder, task)
    assert results["task"] == task
    assert results["beta"] == (4 if run == "b4" else 0)
    assert set(results["files"]) == FILES[task]
    assert results["data_hash"] == results["trained_on_data_hash"]
    assert {p: p.read_bytes() for p in (place / "runs" / run).glob("*.json*")} == before
    assert not (place / "runs" / run / "wandb").exists()


def test_a_task_done_again_gives_the_same_bytes(place):
    folder, _ = do(place, "rotate")
    first = {path.name: path.read_bytes() for path in folder.glob("*")}
    do(place, "rotate")
    assert {path.name: path.read_bytes() for path in folder.glob("*")} == first


def test_the_divergence_of_the_aggregate_from_the_prior():
    q = Aggregate(torch.tensor([0.5, -1.0]).double(), torch.tensor([[2.0, 0.3], [0.3, 0.5]]).double())
    normal = torch.distributions.MultivariateNormal
    p = normal(torch.zeros(2).double(), torch.eye(2).double())
    expected = torch.distributions.kl_divergence(normal(q.mean, q.cov), p)
    assert tasks.kl_to_prior(q) == pytest.approx(float(expected))
    assert tasks.kl_to_prior(Aggregate(torch.zeros(3), torch.eye(3))) == pytest.approx(0, abs=1e-6)
    assert tasks.kl_to_prior(Aggregate(torch.zeros(2), torch.diag(torch.tensor([1.0, 0.0])))) == float("inf")


def test_latents_are_sorted_and_all_in_the_numbers(place):
    _, results = do(place, "latent_analysis", index=39)
    assert sorted(results["latents_sorted"]) == list(range(20))
    assert results["kl_nats_per_latent"] == sorted(results["kl_nats_per_latent"], reverse=True)
    assert results["kl_nats"] == pytest.approx(sum(results["kl_nats_per_latent"]), rel=1e-5)
    assert np.shape(results["mi_nats"]) == np.shape(results["mi_share"]) == (20, len(synthetic.FACTOR_NAMES))
    gaps = [v for v in results["mig_per_factor"].values() if v is not None]
    assert results["mig"] == pytest.approx(np.mean(gaps))
    names = {"mig", "dci_disentanglement", "dci_completeness", "dci_informativeness", "sap", "factor_vae"}
    assert set(results["intervals"]) == names
    assert all(low <= results[name] <= high for name, (low, high) in results["intervals"].items())
    assert 0 <= results["mig_of_draws"] <= 1
    assert results["faces"] == ["test face 39"]


def test_silent_latents_have_no_meaning(place, said, monkeypatch):
    def encode(self, x):
        mu = 1e-3 * torch.randn(len(x), 20, generator=torch.Generator().manual_seed(0))
        mu[:, 3] = torch.linspace(-2, 2, len(x))
        return mu, torch.zeros_like(mu)

    monkeypatch.setattr(faces_bench.Bench, "encode", encode)
    monkeypatch.setattr(tasks, "scores", lambda *_: {})  # seconds, and of no interest here
    _, results = do(place, "latent_analysis")
    assert results["latents_sorted"][0] == 3
    assert results["silent_latents"] == results["latents_sorted"][1:]
    assert results["main_factors"][0]["factor"] in synthetic.FACTOR_NAMES
    assert results["main_factors"][1:] == 19 * [{"factor": None, "share": None}]
    assert min(max(row) for row in results["mi_share"]) > 0, "a meaning could be read off all of them"
    named = [w for w in said if w.startswith("z") and any(n in w for n in synthetic.FACTOR_NAMES)]
    assert named and {w.split()[0].strip() for w in named} == {"z3"}
    quiet = [w for w in said if w.startswith("z") and w.endswith("\nsilent")]
    assert {w.split()[0] for w in quiet} == {f"z{d}" for d in results["silent_latents"][:15]}
    assert any("19 of 20 are silent: below 0.05 nats" in w for w in said)
    assert any("grey: silent" in w for w in said)


def test_yaw_steps_go_where_codes_go(place, monkeypatch):
    bench, _ = tasks.bench_of(config(place, "rotate"))
    yaw = {len(getattr(bench.data, p)): bench.data.factors[p][:, 0] for p in ("train", "test")}

    def encode(self, x):
        g = torch.Generator().manual_seed(len(x))
        mu = 0.01 * torch.randn(len(x), 20, generator=g)
        angle = torch.from_numpy(yaw[len(x)])
        mu[:, 0] = angle / 30 + 0.1 * torch.randn(len(x), generator=g)
        mu[:, 1] = angle / 3000  # tells the yaw best, and hardly moves
        return mu, torch.zeros_like(mu)

    monkeypatch.setattr(faces_bench.Bench, "encode", encode)
    z = torch.zeros(20)
    z[0] = 1.0
    turn = faces_rotation.turn_by_yaw(bench)
    assert turn.step[0] * 30 == pytest.approx(1, rel=0.05)  # the latent moves as it does over the data
    assert turn.own(z[None]) == pytest.approx(30, abs=3)
    assert turn.numbers["r2_test"] > 0.95


def test_rotation_says_what_it_went_along(place, said):
    folder, results = do(place, "rotate", index=3)
    assert results["unit"] == "°"
    assert results["values"][0] == -60 and results["values"][-1] == 60
    assert (
        len(results["rmse_to_the_unturned_face"])
        == len(results["rmse_to_the_face_rendered_at_that_yaw"])
        == 9
    )
    assert "r2_test" in results
    assert results["turns"] is False, "a model of five steps turns nothing"
    assert results["verdict"].startswith("nothing turns: pictures at both ends are alike (RMSE 0.00")
    heading = results["verdict"].replace("nothing", "Nothing")
    strips = [w for w in said if w.startswith(f"{heading}\ntest face 3 moved along the yaw direction")]
    assert any(w.endswith("error: RMSE of pixels to the face rendered at that yaw") for w in strips)
    assert any(w.startswith("−60°\nerror 0.") for w in said)
    assert said.count(heading) == 9, "on each frame of the film"
    folder, results = do(place, "rotate", dim=19)
    assert results["direction"] == "latent 19"
    assert results["values"][-1] == 3
    check_files(folder, "rotate")


def test_the_evidence_of_a_sweep_is_what_its_tasks_measure(place, tmp_path, monkeypatch):
    from docs import beta_curve

    for name in ("b0", "b4"):
        shutil.copytree(place / "runs" / name, tmp_path / "bvae_beta" / name)
    monkeypatch.setattr(beta_curve, "RESULTS", tmp_path)
    beta_curve.collect(tmp_path / "bvae_beta")
    rotation, latents = (pd.read_csv(tmp_path / f"bvae_beta_{n}.csv") for n in ("rotation", "latents"))
    _, turned = do(place, "rotate")
    _, results = do(place, "latent_analysis")
    assert rotation["beta"].tolist() == [0, 4]
    for name in beta_curve.ROTATION:
        assert rotation[name][1] == pytest.approx(turned[name], rel=1e-3, abs=1e-3)
    ours = latents[latents["beta"] == 4]
    assert ours["latent"].tolist() == results["latents_sorted"]
    shares = np.array(results["mi_share"], float)
    np.testing.assert_allclose(ours[list(synthetic.FACTOR_NAMES)], shares, rtol=1e-3, atol=1e-4)
    assert Image.open(tmp_path / "bvae_beta_faces.png").size == (13 * 32, 2 * 32)


def test_photos_move_along_the_mirror_direction(place, said):
    folder, results = do(place, "rotate", "photos")
    check_files(folder, "rotate", ["yaw_read.png", "others.png"])
    assert "mirror" in results["direction"] and "yaw_span_degrees" not in results
    assert 0 <= results["share_explained"] <= 1
    assert results["turns"] is False and results["mirror_share_detail"] < 0.5
    ends = results["values"][-1]
    assert 2 < abs(results["own_value"]) <= ends < abs(results["own_value"]) + 0.1, "where the face lies"
    assert any(w.startswith(f"−{ends:.2f} sd\nchange 0.") for w in said)
    assert any(w.endswith("change: RMSE of pixels to the unturned photo") for w in said)
    assert results["face"] == "test photo 0"
    folder, results = do(place, "latent_analysis", "photos")
    check_files(folder, "latent_analysis", ["factors.png"])
    assert "mig" not in results
    assert not [w for w in said if "face" in w], "these pictures need not be faces"


def test_faces_from_files_and_random_codes(place):
    picture = place / "photos/0.png"
    _, results = do(place, "interpolate", image=str(picture), index2=2)
    assert (results["from"], results["to"], results["way"]) == ("your face", "test face 2", "linear")
    assert results["rmse_to_first"][0] == results["rmse_to_last"][-1] == 0
    for run in ("b4", "b0"):
        _, results = do(place, "interpolate", run, random=True)
        assert results["way"] == "linear and spherical"
        _, other = do(place, "interpolate", run, random=True, seed=1)
        assert other["linear"]["code_norms"] != results["linear"]["code_norms"]


def test_ways_between_random_codes_are_shown_by_name(place, said):
    _, results = do(place, "interpolate", random=True)
    line, arc = (np.array(results[way]["code_norms"]) for way in ("linear", "spherical"))
    assert line[[0, -1]] == pytest.approx(arc[[0, -1]])
    assert line[4] < arc[4], "the line passes through shorter codes"
    assert {"linear", "spherical", "t = 0", "t = 0.125", "t = 1", "linear\nt = 0.50"} <= set(said)
    del said[:]
    _, results = do(place, "interpolate")
    assert results["way"] == "linear" and len(results["code_norms"]) == 9
    assert {"test face 0", "t = 0.125", "t = 0.88", "test face 1"} <= set(said)


def test_pictures_are_called_what_the_sets_name_says(place):
    bench, _ = tasks.bench_of(config(place, "rotate"))
    names = {
        "face": ("synthetic", "celeba", "Faces", "my_faces2"),
        "emoji": ("emoji",),
        "photo": ("my photos",),
        "picture": ("surface", "typefaces"),
    }
    for noun, sets in names.items():
        for name in sets:
            other = dataclasses.replace(bench, data=dataclasses.replace(bench.data, name=name))
            assert faces_bench.pick_face(other, 1).label == f"test {noun} 1", name


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("rotate", {"index": 40}, r"--index=40: must be from 0 to 39, the test part"),
        ("rotate", {"index": -1}, r"--index=-1: must be from 0 to 39"),
        ("interpolate", {"index2": 99}, r"--index2=99: must be from 0 to 39"),
        ("latent_analysis", {"image": "no/such.png"}, r"--image=no/such.png: No such file"),
        ("interpolate", {"image2": __file__}, r"--image2=.*not an image"),
        ("interpolate", {"random": True, "index": 1}, r"--random=True: must be used without --index"),
        ("rotate", {"dim": 25}, r"--dim=25: must be below 20"),
        ("rotate", {"checkpoint": "no/such/run"}, r"--checkpoint=no/such/run: no such run"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(place, task, flags, message):
    with pytest.raises(UserError, match=message) as error:
        tasks.run(config(place, task, **flags))
    assert "\n" not in str(error.value)


def test_checkpoints_that_are_not_ours_are_refused(place, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(place / "runs/b4", run, ignore=shutil.ignore_patterns(*FILES))
    kept = json.loads((run / "config.json").read_text())
    cfg = bvae_faces.Config(task="rotate", checkpoint=str(run), wandb="disabled", device="cpu")
    for change, message in (
        ({"family": "gan_faces"}, "must be a run of bvae_faces; this one is of gan_faces"),
        ({"flags": kept["flags"] | {"hidden_dim": 17}}, "no weights of this model"),
        ({"flags": {}}, "must be of a run whose config.json lists its flags"),
    ):
        (run / "config.json").write_text(json.dumps(kept | change))
        with pytest.raises(UserError, match=f"^--checkpoint=.*{message}"):
            tasks.run(cfg)
    (run / "config.json").unlink()
    with pytest.raises(UserError, match=r"^--checkpoint=.*no readable config\.json"):
        tasks.run(cfg)
    (run / "config.json").write_text(json.dumps(kept))
    next((run / "checkpoints").glob("best_*.pt")).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"^--checkpoint=.*not a readable checkpoint"):
        tasks.run(cfg)
    assert not (run / "rotate").exists()


def test_data_comes_from_the_run_unless_it_is_given(place, tmp_path):
    cfg = config(place, "rotate")
    _, run_config = find_run(cfg, "bvae_faces")
    assert flags_of_run(cfg, run_config).data_dir == str(place / "store")
    other = dataclasses.replace(cfg, dataset=str(place / "photos"), data_dir=str(tmp_path), width=99)
    merged = flags_of_run(other, run_config)
    assert (merged.dataset, merged.data_dir, merged.width) == (str(place / "photos"), str(tmp_path), 4)
    with pytest.raises(DataError, match="--dataset=no/such"):
        tasks.run(dataclasses.replace(cfg, dataset="no/such"))


def test_a_file_outside_of_a_run_writes_below_out(place, tmp_path):
    folder = tmp_path / "artifact"  # as W&B's download: the file with config.json beside it
    folder.mkdir()
    file = next((place / "runs/b4/checkpoints").glob("best_*.pt"))
    shutil.copy(file, folder)
    shutil.copy(place / "runs/b4/config.json", folder)
    cfg = config(place, "rotate", checkpoint=str(folder / file.name), out=str(tmp_path / "out"))
    found, run_config = find_run(cfg, "bvae_faces")
    cfg = flags_of_run(cfg, run_config)
    assert start_task(cfg, found, run_config).folder == tmp_path / "out" / run_config["key"] / "rotate"
    named = dataclasses.replace(cfg, name="mine")
    assert start_task(named, found, run_config).folder == tmp_path / "out/mine/rotate"
    assert not (tmp_path / "out").exists()


# W&B


def small_task(place, tmp_path, **flags):
    run = tmp_path / "run"
    shutil.copytree(place / "runs/b4", run, ignore=shutil.ignore_patterns(*FILES))
    cfg = bvae_faces.Config(task="rotate", checkpoint=str(run), device="cpu", **flags)
    file, run_config = find_run(cfg, "bvae_faces")
    task = start_task(flags_of_run(cfg, run_config), file, run_config)
    task.picture("strip", np.zeros((8, 8, 3), np.uint8))
    task.numbers({"a": torch.tensor(1.5), "b": float("nan"), "c": {"d": np.arange(2)}, "e": [float("inf")]})
    return task


def test_results_are_plain(place, tmp_path):
    task = small_task(place, tmp_path, wandb="disabled")
    task.finish()
    results = json.loads((task.folder / "results.json").read_text(), parse_constant=pytest.fail)
    assert (results["a"], results["b"], results["c"], results["e"]) == (1.5, None, {"d": [0, 1]}, [None])
    assert results["files"] == ["strip.png"]
    assert {path.name for path in task.folder.iterdir()} == {"strip.png", "results.json"}


def test_offline_the_task_is_a_run_of_its_own(place, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    task = small_task(place, tmp_path, wandb="offline")
    task.finish()
    task.finish()  # again: the earlier segment would else be synced too
    assert "did not take" not in capsys.readouterr().err
    assert len(list((task.folder / "wandb").glob("offline-run-*"))) == 1
    assert len(list((task.folder / "wandb-set-aside").glob("offline-run-*"))) == 1
    (file,) = (task.folder / "wandb").glob("offline-run-*/*.wandb")
    until = time.monotonic() + 30  # W&B's service may write the last of it just after `finish` has returned
    while b"strip" not in file.read_bytes():
        assert time.monotonic() < until, f"{file.stat().st_size} bytes"
        time.sleep(0.1)
    assert not (tmp_path / "run" / "wandb").exists()


class FakeRun:
    offline, entity = False, "me"

    def __init__(self, error=None):
        self.error, self.used, self.logged, self.exit_code = error, [], {}, None

    def use_artifact(self, spec):
        self.used.append(spec)
        raise ValueError("unknown artifact")

    def log(self, row, step, commit=None):
        if self.error:
            raise self.error
        self.logged = self.logged | row

    def save(self, *args, **kwargs): ...

    def finish(self, exit_code):
        self.exit_code = exit_code


def fake_wandb(monkeypatch, run, calls):
    def init(**kwargs):
        calls.append(kwargs)
        return run

    wandb = types.SimpleNamespace(
        init=init,
        login=lambda prompt: True,
        Settings=lambda **k: k,
        Image=str,
        Video=str,
        Html=str,
        errors=types.SimpleNamespace(CommError=ConnectionError),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)


def test_online_the_task_names_its_checkpoint(place, tmp_path, monkeypatch):
    run, calls = FakeRun(), []
    run.dir = str(tmp_path)
    fake_wandb(monkeypatch, run, calls)
    task = small_task(place, tmp_path, wandb="online")
    task.finish()
    (call,) = calls
    made_by = json.loads((tmp_path / "run/config.json").read_text())
    assert call["job_type"] == "rotate" and call["dir"] == str(task.folder)
    assert call["id"] != made_by["wandb_id"]
    assert call["config"]["checkpoint_run"] == made_by["wandb_id"]
    assert call["config"]["checkpoint_key"] == made_by["key"]
    assert call["config"]["checkpoint_sha256"].startswith(call["config"]["checkpoint_file"][5:13])
    assert run.used == [f"me/letters-and-latents/bvae_faces-{made_by['wandb_id']}:best"]
    assert run.logged == {"rotate/a": 1.5, "rotate/strip": str(task.folder / "strip.png")}
    assert run.exit_code == 0
    assert (tmp_path / "results.json").exists()


def test_a_broken_wandb_loses_no_file(place, tmp_path, monkeypatch, capsys):
    fake_wandb(monkeypatch, FakeRun(RuntimeError("service died\nlong trace")), [])
    task = small_task(place, tmp_path, wandb="online")
    task.finish()
    assert "W&B did not take this task (service died)" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
    task.finish()
    assert "W&B did not take this task" in capsys.readouterr().err
    assert (task.folder / "strip.png").exists()


@pytest.mark.parametrize(("decoder", "arch"), [("deconv", "conv"), ("broadcast", "broadcast")])
def test_a_run_from_before_there_were_archs_is_read(place, decoder, arch):
    """Its flags name a decoder, and neither arch nor optimizer."""
    common = SMALL | {"data_dir": str(place / "store"), "out": str(place / "runs"), "name": f"old-{decoder}"}
    bvae_faces.train(bvae_faces.Config(**common, arch=arch, optimizer="adam", beta=4, latent_dim=6))
    file = place / f"runs/old-{decoder}/config.json"
    content = json.loads(file.read_text())
    flags = {k: v for k, v in content["flags"].items() if k not in ("arch", "optimizer", "patch")}
    file.write_text(json.dumps(content | {"flags": flags | {"decoder": decoder}}))
    bench, _ = tasks.bench_of(config(place, "interpolate", f"old-{decoder}"))
    assert bench.cfg.arch == arch and bench.decode(torch.zeros(1, 6)).shape == (1, 32, 32, 3)
