"""The measurement of rotation: with codes and a reader that are the truth, the figures are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch

from data import synthetic
from research.parts import face_reader
from research.tasks import faces_rotation as rotation

YAW = synthetic.FACTOR_NAMES.index("yaw")
REALLY_RENDER = synthetic.render
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
        train=x["train"],
        test=x["test"],
        factors=parts,
        factor_names=synthetic.FACTOR_NAMES,
        nouns="faces",
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
        noun="face",
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


def head_bench():
    """Pictures of a head with two codes: how far it is turned (its eyes move), and from which side the light
    comes.
    """
    bench = truth_bench(8)
    z = torch.tensor([[0.5, 1.0], [-1.0, 0.3], [0.2, -0.8]])
    bench.encode = lambda x: (z[: len(x)], torch.zeros_like(z[: len(x)]))
    y, x = np.mgrid[:32, :32] - 15.5

    def decode(codes):
        turned, lit = (codes[..., i, None, None].numpy() for i in (0, 1))
        eyes = sum(np.exp(-((x - c - 5 * turned) ** 2 + (y + 3) ** 2) / 3) for c in (-4, 4))
        grey = np.round(128 + 50 * lit * x / 16 - 60 * eyes).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)  # (…, 32, 32, 3)

    bench.decode = decode
    return bench


def along(code, sides=True):
    """The turn that moves one of the two codes of `head_bench`."""
    one = torch.eye(2)[code]
    return rotation.Turn(one, one, 0.0, 2.0, " sd", "somehow", {}, sides)


def verdict_of(bench, turn, **more):
    numbers = rotation.mirror_test(bench, turn)
    numbers["change_between_ends"] = rotation.change_between_ends(bench, turn)
    return rotation.what_is_wrong(turn, bench.noun, numbers | more), numbers


def test_the_mirror_test_tells_a_turned_head_from_light_that_changes_sides():
    bench = head_bench()
    verdict, numbers = verdict_of(bench, along(0))
    assert verdict is None and numbers["mirror_share_detail"] > 0.99
    assert bench.written["mirror_test"].ndim == 3
    verdict, numbers = verdict_of(bench, along(1))
    assert numbers["mirror_share"] > 0.5, "most of the pixels' difference: it alone would call this a turn"
    assert abs(numbers["mirror_share_detail"]) < 0.05
    said = "light and background change sides (mirror test: difference to the mirror image"
    assert verdict.startswith(f"the head does not turn: {said}")
    bench.noun = "picture"
    assert verdict_of(bench, along(1))[0].startswith("nothing turns: light and large shapes change sides")
    # of a latent nobody knows what it moves
    assert verdict_of(bench, along(1, sides=False))[0].startswith("nothing turns (mirror test: difference to")


def test_the_fine_detail_of_rendered_faces_tells_turning_from_light():
    factors = synthetic.sample_factors(5, np.arange(100))
    unturned = REALLY_RENDER(factors, 32)
    for name, whole, detail in (("yaw", 0.71, 0.87), ("light", 0.24, 0.02)):  # as `mirror_test` says
        opposite = factors.copy()
        opposite[:, synthetic.FACTOR_NAMES.index(name)] *= -1
        parts = unturned, REALLY_RENDER(opposite, 32), unturned[:, :, ::-1]
        assert rotation.mirror_share(*(x / 255 for x in parts)) == pytest.approx(whole, abs=0.01)
        found = rotation.mirror_share(*map(rotation.fine_detail, parts))
        assert found == pytest.approx(detail, abs=0.01)
        assert (found >= rotation.MIRRORED) == (name == "yaw")


def test_a_turn_that_moves_nothing_says_so():
    bench = head_bench()
    still = along(0)._replace(step=torch.zeros(2))
    verdict, numbers = verdict_of(bench, still)
    assert verdict == "nothing turns: pictures at both ends are alike (RMSE 0.000)"
    assert numbers["mirror_share"] == numbers["mirror_share_detail"] == 0
    bench.decode = lambda codes: np.full((*codes.shape[:-1], 32, 32, 3), 128, np.uint8)  # as an untrained one
    verdict, numbers = verdict_of(bench, along(0))
    assert verdict.startswith("nothing turns") and np.isnan(numbers["mirror_share"])


def test_a_head_may_hardly_turn():
    """Like a model whose codes predict the yaw with an R² of 0.37: the turn covers 68° of 120; a share of
    0.41.
    """
    numbers = {"change_between_ends": 0.2, "mirror_share": 0.59, "mirror_share_detail": 0.41}
    turn = along(0)
    assert rotation.what_is_wrong(turn, "face", numbers).startswith(
        "the head hardly turns: light and background"
    )
    assert rotation.what_is_wrong(turn, "picture", numbers).startswith(
        "hardly anything turns: light and large"
    )
    assert rotation.what_is_wrong(turn, "face", numbers | {"mirror_share_detail": 0.51}) is None


def test_where_the_yaw_can_be_read_it_decides():
    bench, turn = head_bench(), along(1)._replace(unit="°", ends=60.0)
    assert verdict_of(bench, turn, yaw_span_degrees=-70.0, n_faces=100)[0] is None
    verdict, _ = verdict_of(bench, turn, yaw_span_degrees=13.2, n_faces=100)
    expected = "the yaw read off 100 faces changes by 13°, 120° were asked for"
    assert verdict == f"the head does not turn: {expected}"
    by_latent = along(1)._replace(unit="", ends=3.0)
    verdict, _ = verdict_of(bench, by_latent, yaw_span_degrees=13.2, n_faces=100)
    assert verdict == "the head does not turn: the yaw read off 100 faces changes by 13°"


def test_a_share_below_zero_is_no_percentage_of_what_is_gone():
    said = rotation.gone(-0.45, 0.2)
    expected = (
        "difference to the mirror image that disappears: nothing, it grows by 45%; of its fine detail: 20%"
    )
    assert said == expected
    assert rotation.gone(0.561, -0.001).endswith("disappears: 56%; of its fine detail: nothing")
    assert rotation.gone(float("nan"), float("nan")) == "decoded pictures are their own mirror images"


def test_the_pictures_reach_to_where_the_face_lies():
    turn = along(0)
    assert rotation.ends_with(turn, 1.2) == rotation.ends_with(turn, -1.2) == 2
    assert rotation.ends_with(turn, -3.374) == rotation.ends_with(turn, 3.374) == pytest.approx(3.4)
    assert rotation.ends_with(turn._replace(unit="°", ends=60.0), 71.0) == 60  # a reading; no face is there


def test_a_silent_latent_is_called_that():
    bench = truth_bench()
    assert "silent" not in rotation.turn_by_latent(bench, YAW).how
    bench.encode = lambda x: (torch.zeros(len(x), len(LOW)), torch.full((len(x), len(LOW)), -0.1))
    assert rotation.turn_by_latent(bench, YAW).how == "along latent 0, which is silent (KL 0.002 nats)"
