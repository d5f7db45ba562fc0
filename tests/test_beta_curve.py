"""The pictures of docs/bvae_faces.md are those that the committed results make."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from docs import beta_curve
from research.common.messages import UserError


@pytest.fixture(scope="module")
def drawn():
    return beta_curve.draw()


@pytest.mark.parametrize("name", ["beta_curve.png", "beta_regions.png", "beta_latents.png"])
def test_the_picture_is_that_of_the_results(drawn, name):
    kept = np.asarray(Image.open(beta_curve.PICTURES / name).convert("RGB"))
    assert kept.shape == drawn[name].shape
    assert np.abs(kept.astype(int) - drawn[name]).mean() < 0.5  # of 255: fonts may round otherwise


def test_the_picture_changes_with_the_results(drawn, monkeypatch):
    """The comparison above would notice a single number that is wrong."""
    runs = beta_curve.tables()
    runs.loc[0, "test/mig"] += 0.2
    assert np.abs(beta_curve.curve(runs).astype(int) - drawn["beta_curve.png"]).mean() > 0.5


def test_silent_latents_are_grey_on_the_map(drawn):
    grey = (drawn["beta_latents.png"] == 187).all(-1)
    assert grey[370:600, 745:960].all(), "β = 40: nothing is told, though one latent goes with the hat"
    assert grey[20:265, :640].mean() < 0.01, "β = 0 and 0.2: none is silent"


def test_evidence_is_complete():
    runs = beta_curve.tables()
    assert len(runs) == 17 and runs["beta"].nunique() == 6  # and one that diverged
    latents = pd.read_csv(beta_curve.RESULTS / "bvae_beta_latents.csv")
    assert len(latents) == 170 and latents[list(beta_curve.FACTOR_NAMES)].to_numpy().max() <= 1


def test_the_table_is_that_of_the_results():
    text = (beta_curve.PICTURES.parent / "bvae_faces.md").read_text()
    for line in beta_curve.table_lines():
        assert line in text


@pytest.mark.parametrize("name", ["bvae_beta", "nope", "x"])
def test_evidence_is_collected_from_finished_runs_only(tmp_path, name):
    if name != "nope":
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"{name}: must be a folder with finished runs, runs/bvae_beta"):
        beta_curve.collect(tmp_path / name)


def test_missing_evidence_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(beta_curve, "RESULTS", tmp_path)
    with pytest.raises(UserError, match=r"bvae_beta.csv is not there"):
        beta_curve.draw()


def test_the_prose_quotes_the_results():
    text = " ".join((beta_curve.PICTURES.parent / "bvae_faces.md").read_text().split())
    read = {name: pd.read_csv(beta_curve.RESULTS / f"{name}.csv") for name in ("bvae_latent", "bvae_anneal")}
    best = read["bvae_latent"][read["bvae_latent"]["seed"] > 0]  # the runs that confirm
    for runs in (best, read["bvae_anneal"]):
        assert f"{runs['test/mig'].mean():.2f} ± {runs['test/mig'].std():.2f}" in text
    for column in ("test/sap", "test/factor_vae"):
        pair = [f"{runs[column].mean():.2f}" for runs in (read["bvae_anneal"], best)]
        assert f"({pair[0]} against {pair[1]})" in text
    turned = pd.read_csv(beta_curve.RESULTS / "bvae_anneal_rotation.csv")
    span = turned["yaw_span_degrees"]
    assert f"covers {span.min():.0f} to {span.max():.0f}°" in text
    assert f"at least {turned['yaw_spearman_min'].min():.3f}" in text
