"""The VAE on digits: known values of its objective and bounds, views of its codes, training that learns."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import distributions as D

from data import digits
from research import vae_mnist
from research.common.commandline import parse
from research.common.media import picture
from research.common.messages import UserError
from research.common.randomness import make_rng
from research.draw import charts
from research.parts import vae_mnist_maps as views
from research.vae_mnist import (
    Config,
    build,
    draw_pixels,
    evaluate,
    hide_pixels,
    iw_bound,
    knn_accuracy,
    log_likelihood,
    loss_fn,
    lr_at,
    rec_floor,
    terms_of,
    to_float,
    train,
)
from tests.conftest import killed, results
from tests.run_flags import RUN_RESULT_FLAGS, flags_in_key

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, ROOT = torch.device("cpu"), Path(__file__).resolve().parents[1]
COMMON = ("train/learning_rate", "train/loss_epoch", "train/curve")  # explained for every family
SMALL = {"width": 16, "depth": 1, "batch_size": 16, "iw_samples": 5}
LEARN = {"width": 256, "depth": 2, "batch_size": 32, "learning_rate": 0.008, "steps": 240, "iw_samples": 20}
BAR = 140.0  # test −ELBO that LEARN must go below; a decoder that is told nothing reaches 160
KNN_BAR = 0.5  # kNN accuracy of its code; guessing has 0.1


@pytest.fixture(scope="module")
def data():
    return digits.load("digits", "nowhere")


def few(data: digits.DigitSplits, n: int = 64) -> digits.DigitSplits:
    parts = {f"{p}{kind}": getattr(data, p + kind)[:n] for p in digits.PARTS for kind in ("", "_labels")}
    return dataclasses.replace(data, **parts)


def gaussians(seed: int = 0, n: int = 6, d: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng), torch.randn(n, d, generator=rng)


# ---- known values --------------------------------------------------------------------------------------


def test_all_zero_logits_cost_ln_2_a_pixel_and_kl_of_the_prior_is_0():
    x = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    rec, kl = terms_of(x, torch.zeros_like(x), torch.zeros(5, 7), torch.zeros(5, 7))
    assert rec.item() == pytest.approx(784 * math.log(2), rel=1e-6)
    assert rec.item() == pytest.approx(543.43, abs=0.01)
    assert kl.shape == (7,) and kl.abs().max() == 0


def test_terms_equal_torch_distributions():
    rng = torch.Generator().manual_seed(1)
    x = (torch.rand(6, 1, 28, 28, generator=rng) > 0.5).float()
    x_logits, (mu, logvar) = 3 * torch.randn(6, 1, 28, 28, generator=rng), gaussians()
    rec, kl = terms_of(x, x_logits, mu, logvar)
    torch.testing.assert_close(rec, -D.Bernoulli(logits=x_logits).log_prob(x).sum((1, 2, 3)).mean())
    q, p = D.Normal(mu, (logvar / 2).exp()), D.Normal(0.0, 1.0)
    torch.testing.assert_close(kl, D.kl_divergence(q, p).mean(0))


def test_pixels_cost_what_they_should_at_any_logit():
    l64 = torch.tensor([-500.0, -90.0, -21.0, -1.0, 0.0, 1.0, 19.0, 21.0, 90.0, 500.0], dtype=torch.float64)
    for x in (0.0, 0.3, 1.0):
        found = vae_mnist.bernoulli_nats(torch.tensor(x), l64.float().requires_grad_())
        expected = torch.logaddexp(torch.zeros(()), l64) - x * l64
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        assert found.isfinite().all() and torch.autograd.grad(found.sum(), found)[0].isfinite().all()


@pytest.mark.parametrize("beta", [0.25, 1.0, 4.0])
def test_loss_is_rec_plus_beta_kl_and_the_elbo_has_beta_1(beta):
    cfg = Config(**SMALL, beta=beta, latent_dim=3)
    model, x = build(cfg, CPU), torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    loss, terms = loss_fn(model, x, make_rng(0, 5, "train"), cfg)
    noise = torch.randn(6, 3, generator=make_rng(0, 5, "train"))
    mu, logvar = model.encode(x)
    x_logits = model.decode(mu + noise * (logvar / 2).exp())  # z ~ q(z|x)
    p = torch.sigmoid(x_logits)
    rec = -(x * p.log() + (1 - x) * (1 - p).log()).sum((1, 2, 3)).mean()
    kl = D.kl_divergence(D.Normal(mu, (logvar / 2).exp()), D.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(terms["rec_nats"], rec)
    torch.testing.assert_close(terms["kl_nats"], kl)
    torch.testing.assert_close(loss, rec + beta * kl)
    torch.testing.assert_close(terms["elbo_nats"], -rec - kl)
    assert list(terms) == ["rec_nats", "kl_nats", "elbo_nats"] and kl > 0.01


def test_the_floor_of_the_reconstruction():
    grey = torch.full((3, 28, 28), 128, dtype=torch.uint8)
    assert rec_floor(grey) == pytest.approx(784 * math.log(2), rel=1e-4)  # 128 is not quite half
    assert rec_floor(255 * torch.randint(0, 2, (7, 28, 28), dtype=torch.uint8)) == 0
    some = torch.randint(0, 256, (30, 28, 28), dtype=torch.uint8)
    x = to_float(some, CPU)
    perfect = terms_of(x, torch.logit(x, eps=1e-6), *gaussians())[0].item()
    assert rec_floor(some) == pytest.approx(perfect, rel=1e-3)


def test_learning_rate():
    cfg = Config(steps=1000, learning_rate=0.5)
    rates = [lr_at(step, cfg) for step in range(1001)]
    assert rates[0] == pytest.approx(0.005) and rates[500] == pytest.approx(0.25)
    assert max(rates) == rates[99] and rates[1000] == pytest.approx(0, abs=1e-8)


# ---- the importance-weighted bound ---------------------------------------------------------------------


def linear_gaussian(k: int, n: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """The bound for x = 2 z + noise with deviation 0.5 and a q(z|x) that is not exact, and the exact log
    p(x).
    """
    rng = torch.Generator().manual_seed(k)
    x = math.sqrt(4.25) * torch.randn(n, 1, generator=rng)
    mu, logvar = 0.4 * x, torch.full((n, 1), math.log(0.15))  # the true posterior: 8 x / 17, 1 / 17
    p_x_given_z = lambda z: D.Normal(2 * z, 0.5).log_prob(x).sum(2)  # noqa: E731
    return iw_bound(p_x_given_z, mu, logvar, k, rng), D.Normal(0.0, math.sqrt(4.25)).log_prob(x)[:, 0]


def test_the_bound_rises_with_k_to_the_exact_log_likelihood():
    found = {
        k: (bound - exact).mean().item() for k in (1, 4, 40, 400) for bound, exact in [linear_gaussian(k)]
    }
    assert found[1] < found[4] < found[40] < found[400] + 0.01
    assert found[1] < -0.2 and abs(found[400]) < 0.01


def test_with_one_code_the_bound_is_the_elbo():
    bound, _ = linear_gaussian(1, 40000)
    kl = 0.5 * ((0.4**2 * 4.25) + 0.15 - 1 - math.log(0.15))  # mean over x of KL(q(z|x) ‖ N(0, 1))
    log_p = -0.5 * math.log(2 * math.pi * 0.25) - 0.5 / 0.25 * ((1 - 0.8) ** 2 * 4.25 + 4 * 0.15)
    assert bound.mean().item() == pytest.approx(log_p - kl, abs=0.03)
    posterior = iw_bound(  # with the true posterior every weight is p(x)
        lambda z: D.Normal(2 * z, 0.5).log_prob(torch.ones(1, 1)).sum(2),
        torch.full((1, 1), 8 / 17),
        torch.full((1, 1), math.log(1 / 17)),
        3,
        torch.Generator(),
    )
    assert posterior.item() == pytest.approx(
        D.Normal(0.0, math.sqrt(4.25)).log_prob(torch.tensor(1.0)).item()
    )


def test_the_log_likelihood_of_a_model_equals_its_integral(data):
    """One latent: log p(x) = log ∫ p(x|z) p(z) dz on a fine grid."""
    cfg = Config(width=8, depth=1, latent_dim=1, iw_samples=300)
    model, x_all = build(cfg, CPU), data.test[:20]
    x, z = to_float(x_all, CPU), torch.linspace(-8, 8, 4001)[:, None]
    with torch.no_grad():
        logits = model.decode(z).flatten(1)
        log_p = x.flatten(1) @ logits.T - torch.nn.functional.softplus(logits).sum(1)
        exact = torch.logsumexp(log_p + D.Normal(0.0, 1.0).log_prob(z[:, 0]) + math.log(16 / 4000), 1)
    found = {k: log_likelihood(model, x_all, dataclasses.replace(cfg, iw_samples=k), CPU) for k in (1, 300)}
    assert found[1] < found[300] <= exact.mean().item() + 0.3
    assert found[300] == pytest.approx(exact.mean().item(), abs=2.0)
    elbo = evaluate(model, x_all, "val", cfg, CPU)["val/elbo_nats"]
    assert found[1] == pytest.approx(elbo, abs=5.0) and elbo < -400  # another draw of noise, 20 pictures


# ---- the model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "depth"), [("mlp", 1), ("mlp", 3), ("conv", 1), ("conv", 2), ("conv", 3)])
def test_shapes_and_that_no_initial_weight_is_lost_or_explodes(arch, depth):
    cfg = Config(arch=arch, width=64, depth=depth, latent_dim=5)
    model, rng = build(cfg, CPU), torch.Generator().manual_seed(0)
    x_logits, mu, logvar = model(torch.rand(50, 1, 28, 28, generator=rng), torch.randn(50, 5, generator=rng))
    assert x_logits.shape == (50, 1, 28, 28) and mu.shape == logvar.shape == (50, 5)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in model.modules()) == (depth if arch == "conv" else 0)
    assert 0.2 < x_logits.std() < 4 and 0.05 < mu.std(0).mean() < 3  # codes tell the pictures apart


def test_the_models_that_are_named():
    sizes = lambda model: [tuple(p.shape) for p in model.parameters() if p.ndim == 2]  # noqa: E731
    exercise, classic = Config(width=256, depth=1), Config(width=400, depth=1, latent_dim=20)
    assert sizes(build(exercise, CPU)) == [(256, 784), (4, 256), (256, 2), (784, 256)]
    assert sizes(build(classic, CPU)) == [(400, 784), (40, 400), (400, 20), (784, 400)]
    assert sizes(build(Config(), CPU))[:4] == [(512, 784), (256, 512), (128, 256), (4, 128)]


def test_build_is_a_function_of_the_seed():
    state = torch.random.get_rng_state()
    a, b, c = (build(Config(**SMALL, seed=s), CPU).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_bf16_on_a_cpu():
    x, losses = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0)), {}
    for precision in ("fp32", "bf16"):
        cfg = Config(**SMALL, precision=precision)
        loss, terms = loss_fn(model := build(cfg, CPU), x, make_rng(0, 0, "train"), cfg)
        loss.backward()
        assert loss.dtype == terms["kl_nats"].dtype == torch.float32
        assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
        losses[precision] = loss.item()
    assert losses["bf16"] != losses["fp32"] == pytest.approx(losses["bf16"], rel=0.02)


# ---- pixels and measures -------------------------------------------------------------------------------


def test_binarised_pixels_are_black_or_white_with_their_grey_as_probability(data):
    for kind in ("static", "dynamic"):
        cfg = Config(binarize=kind)
        drawn = draw_pixels(data.test, "test", cfg)
        assert set(drawn.unique().tolist()) == {0, 255}
        assert torch.equal(drawn, draw_pixels(data.test, "test", dataclasses.replace(cfg, seed=5)))
        some = (data.test > 100) & (data.test < 155)
        assert drawn[some].float().mean() == pytest.approx(data.test[some].float().mean().item(), abs=8)
        assert torch.equal(drawn[data.test == 255], data.test[data.test == 255])
    assert draw_pixels(data.test, "test", Config()) is data.test


def test_hidden_pixels_are_what_the_encoder_sees_and_not_what_is_rebuilt(data):
    x = to_float(data.test[:100], CPU)
    seen = hide_pixels(x, 0.25, make_rng(0, 0, "train"))
    lit = x > 0
    assert (seen[lit] == 0).float().mean() == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(seen[seen > 0], x[seen > 0] / 0.75)
    cfg = Config(**SMALL)
    model = build(cfg, CPU)
    loss, _ = loss_fn(model, x, make_rng(0, 1, "train"), cfg, seen)
    mu, logvar = model.encode(seen)
    z = mu + (logvar / 2).exp() * torch.randn(100, 2, generator=make_rng(0, 1, "train"))
    rec, kl = terms_of(x, model.decode(z), mu, logvar)
    torch.testing.assert_close(loss, rec + kl.sum())


def test_evaluate(data):
    cfg = Config(**SMALL)
    model, x_all = build(cfg, CPU), data.train[:1100]  # two chunks, the second a part of one
    state = torch.random.get_rng_state()
    metrics = evaluate(model, x_all, "val", cfg, CPU)
    assert evaluate(model, x_all, "val", cfg, CPU) == metrics
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(metrics) == {"val/rec_nats", "val/kl_nats", "val/elbo_nats", "val/active_units"}
    mu, logvar = model.encode(to_float(x_all, CPU))
    kl = D.kl_divergence(D.Normal(mu, (logvar / 2).exp()), D.Normal(0.0, 1.0)).sum(1).mean()
    assert metrics["val/kl_nats"] == pytest.approx(kl.item(), rel=1e-4)
    assert metrics["val/elbo_nats"] == pytest.approx(-metrics["val/rec_nats"] - kl.item(), rel=1e-5)
    binary = evaluate(model, x_all, "test", dataclasses.replace(cfg, binarize="static"), CPU)
    assert set(binary) == {f"test/{n}_nats_bin" for n in ("rec", "kl", "elbo")} | {"test/active_units"}


def test_knn_accuracy():
    labels = torch.arange(200) % 4
    codes = torch.stack([labels.float(), torch.zeros(200)], 1) + 0.01 * torch.randn(200, 2)
    assert knn_accuracy(codes, labels, codes, labels) == 1
    assert knn_accuracy(codes, labels, codes + torch.tensor([1.0, 0.0]), labels) == 0.25  # the last ones stay
    assert knn_accuracy(codes[:3], labels[:3], codes, labels) > 0  # fewer than neighbours are asked for


# ---- views ---------------------------------------------------------------------------------------------


def test_the_plane_that_is_shown():
    assert torch.equal(views.plane(torch.randn(9, 2)), torch.eye(2))
    assert torch.equal(views.plane(torch.randn(9, 1)), torch.tensor([[1.0, 0.0]]))
    rng = torch.Generator().manual_seed(0)
    mu = torch.randn(500, 6, generator=rng) * torch.tensor([0.1, 3.0, 0.1, 0.1, 2.0, 0.1]) + 1
    axes = views.plane(mu)
    torch.testing.assert_close(axes.T @ axes, torch.eye(2))
    assert axes[1, 0] > 0.99 and axes[4, 1] > 0.99
    assert views.on_plane(2) == "" and "principal components of 6 latents" in views.on_plane(6)


def test_the_map_lies_as_the_scatter_does():
    """Its columns go with the first axis to the right, its rows with the second upwards."""
    decode = lambda z: (z[:, :1] + 10 * z[:, 1:])[:, :, None, None]  # noqa: E731
    values = torch.tensor([-0.2, 0.0, 0.2])
    shown = torch.logit(views.latent_map(decode, torch.eye(2), values, CPU))[:, :, 0, 0, 0]
    torch.testing.assert_close(shown[0], torch.tensor([1.8, 2.0, 2.2]))
    torch.testing.assert_close(shown[:, 1], torch.tensor([2.0, 0.0, -2.0]))
    quantiles = views.map_values(20, wide=False)
    torch.testing.assert_close(D.Normal(0.0, 1.0).cdf(quantiles), (torch.arange(20) + 0.5) / 20)
    assert views.map_values(20, wide=True)[[0, -1]].tolist() == [-4, 4]


def test_a_scatter_has_one_size_for_all_frames_of_a_film():
    rng = np.random.default_rng(0)
    names, labels = [str(k) for k in range(10)], rng.integers(0, 10, 300)
    small, large = (
        charts.scatter(s * rng.normal(size=(300, 2)), labels, names, "t", (1,)) for s in (0.01, 9)
    )
    assert small.shape == large.shape and small.dtype == np.uint8 and small.std() > 5
    seen = {tuple(c) for c in charts.scatter([[0, 0.0]], [3], names).reshape(-1, 3)}
    assert (214, 39, 40) in seen and (31, 119, 180) not in seen  # the colour of class 3, and not of class 0
    path = {"a $way$": np.array([[0, 0], [30, 1.0]])}
    many = charts.scatter(rng.normal(size=(300, 2)), rng.integers(0, 62, 300), range(62), paths=path)
    assert many.shape[0] == small.shape[0] and many.shape[1] > small.shape[1]  # a legend of three columns
    assert charts.scatter(np.full((3, 2), np.nan), [0, 1, 1], "ab").std() > 0


def axes_of(monkeypatch, make, *args, **kwargs):
    """The axes that a chart is drawn on, and the words of its legend."""
    seen = []

    def chart(width, height, title, draw, beside=0.0):
        draw(ax := Figure().add_subplot())
        seen.append(ax)
        return np.zeros((8, 8, 3), np.uint8)

    with monkeypatch.context() as patch:
        patch.setattr(charts, "chart", chart)
        make(*args, **kwargs)
    (ax,) = seen
    return ax, [text.get_text() for text in ax.figure.legends[0].get_texts()]


def test_a_scatter_names_its_axes_and_circles(monkeypatch, tmp_path):
    points, labels = torch.randn(50, 2), torch.arange(50) % 3
    for latent_dim, names in {
        1: ("z₀", ""),
        2: ("z₀", "z₁"),
        20: ("first principal component", "second principal component"),
    }.items():
        file = views.scatter_file(points, labels, "abc", "t", latent_dim)
        ax, legend = axes_of(monkeypatch, file.write, tmp_path / "a.png")
        assert (ax.get_xlabel(), ax.get_ylabel()) == names == views.axis_names(latent_dim)
        assert legend == ["a", "b", "c", "prior, 1, 2, 3 sd"] and len(ax.patches) == 3
    assert axes_of(monkeypatch, charts.scatter, points, labels, "abc")[1] == ["a", "b", "c"]
    assert views.latent_name(17) == "z₁₇"


def test_a_film_has_the_limits_of_its_last_frame(monkeypatch, tmp_path):
    rng, labels = torch.Generator().manual_seed(0), torch.arange(60) % 3
    folder = tmp_path / "media/latent/scatter"
    folder.mkdir(parents=True)
    shown, files = {}, []
    for step, spread in enumerate((9, 1, 1, 3)):
        shown[step] = spread * torch.randn(60, 2, generator=rng)
        files.append(folder / f"{step:08d}.png")
        views.scatter_file(shown[step], labels, "abc", f"step {step}", 2).write(files[-1])
    last = charts.reach_of(shown[3])
    assert charts.reach_of(shown[0]) > last > charts.reach_of(shown[1])  # each picture by itself has its own
    drawn, real = [], charts.scatter
    monkeypatch.setattr(charts, "scatter", lambda **what: drawn.append(what) or real(**what))
    frames = views.same_limits(files)
    assert [what["reach"] for what in drawn] == [last] * 3
    assert np.array_equal(frames[3], np.asarray(Image.open(files[3])))
    for step in range(3):
        assert drawn[step]["points"] == pytest.approx(shown[step].numpy(), abs=1e-3)
        assert drawn[step]["title"] == f"step {step}" and (frames[step] != Image.open(files[step])).any()
    drawn.clear()
    assert all(map(np.array_equal, views.same_limits(files[1:3]), map(Image.open, files[1:3]))) and not drawn
    (tmp_path / "media/latent/film").mkdir()
    views.film("latent/scatter").write(tmp_path / "media/latent/film/00000003.gif")
    assert Image.open(tmp_path / "media/latent/film/00000003.gif").n_frames == 4


def test_the_way_between_two_codes_tells_t_and_its_ends(monkeypatch):
    decode = lambda z: z[:, :1, None, None].expand(-1, 1, 28, 28)  # noqa: E731
    monkeypatch.setattr(views, "picture", lambda make, tiles, times, title, scale: (times, title))
    monkeypatch.setattr(views, "video", lambda *_, **__: None)
    made = views.interpolation(decode, torch.zeros(2), torch.ones(2), "from one to the other")
    times, title = made["sample/interpolation"]
    assert times[:2] == ["t = 0.00", "t = 0.12"] and times[-1] == "t = 1.00" and len(times) == 9
    assert title == "from one to the other"


def test_two_pictures_of_different_classes():
    labels = torch.tensor([0, 0, 0, 1, 2])
    for seed in range(20):
        i, j = views.two_of_different_classes(labels, torch.Generator().manual_seed(seed))
        assert labels[i] != labels[j]
    assert views.two_of_different_classes(torch.zeros(1).long(), torch.Generator()) == (0, 0)


# ---- flags ---------------------------------------------------------------------------------------------

RESULT_FLAGS = RUN_RESULT_FLAGS | {
    "arch",
    "width",
    "depth",
    "latent_dim",
    "beta",
    "binarize",
    "input_dropout",
    "iw_samples",
}


def test_the_flags_that_make_the_key():
    assert flags_in_key(Config) == RESULT_FLAGS  # adding one changes what kept runs mean: do it on purpose


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--beta=0"], ["--beta=0", "above 0"]),
        (["--arch=cnn"], ["--arch=cnn", "one of mlp, conv"]),
        (["--arch=conv", "--depth=4"], ["--depth=4", "from 1 to 3 with --arch=conv"]),
        (["--depth=9"], ["--depth=9", "from 1 to 8"]),
        (["--latent_dim=0"], ["--latent_dim=0", "at least 1"]),
        (["--iw_samples=0"], ["--iw_samples=0", "at least 1"]),
        (["--input_dropout=1"], ["--input_dropout=1", "from 0 to below 1"]),
        (["--binarize=yes"], ["--binarize=yes", "one of none, static, dynamic"]),
        (["--task=evaluate"], ["--task=evaluate", "--checkpoint"]),
        (["--z=1,2", "--label=3"], ["--z=1,2", "without --label"]),
        (["--task=generat"], ["did you mean generate?"]),
    ],
)
def test_refusals(args, parts):
    with pytest.raises(UserError) as caught:
        parse(Config, args)
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in parts), caught.value


# ---- training ------------------------------------------------------------------------------------------


@pytest.fixture
def learn(tmp_path, monkeypatch, data):
    """The real `train` on the embedded digits, or on few of them; returns rows and the run's folder."""

    def run(name="run", n=None, **flags):
        monkeypatch.setattr(vae_mnist, "load_data", lambda cfg: data if n is None else few(data, n))
        place = {"out": str(tmp_path), "name": name, "wandb": "disabled", "device": "cpu", "threads": 1}
        train(Config(**place | flags))
        rows = [json.loads(row) for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return rows, tmp_path / name

    return run


@pytest.fixture
def dots(monkeypatch):
    """Instead of pictures, which take most of a short run's time, make one of a few pixels that shows the
    step.
    """

    def training_pictures(model, data, cfg, device, step):
        return {"latent/scatter": picture(np.full, (8, 8, 3), step % 256, np.uint8)}

    monkeypatch.setattr(vae_mnist, "training_pictures", training_pictures)
    monkeypatch.setattr(views, "interpolation", lambda *_: {})


def media(folder) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in folder.glob("media/*/*/*"):
        assert path.stat().st_size > 50
        found.setdefault(path.parent.relative_to(folder / "media").as_posix(), set()).add(path.name)
    return found


def test_training_learns_and_logs_what_the_table_says(learn):
    rows, folder = learn(**LEARN, eval_every=80, sample_every=240, log_every=40)
    by_step = {row["step"]: set(row) - {"step", "epoch"} for row in rows}
    terms = {"rec_nats", "kl_nats", "elbo_nats"}
    val = {f"val/{name}" for name in terms | {"active_units"}} | {"val/elbo_nats_best"}
    for step, keys in by_step.items():
        expected = set(val) if step % 80 == 0 else set()
        if step % 40 == 0 and step < 240:
            expected |= {f"train/{name}" for name in terms | {"loss", "learning_rate"}}
        if step and step % 39 == 0:  # 1,259 pictures are 39 steps an epoch
            expected |= {"train/loss_epoch"}
        if step == 0:
            expected |= {"val/rec_floor_nats"}
        if step == 240:
            expected |= {f"test/{name}" for name in terms | {"active_units", "iw_nats", "knn_accuracy"}}
        assert keys == expected, step
    section = (ROOT / "docs/METRICS.md").read_text().split("## vae_mnist")[1]
    for key in set().union(*by_step.values(), media(folder)) - set(COMMON):
        part, _, name = key.partition("/")
        row = re.search(rf"(?m)^\| .*`(train|val|test|sample|latent)/{name}`.*$", section)
        assert row and (f"`{key}`" in row[0] or f"`{part}/…`" in row[0]), f"docs/METRICS.md lacks {key}"
    first, last = rows[0], rows[-1]
    assert -last["test/elbo_nats"] < BAR and -first["val/elbo_nats"] > 540
    assert last["test/knn_accuracy"] > KNN_BAR and last["test/active_units"] == 2
    assert last["test/elbo_nats"] < last["test/iw_nats"] < -first["val/rec_floor_nats"]
    best = [row["val/elbo_nats_best"] for row in rows if "val/elbo_nats" in row]
    seen = [row["val/elbo_nats"] for row in rows if "val/elbo_nats" in row]
    assert best == [max(seen[: i + 1]) for i in range(len(seen))]

    often = {f"{s:08d}.png" for s in (0, 240)}
    often = dict.fromkeys(
        (
            "sample/reconstructions",
            "sample/random",
            "latent/scatter",
            "latent/manifold",
            "latent/manifold_wide",
            "latent/kl_per_latent",
        ),
        often,
    )
    assert media(folder) == often | {
        "sample/interpolation": {"00000240.png"},
        "sample/interpolation_video": {"00000240.mp4"},
        "latent/film": {"00000240.gif"},
        "train/curve": {"00000240.png"},
    }
    frames = Image.open(folder / "media/latent/film/00000240.gif")
    assert frames.n_frames == 2
    kept = json.loads((folder / "config.json").read_text())
    assert (kept["family"], kept["headline"], kept["goal"]) == ("vae_mnist", "val/elbo_nats", "maximize")
    assert json.loads((folder / "status.json").read_text())["headline"] == best[-1]


def test_the_bar_is_missed_without_the_code(learn, dots, monkeypatch):
    """A decoder that gets no information can't reach what `test_training_learns` demands."""
    real = vae_mnist.VAE.decode
    monkeypatch.setattr(vae_mnist.VAE, "decode", lambda self, z: real(self, 0 * z))
    rows, _ = learn(**LEARN, eval_every=240, sample_every=1000, log_every=1000)
    assert -rows[-1]["test/elbo_nats"] > BAR + 10 and rows[-1]["test/knn_accuracy"] < KNN_BAR


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_keys_of_binarised_pixels(learn, dots, kind):
    rows, folder = learn(**SMALL, n=64, binarize=kind, steps=2, log_every=1, sample_every=1000)
    keys = {key for row in rows for key in row}
    assert not {key for key in keys if key.endswith("_nats")}
    assert {"train/elbo_nats_bin", "val/elbo_nats_bin_best", "test/iw_nats_bin", "test/kl_nats_bin"} <= keys
    assert json.loads((folder / "config.json").read_text())["headline"] == "val/elbo_nats_bin"


def test_dynamic_pixels_differ_from_step_to_step_and_static_ones_do_not(learn, dots, monkeypatch):
    seen = []

    def watch(model, x, rng, cfg, hidden=None):
        if torch.is_grad_enabled():
            seen.append(x)
        return loss_fn(model, x, rng, cfg, hidden)

    monkeypatch.setattr(vae_mnist, "loss_fn", watch)
    for kind in ("static", "dynamic"):
        seen.clear()
        learn(kind, **SMALL | {"batch_size": 64}, n=64, binarize=kind, steps=2, sample_every=1000)
        assert all(set(x.unique().tolist()) == {0, 1} for x in seen)
        one, other = (x.sum((1, 2, 3)).sort().values for x in seen)  # the same pictures in another order
        assert torch.equal(one, other) == (kind == "static")


def test_rows_do_not_depend_on_pictures(learn, monkeypatch):
    monkeypatch.setattr(views, "interpolation", lambda *_: {})
    flags = SMALL | {"n": 64, "steps": 2, "log_every": 1, "eval_every": 2, "latent_dim": 3}
    often, _ = learn("often", **flags, sample_every=1)
    seldom, folder = learn("seldom", **flags, sample_every=1000)
    assert often == seldom and len(often) == 3
    assert len(media(folder)["latent/scatter"]) == 2


@pytest.mark.parametrize(("method", "step"), [("log", 5), ("save", 6), ("log", 8)])
def test_interrupted_equals_straight(learn, dots, method, step):
    flags = SMALL | {"n": 64, "steps": 8, "log_every": 1, "eval_every": 4, "save_every": 3, "sample_every": 4}
    flags |= {"binarize": "dynamic", "input_dropout": 0.3}
    _, straight = learn("straight", **flags)
    with killed(method, step):
        learn("run", **flags)
    _, folder = learn("run", **flags)
    assert results(folder) == results(straight)
    files = {p.relative_to(straight): p.read_bytes() for p in straight.glob("media/**/*.*")}
    assert {p.relative_to(folder): p.read_bytes() for p in folder.glob("media/**/*.*")} == files
    assert any(path.suffix == ".gif" for path in files)


def test_a_run_that_diverges_says_so(learn, monkeypatch):
    monkeypatch.setattr(views, "interpolation", lambda *_: {})
    flags = SMALL | {"n": 64, "steps": 9, "log_every": 5, "eval_every": 9, "sample_every": 2, "latent_dim": 3}
    _, folder = learn(**flags, learning_rate=1e30)
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "diverged" and status["step"] <= 6
    assert "00000002.png" in media(folder)["latent/scatter"]  # of codes that are not finite


def test_one_step_from_the_weights_of_another_run(learn, dots):
    _, folder = learn(**SMALL, n=64, steps=1, sample_every=1000)
    rows, _ = learn("again", **SMALL, n=64, steps=1, sample_every=1000, checkpoint=str(folder))
    before = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert rows[0]["val/elbo_nats"] == before["val/elbo_nats_best"]
    with pytest.raises(UserError, match=r"--checkpoint=.*no weights of this model"):
        learn("other", **SMALL | {"width": 17}, n=64, steps=1, checkpoint=str(folder))


def test_fashion_and_folders_keep_their_class_names(tmp_path, monkeypatch, data):
    names = ("a trouser", *"bcdefghij")
    loaded = dataclasses.replace(few(data), class_names=names)
    monkeypatch.setattr(vae_mnist.digits, "load", lambda *_: loaded)
    shown = []
    dot = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr(vae_mnist.charts, "scatter", lambda names, **_: shown.append(names) or dot)
    cfg = Config(**SMALL)
    files = vae_mnist.training_pictures(build(cfg, CPU), vae_mnist.load_data(cfg), cfg, CPU, 0)
    files["latent/scatter"].write(tmp_path / "scatter.png")
    assert shown == [names]
