"""Autoencoder, VAE and GAN side by side: --task=compare of gan_faces."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from data import DataError, synthetic
from research import bvae_faces, gan_faces
from research.common.commandline import parse
from research.common.flags import refuse_idle
from research.common.messages import UserError
from research.parts import face_reader
from research.tasks import faces_compare, faces_scores
from research.tasks import gan_faces as tasks
from tests.task_folders import latest

SMALL = {"image_size": 32, "width": 4, "latent_dim": 4, "batch_size": 16, "steps": 2}
SMALL |= {"eval_every": 5, "sample_every": 1000, "device": "cpu", "wandb": "disabled"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, photos and tiny finished runs of each kind of model, on rendered faces."""
    place = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    (place / "<photos>").mkdir()
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(place / f"<photos>/{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "N_IMAGES", 320)
        patch.setattr(face_reader, "STEPS", 3)
        patch.setattr(gan_faces, "N_SCORED", 16)
        for module in (tasks, faces_compare, faces_scores):
            patch.setattr(module, "N_SCORED", 24)
        for name in ("training_pictures", "interpolation", "nearest_pictures"):
            patch.setattr(gan_faces, name, lambda *args: {})
        patch.setattr(gan_faces, "film", lambda: 0.0)
        for name in ("training_pictures", "interpolation"):
            patch.setattr(bvae_faces, name, lambda *args: {})
        common = SMALL | {"data_dir": str(place / "store"), "out": str(place / "runs")}
        hidden = {"hidden_dim": 16, "depth": 2}
        gan_faces.train(gan_faces.Config(**common, name="gan"))
        bvae_faces.train(bvae_faces.Config(**common, **hidden, name="vae", beta=4))
        bvae_faces.train(bvae_faces.Config(**common, **hidden, name="ae", beta=0))
        other = common | hidden | {"image_size": 64}
        bvae_faces.train(bvae_faces.Config(**other, name="large", beta=4))
        yield place


def config(place, *names, **flags):
    first, *others = (str(place / "runs" / name) for name in names)
    own = {"task": "compare", "checkpoint": first, "checkpoints": tuple(others)}
    return gan_faces.Config(**own | {"wandb": "disabled", "device": "cpu"} | flags)


def test_all_models_are_on_the_page(place):
    found = tasks.run(config(place, "ae", "vae", "gan"))
    folder = latest(place / "runs/ae", "compare")
    names = {"random.png", "interpolation.png", "reconstructions.png", "page.html", "results.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert list(found["models"]) == ["autoencoder", "VAE, β = 4", "GAN, relativistic"]
    page = (folder / "page.html").read_text("utf-8")
    for name, scores in found["models"].items():
        assert f"<td>{name}</td>" in page
        assert f"<td>{scores['random']['kernel_distance']:.4g}</td>" in page
        assert ("mse" in scores) == ("GAN" not in name)
    assert len(re.findall("<img ", page)) == 3 and "other real faces" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page), "the page asks for nothing from elsewhere"
    kept = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
    assert kept["data"] == "synthetic" and set(kept["models"]) == set(found["models"])


def test_the_error_is_that_of_the_runs_own_test_part(place):
    found = tasks.run(config(place, "ae", "vae"))["models"]
    cfg = bvae_faces.Config(**SMALL, hidden_dim=16, depth=2, beta=0, data_dir=str(place / "store"))
    model, own, _ = faces_compare.load(config(place, "ae"), str(place / "runs/ae"), torch.device("cpu"))
    assert own.beta == 0 and own.width == 4
    data = bvae_faces.load_data(cfg)
    x = bvae_faces.to_float(data.test[:24], torch.device("cpu"))
    rebuilt = torch.sigmoid(model.decode(model.encode(x)[0]))
    assert found["autoencoder"]["mse"] == pytest.approx((rebuilt - x).square().mean().item(), rel=0.01)


def test_a_single_gan_rebuilds_nothing_and_a_name_of_data_is_escaped(place):
    found = tasks.run(config(place, "gan", dataset=str(place / "<photos>")))
    folder = latest(place / "runs/gan", "compare")
    assert not (folder / "reconstructions.png").exists()
    assert list(found["models"]) == ["GAN, relativistic, trained on other pictures"]
    page = (folder / "page.html").read_text("utf-8")
    assert "<photos>" not in page and "&lt;photos&gt;" in page


def test_models_of_one_name_are_numbered(place):
    found = tasks.run(config(place, "vae", "vae", "gan"))
    assert list(found["models"]) == ["VAE, β = 4 (1)", "VAE, β = 4 (2)", "GAN, relativistic"]
    one, other = list(found["models"].values())[:2]
    assert one["random"] == other["random"], "the same noise for each model"


def test_without_a_prior_codes_are_drawn_where_the_pictures_codes_lie(place):
    device = torch.device("cpu")
    model, own, _ = faces_compare.load(config(place, "ae"), str(place / "runs/ae"), device)
    data = bvae_faces.load_data(bvae_faces.Config(**SMALL, data_dir=str(place / "store")))
    shown = faces_compare.described(model, own, data, device)
    codes = shown.draw(torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0)))
    mu = bvae_faces.encode_all(model, data.train, device)[0]
    torch.testing.assert_close(codes.mean(0), mu.mean(0), atol=0.05 * float(mu.std()), rtol=0)
    torch.testing.assert_close(torch.cov(codes.T), torch.cov(mu.T), atol=0.05 * float(mu.var()), rtol=0.1)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("vae", "large"), "large: must be of 32 pixels, like the first one; this one is of 64"),
        (("vae", "none"), "none: no such run folder or file"),
    ],
)
def test_what_cannot_be_compared_is_refused(place, names, said):
    with pytest.raises(UserError, match=re.escape(said)):
        tasks.run(config(place, *names))


def test_a_run_of_another_family_is_refused(place):
    folder = place / "runs/other"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/best_0.pt").write_bytes(b"")
    (folder / "config.json").write_text('{"family": "charlm"}')
    with pytest.raises(UserError, match="of a run of bvae_faces or gan_faces; this one is of charlm"):
        tasks.run(config(place, "vae", "other"))


def test_other_data_go_to_another_folder_and_are_told(place, capsys):
    tasks.run(config(place, "gan", "vae"))
    before = {path for path in (place / "runs/gan").iterdir() if path.name.startswith("compare")}
    found = tasks.run(config(place, "gan", "vae", dataset=str(place / "<photos>")))
    after = {path for path in (place / "runs/gan").iterdir() if path.name.startswith("compare")}
    assert len(after - before) == 1, "the comparison on the run's own data stays"
    assert all(name.endswith(", trained on other pictures") for name in found["models"])
    assert "was trained on other pictures" in " ".join(capsys.readouterr().err.split())


def test_too_few_pictures_are_refused_before_anything_is_drawn(place):
    few = place / "few"
    few.mkdir()
    for path in sorted((place / "<photos>").iterdir())[:40]:
        (few / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="need at least 6 each"):
        tasks.run(config(place, "ae", "gan", dataset=str(few)))


def test_flags_of_a_model_are_refused(place, monkeypatch):
    monkeypatch.setattr(faces_compare, "GIVEN", {"loss", "checkpoint", "task"})
    with pytest.raises(UserError, match="--loss=hinge: must be left out with --task=compare"):
        tasks.run(config(place, "gan", "vae", loss="hinge"))


def test_only_compare_takes_several(monkeypatch):
    cfg = parse(gan_faces.Config, ["--checkpoint=a", "--task=evaluate", "--checkpoint=b", "--checkpoint=c"])
    monkeypatch.setattr("research.common.flags.GIVEN", {"checkpoint", "checkpoints"})
    with pytest.raises(UserError, match="--checkpoint was given 3 times: only --task=compare takes several"):
        refuse_idle(cfg)


def test_a_config_file_brings_no_further_models(place):
    file = place / "runs/gan/config.json"
    cfg = parse(gan_faces.Config, [f"--config={file}", "--task=compare", "--checkpoint=a"])
    assert cfg.checkpoints == ()


def test_checkpoint_may_be_given_again():
    cfg = parse(
        gan_faces.Config, ["--checkpoint=a", "--task=compare", "--checkpoint", "b=c", "--checkpoint=d e"]
    )
    assert (cfg.checkpoint, cfg.checkpoints) == ("a", ("b=c", "d e"))
    alone = parse(gan_faces.Config, ["--checkpoint=a", "--task=compare"])
    assert (alone.checkpoint, alone.checkpoints) == ("a", ())
    last = parse(bvae_faces.Config, ["--checkpoint=a", "--checkpoint=b"])  # which compares nothing
    assert last.checkpoint == "b"


def test_scores_of_two_sweeps_become_a_table(place, tmp_path, monkeypatch):
    """A row of docs/three_models.py for each data set, seed and model, from what --task=compare reports."""
    from docs import three_models

    for sweep, names in (("gan_sets", ["gan"]), ("bvae_sets", ["vae", "ae"])):
        for name in names:
            shutil.copytree(place / "runs" / name, tmp_path / sweep / name)
    monkeypatch.setattr(three_models, "PICTURES", tmp_path)
    flags = three_models.Flags(gan=str(tmp_path / "gan_sets"), bvae=str(tmp_path / "bvae_sets"))
    table = three_models.collect(flags)
    found = tasks.run(config(place, "ae", "vae", "gan"))["models"]
    assert table["model"].tolist() == list(found) and set(table["dataset"]) == {"synthetic"}
    for row, scores in zip(table.to_dict("records"), found.values(), strict=True):
        for network in ("random", "reader"):
            for name in (*faces_compare.SCORES, *faces_compare.FLOORS):
                assert row[f"{network}/{name}"] == pytest.approx(scores[network][name], rel=1e-3)
    assert table["mse"].notna().tolist() == [True, True, False]
    for end in ("", "_between"):
        assert Image.open(tmp_path / f"three_models_synthetic{end}.png").width > 9 * 32
    again = three_models.collect(flags)  # the tasks' folders are there now
    assert again.equals(table)
    curve = three_models.curves_of(three_models.runs_of("gan", flags.gan))
    assert curve["step"].tolist() == [0, 2] and set(three_models.FOLLOWED) <= set(curve)
    assert three_models.drawn(curve).std() > 3
    shutil.rmtree(tmp_path / "bvae_sets/ae")
    shutil.rmtree(tmp_path / "bvae_sets/vae")
    with pytest.raises(UserError, match=r"--bvae=.*bvae_sets: must be a sweep folder with finished runs"):
        three_models.collect(flags)
    with pytest.raises(UserError, match=r"--gan=no/such: must be a sweep folder"):
        three_models.collect(three_models.Flags(gan="no/such", bvae="no/such"))
    with pytest.raises(UserError, match="--gan and --bvae: must both be given"):
        three_models.run(three_models.Flags(gan="no/such"))
