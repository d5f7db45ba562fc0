"""Rotation, measured: on codes and a reader that are the truth the numbers are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch

from data import synthetic
from research.parts import face_reader
from research.tasks import faces_rotation as rotation

YAW = synthetic.FACTOR_NAMES.index("yaw")
LOW, HIGH = (np.array([getattr(f, end) for f in synthetic.FACTORS], np.float32) for end in ("low", "high"))


def truth_bench(n=40, mix=None):
    """A bench whose codes are the factors, scaled to −1 … 1, and whose pictures are again the factors.

    mix (D, D): what a code really shows is code @ mix.
    """
    factors = synthetic.sample_factors(0, np.arange(3 * n))
    parts = {"train": factors[: 2 * n], "test": factors[2 * n :]}
    x = {name: torch.from_numpy(rows)[:, None, None, :] for name, rows in parts.items()}  # (N, 1, 1, F)
    mix = torch.eye(len(LOW)) if mix is None else mix

    def encode(pictures):
        mu = 2 * (pictures[:, 0, 0] - torch.from_numpy(LOW)) / torch.from_numpy(HIGH - LOW) - 1
        return mu, torch.full_like(mu, -4.0)

    def decode(z):
        shown = ((z @ mix + 1) / 2).numpy() * (HIGH - LOW) + LOW
        return shown[..., None, None, :]

    written = {}
    data = SimpleNamespace(
        train=x["train"], test=x["test"], factors=parts, factor_names=synthetic.FACTOR_NAMES
    )
    cfg = SimpleNamespace(latent_dim=len(LOW), beta=4.0, image_size=32, data_dir="")
    task = SimpleNamespace(picture=written.__setitem__)
    return SimpleNamespace(
        data=data,
        cfg=cfg,
        encode=encode,
        decode=decode,
        task=task,
        name="truth",
        scale=1,
        has_prior=True,
        shown_range=lambda mu: (torch.zeros_like(mu[0]), torch.ones_like(mu[0])),
        written=written,
    )


@pytest.fixture(autouse=True)
def true_reader(monkeypatch):
    """A reader that reads the truth: pictures of this file are their factors."""
    monkeypatch.setattr(face_reader, "load", lambda data, data_dir: (None, "truth"))
    monkeypatch.setattr(face_reader, "read", lambda reader, pictures: np.asarray(pictures)[..., 0, 0, :])
    monkeypatch.setattr(synthetic, "render", lambda factors, size: factors[:, None, None, :])


def test_a_perfect_turn_turns_as_asked_and_changes_nothing_else():
    bench = truth_bench()
    turn = rotation.turn_by_yaw(bench)
    assert turn.numbers["r2_test"] > 0.99
    measured = rotation.measure(bench, turn)
    assert measured["yaw_span_degrees"] == pytest.approx(120, rel=0.03)
    assert measured["yaw_spearman"] == measured["yaw_spearman_min"] == pytest.approx(1)
    assert measured["yaw_asked_error_degrees"] < 4
    assert measured["others_change_rendered_mean"] == 0
    assert "yaw" not in measured["others_change"] and len(measured["others_change"]) == len(LOW) - 1
    # 40 codes correlate a little by chance
    exact = rotation.measure(bench, rotation.turn_by_latent(bench, YAW))
    assert exact["others_change_mean"] == 0 and exact["yaw_span_degrees"] == pytest.approx(360)
    assert set(bench.written) == {"yaw_read", "others"}


def test_what_a_turn_changes_besides_is_told_by_name():
    mix = torch.eye(len(LOW))
    light = synthetic.FACTOR_NAMES.index("light")
    mix[YAW, light] = 0.5  # the latent of yaw also moves the light, half as far in shares of its range
    bench = truth_bench(mix=mix)
    turn = rotation.turn_by_latent(bench, YAW)
    measured = rotation.measure(bench, turn)
    z = bench.encode(bench.data.test)[0][:, YAW]
    moves = (torch.linspace(-3, 3, rotation.N_VALUES)[None] - z[:, None]).abs() / 2  # of codes, as shares
    assert measured["others_change"]["light"] == pytest.approx(float(moves.mean()) / 2, rel=1e-3)
    assert sum(measured["others_change"].values()) == pytest.approx(measured["others_change"]["light"])
    assert measured["others_change_mean"] == pytest.approx(
        measured["others_change"]["light"] / (len(LOW) - 1)
    )


def test_a_latent_that_turns_nothing():
    measured = rotation.measure(bench := truth_bench(), rotation.turn_by_latent(bench, (YAW + 1) % len(LOW)))
    assert measured["yaw_span_degrees"] == 0 and measured["yaw_spearman"] == 0


def test_spearman_is_scipys():
    rng = np.random.default_rng(0)
    asked, found = np.linspace(-3, 3, 13), rng.normal(size=(5, 13)).round(1)
    expected = [scipy.stats.spearmanr(asked, row).statistic for row in found]
    np.testing.assert_allclose(rotation.spearman(asked, found), expected)
    assert rotation.spearman(asked, np.exp(asked)[None]) == pytest.approx(1)
    assert rotation.spearman(asked, np.ones((1, 13))) == 0


def test_the_mirror_test_of_a_turn_that_mirrors():
    """Pictures of two pixels, left and right of a face turned by z: mirrored they are those of −z."""
    bench = truth_bench(8)
    z = torch.tensor([[0.5], [-1.0], [0.2]])
    bench.encode = lambda x: (z, torch.zeros_like(z))

    def decode(codes):
        value = np.round(128 + 60 * codes[..., 0].numpy())
        rows = np.stack([value, 256 - value], -1).astype(np.uint8)
        return np.repeat(rows[..., None, :, None], 3, axis=-1).repeat(2, axis=-3)  # (…, 2, 2, 3)

    bench.decode = decode
    turn = rotation.Turn(torch.ones(1), torch.ones(1), 0.0, 2.0, " sd", "by z", {})
    assert rotation.mirror_test(bench, turn)["mirror_share"] == 1
    still = turn._replace(step=torch.zeros(1))
    assert rotation.mirror_test(bench, still)["mirror_share"] == 0
    assert bench.written["mirror_test"].ndim == 3
