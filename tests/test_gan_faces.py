"""The GAN: known values of its objectives, measures that mean what they say, runs that resume exactly."""

import dataclasses
import functools
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from data import DataError, images
from research import gan_faces as script
from research.common import run as common_run
from research.common.commandline import main, parse
from research.common.folder import STOP
from research.common.media import File, picture
from research.common.messages import UserError
from research.common.run import Preempted, Run
from research.gan_faces import (
    GAN,
    Config,
    augment,
    build,
    discriminator_loss,
    evaluate,
    generate,
    generator_loss,
    gradient_norms,
    judge,
    lr_at,
    noise,
    penalties,
    to_float,
    total_norm,
    train,
    update_average,
    warnings_of,
)
from research.measure import sample_quality
from tests.conftest import killed, results, write_dot
from tests.run_flags import RUN_RESULT_FLAGS, flags_in_key

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
SMALL = {"image_size": 32, "width": 4, "depth": 1, "latent_dim": 4, "batch_size": 8}
FILM, TRAINING_PICTURES = script.film, script.training_pictures
LOSSES = ("relativistic", "nonsaturating", "hinge", "wgan_gp")
ARCHS = ("skip", "dcgan")
LN2 = math.log(2)


def halves(n_train: int = 64, n: int = 24) -> images.ImageSplits:
    """Pictures of 32 pixels whose upper and lower half have a bright and a dark colour of their own."""
    rng = np.random.default_rng(0)
    total = n_train + 2 * n
    rows = np.empty((total, 32, 32, 3), np.uint8)
    rows[:, :16] = rng.integers(150, 256, (total, 1, 1, 3))
    rows[:, 16:] = rng.integers(0, 100, (total, 1, 1, 3))
    parts = dict(zip(images.PARTS, np.split(rows, [n_train, n_train + n]), strict=True))
    return images.ImageSplits("halves", "0" * 16, **{p: torch.from_numpy(x) for p, x in parts.items()})


def random_pictures(n: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def rng_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- losses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "of_d", "of_g"),
    [("nonsaturating", 2 * LN2, LN2), ("relativistic", LN2, LN2), ("hinge", 2, 0), ("wgan_gp", 0, 0)],
)
def test_losses_where_the_discriminator_knows_nothing(loss, of_d, of_g):
    cfg, zeros = Config(loss=loss), torch.zeros(5)
    assert discriminator_loss(zeros, zeros, cfg).item() == pytest.approx(of_d)
    assert generator_loss(zeros, zeros, cfg).item() == pytest.approx(of_g)


@pytest.mark.parametrize(
    ("loss", "of_d", "of_g"),
    [
        # softplus of −4.5 and 2.5: 0.011048, 2.578890; of 4.5 and −2.5: 4.511048, 0.078890
        ("relativistic", 1.294969, 2.294969),
        # softplus of −1.5 and 2: 0.201413, 2.126928; of −3 and 0.5: 0.048587, 0.974077; of 3 and −0.5:
        # 3.048587, 0.474077
        ("nonsaturating", 1.675503, 1.761332),
        ("hinge", (0 + 3) / 2 + (0 + 1.5) / 2, 1.25),
        ("wgan_gp", -1.25 - (-0.25), 1.25),
    ],
)
def test_losses_by_hand(loss, of_d, of_g):
    cfg, real, fake = Config(loss=loss), torch.tensor([1.5, -2.0]), torch.tensor([-3.0, 0.5])
    assert discriminator_loss(real, fake, cfg).item() == pytest.approx(of_d, abs=1e-6)
    assert generator_loss(real, fake, cfg).item() == pytest.approx(of_g, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=12, deadline=None)
@given(logits=st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=1, max_size=8))
def test_what_each_side_wants(loss, logits):
    """D: real pictures should score above generated ones. G: the reverse; the relativistic loss is the same
    game for both.
    """
    cfg = Config(loss=loss)
    real, fake = (torch.tensor(x, requires_grad=True) for x in zip(*logits, strict=True))
    of_d, of_g = discriminator_loss(real, fake, cfg), generator_loss(real, fake, cfg)
    d_real, d_fake = torch.autograd.grad(of_d, (real, fake))
    (g_fake,) = torch.autograd.grad(of_g, fake)
    assert (d_real <= 0).all() and (d_fake >= 0).all() and (g_fake <= 0).all()
    if loss == "relativistic":
        torch.testing.assert_close(discriminator_loss(real, fake, cfg), generator_loss(fake, real, cfg))
        moved = discriminator_loss(real + 3, fake + 3, cfg)
        torch.testing.assert_close(moved, of_d, rtol=1e-3, atol=1e-4)  # only differences count


# ---- penalties -----------------------------------------------------------------------------------------


class Linear(nn.Module):
    """<w, 2x − 1>: its gradient is w at every picture, when pictures are in [−1, 1]."""

    def __init__(self, norm: float):
        super().__init__()
        w = torch.randn(3 * 8 * 8, generator=rng_of(1))
        self.w = nn.Parameter(norm * w / w.norm())

    def forward(self, x):
        return (2 * x - 1).flatten(1) @ self.w


class Quadratic(nn.Module):
    """|u|² / 2 of u = 2x − 1, whose gradient is u."""

    def forward(self, x):
        return (2 * x - 1).flatten(1).square().sum(1) / 2


@pytest.mark.parametrize("norm", [0.25, 1.0, 3.0])
def test_penalties_of_a_linear_discriminator(norm):
    d, real, fake = Linear(norm), random_pictures(5, 8), random_pictures(5, 8, 1)
    torch.testing.assert_close(gradient_norms(d, real), torch.full((5,), norm))

    cfg = Config(loss="nonsaturating", r1=0.5, r2=3.0)
    total, terms = penalties(d, real, fake, rng_of(0), cfg)
    assert {k: v.item() for k, v in terms.items()} == pytest.approx({"r1": norm**2, "r2": norm**2})
    assert total.item() == pytest.approx((0.5 + 3.0) / 2 * norm**2)
    total.backward()
    torch.testing.assert_close(d.w.grad, (0.5 + 3.0) * d.w.detach())

    d.w.grad = None
    cfg = Config(loss="wgan_gp", gp=7.0, r1=0.0, r2=0.0)
    total, terms = penalties(d, real, fake, rng_of(0), cfg)
    assert set(terms) == {"gp"} and terms["gp"].item() == pytest.approx((norm - 1) ** 2, abs=1e-6)
    assert total.item() == pytest.approx(7 * (norm - 1) ** 2, abs=1e-5)
    total.backward()
    torch.testing.assert_close(
        d.w.grad, 2 * 7 * (norm - 1) * d.w.detach() / norm, atol=1e-5, rtol=1e-4
    )  # it pulls |w| to 1


def test_penalties_are_taken_where_they_say():
    """R1 at real pictures, R2 at generated ones, the other on the line between a real and a generated one."""
    real, fake = torch.ones(6, 3, 8, 8), torch.full((6, 3, 8, 8), 0.5)  # u = 1 and u = 0
    cfg = Config(loss="wgan_gp", gp=10.0, r1=1.0, r2=1.0)
    total, terms = penalties(Quadratic(), real, fake, rng_of(3), cfg)
    t = torch.rand(6, generator=rng_of(3))
    n = 3 * 8 * 8
    assert terms["r1"].item() == pytest.approx(n) and terms["r2"].item() == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(terms["gp"], (t * n**0.5 - 1).square().mean())
    torch.testing.assert_close(total, 10 * terms["gp"] + n / 2)
    assert t.std() > 0.1, "all on one point of the line: the test would see nothing"


@pytest.mark.parametrize("loss", LOSSES)
def test_penalties_that_are_switched_off(loss):
    d, real, fake = Linear(2.0), random_pictures(3, 8), random_pictures(3, 8, 1)
    others = {"gp"} if loss == "wgan_gp" else set()  # --gp says nothing with another loss
    for r1, r2, gp in itertools.product((0.0, 1.0), repeat=3):
        total, terms = penalties(d, real, fake, rng_of(0), Config(loss=loss, r1=r1, r2=r2, gp=gp))
        expected = {name for name, weight in (("r1", r1), ("r2", r2)) if weight} | (others if gp else set())
        assert set(terms) == expected
        assert (total.item() > 0) == bool(expected) and total.shape == ()
        assert total.requires_grad == bool(expected)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_gradient_of_penalties_reaches_every_layer_before_the_last_bias(arch):
    cfg = Config(**SMALL, arch=arch, loss="wgan_gp", gp=10.0, r1=1.0, r2=1.0)
    d = build(cfg, CPU).discriminator
    penalties(d, random_pictures(4), random_pictures(4, seed=1), rng_of(0), cfg)[0].backward()
    for name, weight in d.named_parameters():
        if weight.ndim > 1:
            assert weight.grad is not None and weight.grad.abs().max() > 0, name


# ---- augmentation --------------------------------------------------------------------------------------


def augmented(x: torch.Tensor, which: str, seed: int = 0) -> torch.Tensor:
    return augment(x, rng_of(seed), Config(augment=which))


CHOICES = [
    ",".join(names)
    for n in range(1, len(script.AUGMENTATIONS) + 1)
    for names in itertools.combinations(script.AUGMENTATIONS, n)
]


@pytest.mark.parametrize("which", CHOICES)
def test_augmentation_of_every_choice(which):
    one = random_pictures(1)
    x = one.expand(8, -1, -1, -1).clone().requires_grad_()
    changed = augmented(x, which)
    assert changed.shape == x.shape and changed.dtype == x.dtype and changed.isfinite().all()
    assert torch.equal(changed, augmented(x, which)), "a function of the generator"
    assert not torch.equal(changed, augmented(x, which, seed=1))
    rest = changed.detach().flatten(1)
    assert len(rest.unique(dim=0)) > 4, "each picture in its own way"
    (gradient,) = torch.autograd.grad(changed.square().sum(), x)
    assert gradient.isfinite().all() and (gradient.flatten(1).abs().amax(1) > 0).all()


def test_no_augmentation_is_the_picture_itself_and_draws_nothing():
    x, rng = random_pictures(3), rng_of(0)
    before = rng.get_state()
    assert torch.equal(augment(x, rng, Config(augment="none")), x)
    assert torch.equal(rng.get_state(), before)


@pytest.mark.parametrize(
    "which", ["", "colour", "color,color", "color,none", "color, cutout", "Color", ",", "cutout,color"]
)
def test_bad_augmentations_are_refused_in_one_line(which):
    with pytest.raises(UserError, match=f"^--augment={which}: must be none, or some of color") as caught:
        Config(augment=which)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [32, 64])
def test_translations_reach_an_eighth_of_the_edge_and_are_filled_with_grey(size):
    reach, n = size // 8, 150
    where = torch.arange(1, size * size + 1).view(1, 1, size, size) / (size * size + 1)  # each pixel its own
    x = where.expand(n, 3, size, size) * 0.4  # below the grey
    moved = augmented(x, "translation")
    seen = set()
    for y in moved:
        inside = y[0] < 0.45
        i, j = inside.nonzero()[0].tolist()  # the first pixel of the picture that is left
        number = round(y[0, i, j].item() / 0.4 * (size * size + 1)) - 1
        dy, dx = number // size - i, number % size - j
        seen |= {("y", dy), ("x", dx)}
        padded = nn.functional.pad(x[0] - 0.5, [reach] * 4) + 0.5
        expected = padded[:, reach + dy : reach + dy + size, reach + dx : reach + dx + size]
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
    assert seen == {(axis, d) for axis in "xy" for d in range(-reach, reach + 1)}


@pytest.mark.parametrize("size", [32, 64])
def test_cutouts_are_grey_squares_of_at_most_a_quarter_of_the_picture(size):
    x = random_pictures(200, size) * 0.4
    cut = augmented(x, "cutout")
    shares = []
    for before, after in zip(x, cut, strict=True):
        hole = (after == 0.5).all(0)
        assert torch.equal(after[:, ~hole], before[:, ~hole])
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        assert len(rows) <= size // 2 and len(columns) <= size // 2
        square = hole[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert square.all() and hole.sum() == square.numel()
        shares.append(hole.float().mean().item())
    assert 0.2 < max(shares) <= 0.25 and min(shares) > 0 and np.mean(shares) > 0.1


def test_colours_change_in_brightness_saturation_and_contrast():
    x = random_pictures(300, 8)
    changed = augmented(x, "color")

    def parts(x):
        """Mean of a picture; its brightness around that, and its colours around the grey picture."""
        grey = x.mean(1, keepdim=True)
        mean = x.mean((1, 2, 3), keepdim=True)
        return mean, grey - mean, x - grey

    old, new = parts(x), parts(changed)
    brightness = (new[0] - old[0]).flatten()
    contrast = new[1].flatten(1).norm(dim=1) / old[1].flatten(1).norm(dim=1)
    saturation = new[2].flatten(1).norm(dim=1) / old[2].flatten(1).norm(dim=1) / contrast
    for found, low, high in ((brightness, -0.25, 0.25), (contrast, 0.5, 1.5), (saturation, 0, 2)):
        assert low - 1e-5 <= found.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < found.max() <= high + 1e-5
    pairs = torch.corrcoef(torch.stack([brightness, contrast, saturation]))
    assert (pairs - torch.eye(3)).abs().max() < 0.25, "drawn apart"
    torch.testing.assert_close(new[1], contrast[:, None, None, None] * old[1], atol=1e-5, rtol=1e-4)
    scale = (contrast * saturation)[:, None, None, None]
    torch.testing.assert_close(new[2], scale * old[2], atol=1e-5, rtol=1e-4)


# ---- the networks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("size", "depth"), [*itertools.product((32, 64, 128), (0, 1, 2))])
def test_shapes(size, depth, arch):
    cfg = Config(arch=arch, image_size=size, depth=depth, width=2, latent_dim=3)
    model = build(cfg, CPU)
    z = torch.randn(2, 3, generator=rng_of(0))
    made = model.generator(z)
    assert made.shape == (2, 3, size, size) and made.dtype == torch.float32
    assert 0 <= made.min() < made.max() <= 1
    logits = model.discriminator(made)
    assert logits.shape == (2,) and logits.dtype == torch.float32 and logits.isfinite().all()
    assert model(z).shape == (2,)
    deeper = build(dataclasses.replace(cfg, depth=depth + 1), CPU)
    more = len(list(deeper.discriminator.parameters())) - len(list(model.discriminator.parameters()))
    assert (more > 0) == (arch == "skip")


def test_a_picture_has_its_logit_whatever_else_is_in_the_batch():
    """With residual blocks there is no norm over the batch, which penalties on gradients would mix up."""
    d = build(Config(**SMALL, arch="skip"), CPU).discriminator
    x = random_pictures(4)
    torch.testing.assert_close(d(x)[1:2], d(x[1:2]))
    bent = build(Config(**SMALL, arch="dcgan"), CPU).discriminator
    assert not torch.allclose(bent(x)[1:2], bent(x[1:3])[:1])


@pytest.mark.parametrize("arch", ARCHS)
def test_build_is_a_function_of_the_seed(arch):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    a, b, c = (build(Config(**SMALL, arch=arch, seed=s), CPU).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    d = build(Config(**SMALL, arch=arch, seed=1), CPU).state_dict()
    for name in a:
        assert torch.equal(a[name], b[name]) and torch.equal(a[name], d[name]), name
    assert not all(torch.equal(a[name], c[name]) for name in a)
    mine, theirs = (
        {n.partition(".")[2]: x for n, x in a.items() if n.startswith(part)}
        for part in ("generator.", "average.")
    )
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


@pytest.mark.parametrize("arch", ARCHS)
def test_spectral_norm_makes_the_largest_singular_value_1(arch):
    def largest(network: nn.Module) -> dict[str, float]:
        return {
            name: torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2).item()
            for name, m in network.named_modules()
            if isinstance(m, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d))
        }

    plain = largest(build(Config(**SMALL, arch=arch, spectral_norm=False), CPU).discriminator)
    model = build(Config(**SMALL, arch=arch, spectral_norm=True), CPU)
    for _ in range(30):  # each call in training improves the estimate
        model.discriminator(random_pictures(2))
    found = largest(model.discriminator)
    assert found.keys() == plain.keys() and len(found) >= 4
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=0.05)
    assert any(abs(value - 1) > 0.2 for value in plain.values())
    assert any(abs(value - 1) > 0.2 for value in largest(model.generator).values())
    model.discriminator.eval()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    model.discriminator(random_pictures(2))
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_to_float():
    batch = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).view(2, 4, 4, 3)
    x = to_float(batch, CPU)
    assert x.shape == (2, 3, 4, 4) and x.dtype == torch.float32
    assert x[1, 2, 3, 0] * 255 == batch[1, 3, 0, 2]
    assert to_float(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8), CPU).max() == 1


# ---- the averaged generator ----------------------------------------------------------------------------


def moved_model(**flags) -> GAN:
    """A model whose generator has changed since it was built, with batch norms that have seen it."""
    model = build(Config(**SMALL, **flags), CPU)
    with torch.no_grad():
        for p in model.generator.parameters():
            p.add_(torch.randn(p.shape, generator=rng_of(0)))
        model.generator(torch.randn(8, 4, generator=rng_of(1)))
    return model


def gaps(model: GAN) -> list[torch.Tensor]:
    pairs = zip(model.average.parameters(), model.generator.parameters(), strict=True)
    return [(mean - now).detach().clone() for mean, now in pairs]


def test_without_averaging_it_is_the_generator_itself():
    model = moved_model()
    update_average(model, 1000, Config(**SMALL, ema=0.0))
    for name, value in model.generator.state_dict().items():
        assert torch.equal(model.average.state_dict()[name], value), name


def test_the_average_comes_closer_by_its_decay():
    model = moved_model()
    before = gaps(model)
    pairs = zip(model.average.buffers(), model.generator.buffers(), strict=True)
    assert not all(torch.equal(mean, now) for mean, now in pairs)
    for step, decay in ((0, 0.1), (8, 0.5), (10_000, 0.9)):  # (1 + step) / (10 + step), at most --ema
        update_average(model, step, Config(**SMALL, ema=0.9))
        after = gaps(model)
        for a, b in zip(after, before, strict=True):
            torch.testing.assert_close(a, decay * b, atol=1e-6, rtol=1e-4)
        before = after
    for mean, now in zip(model.average.buffers(), model.generator.buffers(), strict=True):
        assert torch.equal(mean, now)  # statistics of batches are of now
    for _ in range(200):
        update_average(model, 10_000, Config(**SMALL, ema=0.9))
    assert max(gap.abs().max() for gap in gaps(model)) < 1e-5
    assert not any(p.requires_grad for p in model.average.parameters())


# ---- schedule and norms --------------------------------------------------------------------------------


def test_learning_rate():
    cfg = Config(steps=1000, learning_rate=0.5)
    rates = [lr_at(step, cfg) for step in range(1001)]
    known = {0: 0.01, 24: 0.25, 49: 0.5, 250: 0.5, 500: 0.5, 750: 0.25, 999: 0.001, 1000: 0}
    assert {step: rates[step] for step in known} == pytest.approx(known)
    assert rates[:50] == sorted(rates[:50]) and rates[50:] == sorted(rates[50:], reverse=True)
    assert max(rates) == 0.5
    short = Config(steps=10, learning_rate=0.5)
    assert all(0 < lr_at(step, short) <= 0.5 * (step + 1) / 50 for step in range(10))


def test_the_norm_of_all_gradients():
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    net[0].weight.grad, net[1].bias.grad = torch.tensor([[3.0]]), torch.tensor([4.0])  # the rest have none
    assert total_norm(net).item() == 5


# ---- measuring -----------------------------------------------------------------------------------------


def test_generate_draws_and_leaves_the_network_as_it_was():
    cfg = Config(**SMALL)
    generator = moved_model().generator
    before = {name: x.clone() for name, x in generator.state_dict().items()}
    z = noise(260, cfg, 0)  # two parts
    for training in (True, False):
        generator.train(training)
        made = generate(generator, z, CPU)
        assert generator.training == training and all(m.training == training for m in generator.modules())
    assert made.shape == (260, 32, 32, 3) and made.dtype == torch.uint8 and made.is_contiguous()
    assert made.float().std() > 5
    for name, value in generator.state_dict().items():
        assert torch.equal(value, before[name]), name
    expected = 255 * generator.eval()(z[249:252]).detach().permute(0, 2, 3, 1)
    assert (made[249:252] - expected).abs().max() <= 0.51
    assert torch.equal(generate(generator, z[255:], CPU), made[255:])


def test_noise_is_the_same_at_every_call():
    cfg = Config(**SMALL)
    assert torch.equal(noise(5, cfg, 3), noise(5, cfg, 3)) and noise(5, cfg, 3).shape == (5, 4)
    assert not torch.equal(noise(5, cfg, 3), noise(5, cfg, 4))


class Judge(nn.Module):
    """A discriminator that takes bright pictures for real."""

    def __init__(self, shift: float = 0.0, scale: float = 1.0):
        super().__init__()
        self.shift, self.scale = shift, scale
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        return self.shift + self.scale * x.mean((1, 2, 3))


def flat(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 8, 8, 3)


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (100, 1), (-7, 0.01)])
def test_judgement_of_a_discriminator_that_knows(shift, scale):
    """Only differences between logits count: it takes all pictures for real, or none, and still tells them
    apart.
    """
    model = types.SimpleNamespace(discriminator=Judge(shift, scale))
    real, fake = flat(*[250] * 60), flat(*[10] * 60)  # two parts each
    found = judge(model, real, flat(200, 250, 20, 30), fake, CPU)
    assert found == {"d_train_real": 1, "d_held_out_real": 0.5, "d_generated": 1}
    turned = judge(model, fake, flat(200, 10, 20, 30), real, CPU)
    assert turned == {"d_train_real": 0, "d_held_out_real": 0.25, "d_generated": 0}
    by_heart = judge(model, real, fake, fake, CPU)
    assert by_heart == {"d_train_real": 1, "d_held_out_real": 0, "d_generated": 1}
    some = judge(model, flat(250, 250, 250, 0), real, flat(0, 0, 0, 250), CPU)
    assert some == {"d_train_real": 0.75, "d_held_out_real": 1, "d_generated": 0.75}
    assert model.discriminator.modes == [] and model.discriminator.training, "a copy judges"


def test_judgement_by_batch_norm_is_that_of_training():
    """Each kind of picture is a batch of its own, and the stored statistics stay as they were."""
    model = build(Config(**SMALL, arch="dcgan"), CPU)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    real, fake = random_uint8(40, seed=0), random_uint8(40, seed=1)
    found = judge(model, real, real, fake, CPU)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.discriminator.modules())
    with torch.no_grad():
        of_real, of_fake = (model.discriminator(to_float(x, CPU)) for x in (real, fake))
    middle = (of_real.mean() + of_fake.mean()) / 2
    assert found["d_train_real"] == pytest.approx((of_real > middle).float().mean().item())
    assert found["d_generated"] == pytest.approx((of_fake <= middle).float().mean().item())


def random_uint8(n: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=rng_of(seed))


WON, HEART, COLLAPSE = (
    "the discriminator has won",
    "the discriminator has memorised the training set",
    "mode collapse",
)


@pytest.mark.parametrize(
    ("real", "held_out", "fake", "diversity", "titles"),
    [
        (0.7, 0.7, 0.7, 0.9, []),
        (1.0, 0.95, 1.0, 0.9, [WON]),
        (1.0, 0.7, 1.0, 0.9, []),
        (1.0, 0.3, 1.0, 0.9, [HEART]),
        (1.0, 0.95, 0.9, 0.9, []),
        (0.9, 0.3, 1.0, 0.9, []),
        (0.7, 0.7, 0.7, 0.1, [COLLAPSE]),
        (1.0, 0.3, 1.0, 0.1, [HEART, COLLAPSE]),
        (0.7, 0.7, 0.7, float("nan"), []),
    ],
)
def test_warnings(real, held_out, fake, diversity, titles):
    found = warnings_of(
        {
            "val/d_train_real": real,
            "val/d_held_out_real": held_out,
            "val/d_generated": fake,
            "val/diversity": diversity,
        }
    )
    assert [title for title, _ in found] == titles
    assert all("\n" not in text for _, text in found)
    if titles == [HEART]:
        expected = "it classifies 100% of training and 100% of generated pictures correctly, but only 30% of "
        assert found[0][1] == f"{expected}held-out pictures"
    if COLLAPSE in titles:
        assert found[-1][1] == "generated pictures vary 0.10 times as much as real ones"


VAL = {"kernel_distance", "kernel_distance_now", "diversity"}
VAL |= {"d_train_real", "d_held_out_real", "d_generated"}
TEST = VAL | {"kernel_distance_floor", "frechet_distance", "frechet_distance_floor", "precision", "recall"}


@pytest.fixture
def few_scored(monkeypatch):
    """Let few enough generated pictures be scored that a test takes no time."""
    monkeypatch.setattr(script, "N_SCORED", 24)


def test_evaluate_knows_real_pictures(monkeypatch, few_scored):
    """For a generator that draws the held-out pictures themselves, and for one that draws
    only one of them.
    """
    data, cfg = halves(), Config(**SMALL)
    model = build(cfg, CPU)
    state = torch.random.get_rng_state()
    poor = evaluate(model, data, "test", cfg, CPU)
    assert evaluate(model, data, "test", cfg, CPU) == poor
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(poor) == {f"test/{name}" for name in TEST}
    of_val = evaluate(model, data, "val", cfg, CPU)
    assert set(of_val) == {f"val/{name}" for name in VAL} | {"train/kernel_distance"}

    monkeypatch.setattr(script, "generate", lambda generator, z, device: data.test[: len(z)])
    same = evaluate(model, data, "test", cfg, CPU)
    assert same["test/precision"] == same["test/recall"] == 1
    assert same["test/diversity"] == pytest.approx(1, rel=1e-5)
    assert same["test/frechet_distance"] == pytest.approx(0, abs=1e-3)
    assert same["test/kernel_distance"] <= same["test/kernel_distance_floor"] < poor["test/kernel_distance"]
    assert same["test/kernel_distance_now"] == same["test/kernel_distance"]

    monkeypatch.setattr(script, "generate", lambda generator, z, device: data.test[:1].expand(24, -1, -1, -1))
    one = evaluate(model, data, "test", cfg, CPU)
    assert one["test/diversity"] == pytest.approx(0, abs=1e-5)
    assert one["test/precision"] == 1 and one["test/recall"] < 0.1


def test_evaluate_scores_the_average_and_the_generator_of_now(monkeypatch, few_scored):
    data, cfg = halves(), Config(**SMALL)
    model = build(cfg, CPU)
    shown = {id(model.average): data.val, id(model.generator): 255 - data.val}
    monkeypatch.setattr(script, "generate", lambda generator, z, device: shown[id(generator)][: len(z)])
    found = evaluate(model, data, "val", cfg, CPU)
    assert found["val/kernel_distance"] <= 0 < found["val/kernel_distance_now"]


def test_the_headline_is_the_distance_to_training_pictures(monkeypatch, few_scored):
    data, cfg = halves(), Config(**SMALL)
    monkeypatch.setattr(script, "generate", lambda generator, z, device: data.train[: len(z)])
    found = evaluate(build(cfg, CPU), dataclasses.replace(data, val=255 - data.val), "val", cfg, CPU)
    assert found["train/kernel_distance"] <= 0 < found["val/kernel_distance"]
    assert script.headline(cfg) == ("train/kernel_distance", "minimize")


# ---- pictures ------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """Return the arguments from which a picture would be made, instead of the picture."""
    monkeypatch.setattr(script, "picture", lambda make, *args, **kwargs: [*args, *kwargs.values()])


def test_pictures_of_training_are_of_the_average_and_of_the_same_codes(drawn):
    cfg = Config(**SMALL, seed=3)
    model = moved_model()
    (tiles, n_columns, title) = script.training_pictures(model, cfg, CPU)["sample/random"]
    assert torch.equal(tiles, generate(model.average, noise(32, cfg, 3), CPU)) and n_columns == 8
    assert title == "G(z), z ~ N(0, I)"
    assert not torch.equal(tiles, generate(model.generator, noise(32, cfg, 3), CPU))
    again = script.training_pictures(model, cfg, CPU)["sample/random"]
    assert torch.equal(again[0], tiles)


def test_the_way_between_codes_tells_t_and_its_ends(drawn, monkeypatch):
    monkeypatch.setattr(script, "video", lambda frames, *_, **__: frames)
    cfg, model = Config(**SMALL, seed=3), moved_model()
    made = script.interpolation(model, cfg, CPU, n_frames=17)
    tiles, n_columns, rows, columns, _ = made["sample/interpolation"]
    assert (n_columns, rows) == (9, ["linear", "spherical"])
    assert columns == ["t = 0.00", "t = 0.12", "t = 0.25", "t = 0.38", "t = 0.50", *columns[5:8], "t = 1.00"]
    z0, z1 = noise(2, cfg, 3)
    codes = {0: z0, 8: z1, 4: (z0 + z1) / 2, 9: z0, 17: z1}  # nine straight ones, then nine along the arc
    for i, z in codes.items():
        expected = generate(model.average, z[None], CPU)[0].int()
        assert (tiles[i].int() - expected).abs().max() <= 1, i
    assert len(made["sample/interpolation_video"]) == 2 * 17 - 2


def test_generated_pictures_stand_above_the_nearest_training_pictures(drawn, monkeypatch):
    """For a generator that has copied training pictures; pictures beyond the first N_NEAREST are not
    searched.
    """
    data, cfg = halves(), Config(**SMALL)
    order = [5, 3, 60, 0, 7, 7, 21, 40]
    monkeypatch.setattr(script, "generate", lambda generator, z, device: data.train[order][: len(z)])
    model = build(cfg, CPU)
    (tiles, n_columns, rows, title) = script.nearest_pictures(model, data, cfg, CPU)["sample/nearest"]
    assert (n_columns, rows) == (8, ["G(z)", "nearest"])
    assert torch.equal(tiles[:8], data.train[order]) and torch.equal(tiles[8:], tiles[:8])
    assert title == "G(z) above the nearest of 64 training pictures"
    monkeypatch.setattr(script, "N_NEAREST", 50)
    tiles = script.nearest_pictures(model, data, cfg, CPU)["sample/nearest"][0]
    found = [torch.equal(a, b) for a, b in zip(tiles[:8], tiles[8:], strict=True)]
    assert found == [i < 50 for i in order]


# ---- flags ---------------------------------------------------------------------------------------------

RESULT_FLAGS = RUN_RESULT_FLAGS | {"arch", "width", "depth", "latent_dim", "image_size", "loss", "r1", "r2"}
RESULT_FLAGS |= {"gp", "penalty_every", "spectral_norm", "ema", "augment", "beta1", "beta2", "d_rate"}


def test_the_flags_that_make_the_key():
    assert flags_in_key(Config) == RESULT_FLAGS  # adding one changes what kept runs mean: do it on purpose


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--width=0"], ["--width=0", "at least 1"]),
        (["--latent_dim=0"], ["--latent_dim=0", "at least 1"]),
        (["--depth=-1"], ["--depth=-1", "at least 0"]),
        (["--penalty_every=0"], ["--penalty_every=0", "at least 1"]),
        (["--r1=-0.1"], ["--r1=-0.1", "at least 0"]),
        (["--r2=nan"], ["--r2=nan", "at least 0"]),
        (["--gp=inf"], ["--gp=inf", "at least 0"]),
        (["--ema=1"], ["--ema=1", "below 1"]),
        (["--beta1=-0.5"], ["--beta1=-0.5", "at least 0"]),
        (["--beta2=1"], ["--beta2=1", "below 1"]),
        (["--batch_size=1"], ["--batch_size=1", "at least 2"]),
        (["--learning_rate=0"], ["--learning_rate=0", "above 0"]),
        (["--image_size=48"], ["--image_size=48", "one of 32, 64, 128"]),
        (["--arch=resnet"], ["--arch=resnet", "one of skip, dcgan"]),
        (["--loss=wgan"], ["--loss=wgan", "did you mean wgan_gp?"]),
        (["--augment=colour"], ["--augment=colour", "color,translation,cutout"]),
        (["--task=evaluate"], ["--task=evaluate", "--checkpoint"]),
        (["--task=interpolat"], ["did you mean interpolate?"]),
    ],
)
def test_refusals(args, parts):
    with pytest.raises(UserError) as caught:
        parse(Config, args)
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in parts), caught.value


# ---- training ------------------------------------------------------------------------------------------


@pytest.fixture
def learn(tmp_path, monkeypatch, few_scored):
    """The real `train` on the pictures of two halves; returns rows and the run's folder."""

    def run(name="run", **flags) -> tuple[list[dict], Path]:
        monkeypatch.setattr(script, "load_data", lambda cfg: halves())
        place = {"out": str(tmp_path), "name": name, "wandb": "disabled", "device": "cpu", "threads": 1}
        train(Config(**place | flags))
        rows = [json.loads(row) for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return rows, tmp_path / name

    return run


@pytest.fixture
def dots(monkeypatch):
    """What takes most of a short run's time is made short: instead of pictures one of a few pixels that tells
    the weights, instead of the film and the curve a dot; and no Fréchet distance but that of the means.
    """

    def training_pictures(model, cfg, device):
        pixel = int(generate(model.average, noise(2, cfg, 0), device).float().mean())
        return {"sample/random": picture(np.full, (16, 16, 3), pixel, np.uint8)}

    monkeypatch.setattr(script, "training_pictures", training_pictures)
    monkeypatch.setattr(script, "interpolation", lambda *_: {})
    monkeypatch.setattr(script, "nearest_pictures", lambda *_: {})
    monkeypatch.setattr(script, "film", lambda: File(".png", write_dot))
    monkeypatch.setattr(common_run, "loss_curve", lambda folder: np.zeros((16, 16, 3), np.uint8))
    monkeypatch.setattr(
        sample_quality, "frechet_distance", lambda a, b: float((a.mean(0) - b.mean(0)).norm())
    )


def media(folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in folder.glob("media/*/*/*"):
        assert path.stat().st_size > 50
        found.setdefault(path.parent.relative_to(folder / "media").as_posix(), set()).add(path.name)
    return found


def status_of(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


LEARN = {"image_size": 32, "width": 8, "depth": 1, "latent_dim": 8, "batch_size": 16, "arch": "skip"}
LEARN |= {"loss": "relativistic", "r1": 0.1, "r2": 0.1, "learning_rate": 0.002, "beta1": 0.0, "beta2": 0.99}
LEARN |= {"ema": 0.9, "augment": "translation", "steps": 80}
BAR = 0.5  # share of the kernel distance of untrained pictures: what `train` must go below with LEARN
TRAIN = {"loss", "d_loss", "g_loss", "learning_rate", "d_grad_norm", "g_grad_norm"}


def test_training_learns_and_logs_what_the_table_says(learn, monkeypatch):
    monkeypatch.setattr(script, "interpolation", functools.partial(script.interpolation, n_frames=9))
    rows, folder = learn(**LEARN, penalty_every=4, eval_every=40, sample_every=40, log_every=6)
    by_step = {row["step"]: row for row in rows}
    for step, row in by_step.items():
        expected = set()
        if step % 40 == 0:
            expected |= {f"val/{name}" for name in VAL}
            expected |= {"train/kernel_distance", "train/kernel_distance_best"}
        if step % 6 == 0 and step < 80:
            expected |= {f"train/{name}" for name in TRAIN}
            expected |= {"train/r1", "train/r2"} if step % 4 == 0 else set()
        if step and step % 4 == 0:  # 64 pictures are four steps an epoch
            expected |= {"train/loss_epoch"}
        if step == 80:
            expected |= {f"test/{name}" for name in TEST}
        assert set(row) - {"step", "epoch"} == expected, step
        assert all(value is not None for value in row.values())
    section = (ROOT / "docs/METRICS.md").read_text(encoding="utf-8").split("\n## gan_faces\n")[1]
    section = section.split("\n## ")[0]
    common = {"step", "epoch", "train/loss_epoch", "train/learning_rate", "train/curve"}
    for key in set().union(*by_step.values(), media(folder)) - common:
        part, _, name = key.partition("/")
        row = re.search(rf"(?m)^\| .*`(train|val|test|sample)/{name}`.*$", section)
        assert row and (f"`{key}`" in row[0] or f"`{part}/…`" in row[0]), f"docs/METRICS.md lacks {key}"

    first, last = rows[0], rows[-1]
    assert last["val/kernel_distance"] < BAR * first["val/kernel_distance"]
    assert last["val/diversity"] > 0.1
    for row in rows:
        if "train/loss" in row:
            assert row["train/loss"] == pytest.approx(row["train/d_loss"] + row["train/g_loss"], rel=1e-5)
            assert row["train/learning_rate"] == pytest.approx(lr_at(row["step"], Config(**LEARN)))
    assert first["train/d_loss"] == pytest.approx(LN2, abs=0.3)

    assert media(folder) == {
        "sample/random": {"00000000.png", "00000040.png", "00000080.png"},
        "sample/film": {"00000080.mp4"},
        "sample/interpolation": {"00000080.png"},
        "sample/interpolation_video": {"00000080.mp4"},
        "sample/nearest": {"00000080.png"},
        "train/curve": {"00000080.png"},
    }
    frames = imageio.mimread(folder / "media/sample/film/00000080.mp4", memtest=False)
    assert len(frames) == 3 + 4  # the last one stands a while
    grid = np.asarray(Image.open(folder / "media/sample/random/00000080.png").convert("RGB"), float)
    shown = frames[2][: grid.shape[0], : grid.shape[1]].astype(float)
    assert np.abs(shown - grid).mean() < 12
    kept = json.loads((folder / "config.json").read_text())
    assert (kept["family"], kept["headline"]) == ("gan_faces", "train/kernel_distance")
    assert kept["goal"] == "minimize"
    assert kept["flags"] == dataclasses.asdict(Config(**kept["flags"]))
    best = [row["train/kernel_distance_best"] for row in rows if "train/kernel_distance_best" in row]
    seen = [row["train/kernel_distance"] for row in rows if "train/kernel_distance" in row]
    assert best == [min(seen[: i + 1]) for i in range(len(seen))]
    status = status_of(folder)
    assert (status["status"], status["step"], status["headline"]) == ("finished", 80, best[-1])


def test_the_bar_is_missed_without_a_generator_that_learns(learn, dots, monkeypatch):
    """An untrained part can't reach what `test_training_learns` demands."""
    monkeypatch.setattr(script, "generator_loss", lambda real, fake, cfg: 0 * fake.sum())
    rows, _ = learn(**LEARN | {"steps": 20}, penalty_every=4, eval_every=20, sample_every=1000)
    assert rows[-1]["val/kernel_distance"] > BAR * rows[0]["val/kernel_distance"]


@pytest.mark.parametrize(("arch", "loss"), [*(("skip", loss) for loss in LOSSES), ("dcgan", "nonsaturating")])
def test_one_step(learn, dots, arch, loss):
    flags = {"loss": loss, "arch": arch, "learning_rate": 0.01, "gp": 2.0, "r1": 1.0, "r2": 0.0}
    rows, folder = learn(**SMALL, **flags, steps=1, log_every=1, sample_every=0)
    assert [row["step"] for row in rows] == [0, 1] and status_of(folder)["status"] == "finished"
    assert all(value is not None and math.isfinite(value) for row in rows for value in row.values())
    assert rows[0]["train/learning_rate"] == pytest.approx(0.01 / 50)
    terms = {"train/r1", "train/gp"} if loss == "wgan_gp" else {"train/r1"}
    assert {key for key in rows[0] if key in ("train/r1", "train/r2", "train/gp")} == terms
    state = torch.load(next((folder / "checkpoints").glob("step_00000001_*.pt")), weights_only=True)
    start = build(Config(**SMALL, **flags), CPU).state_dict()
    for part in ("generator", "discriminator", "average"):
        weights = [n for n, x in start.items() if n.startswith(part) and x.ndim > 1]
        assert weights and not all(torch.equal(state["states"][0][n], start[n]) for n in weights), part


def test_penalties_weigh_as_many_times_more_as_they_are_seldom(learn, dots):
    """The gradient of the discriminator at step 0 has it 1 time or 1,000 times."""
    flags = SMALL | {"loss": "wgan_gp", "gp": 10.0, "r1": 0.0, "r2": 0.0, "arch": "skip"}
    flags |= {"steps": 2, "log_every": 1, "sample_every": 1000, "augment": "none"}
    often, seldom = (learn(f"every{n}", **flags, penalty_every=n)[0] for n in (1, 1000))
    assert ["train/gp" in row for row in often] == [True, True, False]
    assert ["train/gp" in row for row in seldom] == [True, False, False]
    assert often[0]["train/gp"] == seldom[0]["train/gp"] > 0
    assert seldom[0]["train/d_grad_norm"] > 100 * often[0]["train/d_grad_norm"]


def test_the_average_is_of_the_generators_of_all_steps(learn, dots, monkeypatch):
    """After update s it is (1 − d) times the generator and d times what it was, d = (1 + s) / (10 + s)."""
    seen, steps = [], []
    real = update_average

    def watch(model, step, cfg):
        seen.append([p.detach().clone() for p in model.generator.parameters()])
        steps.append(step)
        real(model, step, cfg)

    monkeypatch.setattr(script, "update_average", watch)
    flags = SMALL | {"arch": "skip", "steps": 4, "learning_rate": 0.05, "beta1": 0.0, "ema": 0.2}
    _, folder = learn(**flags, sample_every=1000)
    assert steps == [0, 1, 2, 3]
    expected = [p.detach() for p in build(Config(**flags), CPU).average.parameters()]
    for weights, decay in zip(seen, (1 / 10, 2 / 11, 0.2, 0.2), strict=True):  # never above --ema
        expected = [decay * a + (1 - decay) * b for a, b in zip(expected, weights, strict=True)]
    file = next((folder / "checkpoints").glob("step_00000004_*.pt"))
    state = torch.load(file, weights_only=True)["states"][0]
    names = [name for name, _ in build(Config(**flags), CPU).average.named_parameters()]
    for name, value in zip(names, expected, strict=True):
        torch.testing.assert_close(state[f"average.{name}"], value, atol=1e-6, rtol=1e-4)
        if value.ndim > 1:
            assert not torch.allclose(state[f"average.{name}"], state[f"generator.{name}"], rtol=1e-3)


def test_bf16_on_a_cpu(learn, dots):
    flags = SMALL | {"steps": 3, "log_every": 1, "sample_every": 1000, "penalty_every": 2}
    full, half = (learn(p, **flags, precision=p)[0] for p in ("fp32", "bf16"))
    assert all(math.isfinite(value) for row in half for value in row.values())
    assert half[0]["train/d_loss"] != full[0]["train/d_loss"]
    assert half[0]["train/d_loss"] == pytest.approx(full[0]["train/d_loss"], rel=0.05)


def test_rows_do_not_depend_on_pictures(learn, dots, monkeypatch):
    monkeypatch.setattr(script, "training_pictures", TRAINING_PICTURES)
    monkeypatch.setattr(script, "film", FILM)
    flags = SMALL | {"steps": 3, "log_every": 1, "eval_every": 2, "spectral_norm": True}
    often, a = learn("often", **flags, sample_every=1)
    seldom, b = learn("seldom", **flags, sample_every=1000)
    assert often == seldom and len(often) == 4
    assert results(a) == results(b)
    assert len(media(a)["sample/random"]) == 4 and len(media(b)["sample/random"]) == 2
    frames = imageio.mimread(a / "media/sample/film/00000003.mp4", memtest=False)
    assert len(frames) == 4 + 4


RESUMED = {"steps": 9, "log_every": 1, "eval_every": 4, "save_every": 3, "sample_every": 2}
RESUMED |= {"penalty_every": 2, "spectral_norm": True, "ema": 0.9, "r1": 1.0, "r2": 1.0, "gp": 10.0}


def interrupt(monkeypatch, step: int, act) -> None:
    """Call act(run) in the middle of `step`."""
    real, count = Run.update, [-1]

    def update(self, loss):
        real(self, loss)
        count[0] += 1
        if count[0] == step:
            act(self)

    monkeypatch.setattr(Run, "update", update)


@pytest.mark.parametrize(("arch", "loss"), [("skip", "relativistic"), ("dcgan", "wgan_gp")])
def test_interrupted_equals_straight(learn, dots, monkeypatch, arch, loss):
    """One run is killed before its first checkpoint, preempted, and killed twice more, once at its end."""
    monkeypatch.setattr(script, "film", FILM)
    flags = SMALL | RESUMED | {"arch": arch, "loss": loss}
    _, straight = learn("straight", **flags)
    assert {name.rpartition("_")[0] for name in results(straight)} >= {"best", "step_00000009"}
    with killed("log", 2):
        learn(**flags)
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        interrupt(patch, 3, lambda run: os.kill(os.getpid(), signal.SIGTERM))
        learn(**flags)
    for method, step in (("save", 6), ("log", 9)):
        with killed(method, step):
            learn(**flags)
    _, folder = learn(**flags)
    status = status_of(folder)
    assert [segment["from_step"] for segment in status["segments"]] == [0, 0, 4, 6, 6]
    assert results(folder) == results(straight)
    files = {p.relative_to(straight): p.read_bytes() for p in straight.glob("media/**/*.*")}
    assert {p.relative_to(folder): p.read_bytes() for p in folder.glob("media/**/*.*")} == files
    assert {path.suffix for path in files} == {".png", ".mp4"}


def test_a_stop_file_ends_the_run_at_its_step(learn, dots, monkeypatch):
    def leave_stop_file(run: Run) -> None:
        (run.folder / STOP).touch()
        run._stop_looked = 0.0  # it looks once a second

    flags = SMALL | RESUMED | {"arch": "skip", "loss": "hinge"}
    with monkeypatch.context() as patch:
        interrupt(patch, 4, leave_stop_file)
        rows, folder = learn(**flags)
    assert (status_of(folder)["status"], status_of(folder)["step"]) == ("stopped", 5)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    # its weights are kept, though no checkpoint is due at this step
    (file,) = (folder / "checkpoints").glob("step_00000005_*.pt")
    assert torch.load(file, weights_only=True)["step"] == 5


def test_the_figures_of_the_test_part_come_from_the_best_weights(learn, dots, monkeypatch):
    values = iter([3.0, 1.0, 2.0, 5.0])
    real = evaluate

    def told(model, data, part, cfg, device):
        found = real(model, data, part, cfg, device)
        return found | {"train/kernel_distance": next(values)} if part == "val" else found

    monkeypatch.setattr(script, "evaluate", told)
    rows, folder = learn(**SMALL, steps=3, eval_every=1, sample_every=1000)
    kept = torch.load(next((folder / "checkpoints").glob("best_*.pt")), weights_only=True)
    assert kept["step"] == 1
    cfg = Config(**SMALL)
    model = build(cfg, CPU)
    model.load_state_dict(kept["states"][0])
    found = real(model, halves(), "test", cfg, CPU)
    assert {name: rows[-1][name] for name in found} == found


def test_one_step_from_the_weights_of_another_run(learn, dots):
    _, folder = learn(**SMALL, steps=1, sample_every=1000)
    rows, _ = learn("again", **SMALL, steps=1, sample_every=1000, checkpoint=str(folder))
    before = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert rows[0]["train/kernel_distance"] == before["train/kernel_distance_best"]
    with pytest.raises(UserError, match=r"--checkpoint=.*no weights of this model"):
        learn("other", **SMALL | {"width": 5}, steps=1, checkpoint=str(folder))


def test_warnings_are_told_at_the_end(learn, dots, monkeypatch, capsys):
    real = evaluate
    monkeypatch.setattr(script, "evaluate", lambda *args: real(*args) | {"val/diversity": 0.1})
    learn(**SMALL, steps=2, eval_every=1, sample_every=1000)
    said = " ".join(capsys.readouterr().err.split())
    assert "mode collapse: generated pictures vary 0.10 times as much as real ones" in said
    assert said.count("mode collapse") == 1, "once, of how it ended"


# ---- faults --------------------------------------------------------------------------------------------


def test_a_run_that_diverges_says_so_and_ends_well(faces, tmp_path, monkeypatch, few_scored, dots):
    flags = small_flags(faces, tmp_path) | {"learning_rate": 1e9, "steps": 40, "log_every": 1}
    monkeypatch.setattr(sys, "argv", ["gan_faces.py", *(f"--{k}={v}" for k, v in flags.items())])
    code = 0
    try:
        main(Config, train)
    except SystemExit as stop:
        code = stop.code or 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert status_of(folder)["status"] == "diverged" and status_of(folder)["step"] < 40
    assert code == 0


def small_flags(folder: Path, tmp_path: Path) -> dict:
    place = {"dataset": str(folder), "data_dir": str(tmp_path / "store"), "out": str(tmp_path / "runs")}
    more = {"device": "cpu", "threads": 1, "wandb": "disabled", "sample_every": 1000}
    return SMALL | place | more


def test_a_folder_of_sixty_pictures_is_enough(faces, tmp_path, dots, few_scored):
    metrics = train(Config(**small_flags(faces, tmp_path), epochs=1))
    assert metrics["step"] == 6 and math.isfinite(metrics["test/recall"])  # 48 pictures are six steps


@pytest.mark.parametrize(
    ("n", "flags", "message"),
    [
        (0, {}, r"--dataset=.*: no images found"),
        (20, {}, r"--dataset=.*20 different usable images left; at least 32 are needed"),
        (40, {}, r"--dataset=.*: 4 pictures are left for validation and 4 for the test; .* at least 6"),
        (60, {"batch_size": 49}, r"--batch_size=49: must be at most 48"),
        (60, {"dataset": "celeb"}, r"--dataset=celeb .*did you mean celeba\?"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused_before_a_folder_is_made(
    faces, tmp_path, n, flags, message
):
    folder = tmp_path / "some"
    folder.mkdir()
    for path in sorted(faces.iterdir())[:n]:
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises((DataError, UserError), match=message) as caught:
        train(Config(**small_flags(folder, tmp_path) | {"steps": 1} | flags))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.soak  # five starts
def test_kill_9_changes_nothing(faces, tmp_path):
    flags = small_flags(faces, tmp_path) | RESUMED | {"steps": 400, "eval_every": 100}
    flags |= {"save_every": 15, "log_every": 7, "sample_every": 100, "out": str(tmp_path)}
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "SLURM_"))}

    def start(name: str) -> subprocess.Popen:
        args = [f"--{k}={v}" for k, v in (flags | {"name": name}).items()]
        command = [sys.executable, str(ROOT / "research/gan_faces.py"), *args]
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start("straight").wait(300) == 0
    folder = tmp_path / "killed"
    for least in (30, 120, 260):  # not before a checkpoint of so many steps
        process, deadline = start("killed"), time.monotonic() + 120
        while not any(int(p.name[5:13]) >= least for p in folder.glob("checkpoints/step_*.pt")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert status_of(folder)["status"] == "running"
    assert start("killed").wait(300) == 0
    assert results(folder) == results(tmp_path / "straight")
