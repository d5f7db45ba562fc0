"""The β-VAE: known values of its objective, measures that mean what they say, training that learns."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributions as D
from torch.nn import functional as F

from data import images
from research import bvae_faces
from research.bvae_faces import (
    Config,
    beta_at,
    build,
    evaluate,
    loss_fn,
    lr_at,
    rec_floor,
    terms_of,
    to_float,
    train,
)
from research.common.randomness import make_rng
from research.measure import latents
from research.measure.latents import total_correlation

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SMALL = {"image_size": 32, "width": 4, "hidden_dim": 16, "latent_dim": 4, "batch_size": 8}
LEARN = SMALL | {
    "width": 8,
    "depth": 2,
    "hidden_dim": 32,
    "latent_dim": 8,
    "batch_size": 16,
    "learning_rate": 0.02,
    "steps": 240,
}
BAR = 0.4  # of the error of a model that ignores its input: what `train` must go below with LEARN


def gaussians(seed: int = 0, n: int = 6, d: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng), torch.randn(n, d, generator=rng)


def faces(n_train: int = 96, n: int = 24, factors: bool = True) -> images.ImageSplits:
    """Flat pictures of few colours at 32 pixels, easy to learn, whose factors are the colour's channels."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (n_train + 2 * n, 3))
    rows = np.broadcast_to((40 + 170 * truth[:, None, None]).astype(np.uint8), (len(truth), 32, 32, 3))
    parts = dict(zip(images.PARTS, np.split(rows.copy(), [n_train, n_train + n])))
    known = dict(zip(images.PARTS, np.split(truth.astype(np.float32), [n_train, n_train + n])))
    splits = {part: torch.from_numpy(x) for part, x in parts.items()}
    names = ("red", "green", "blue") if factors else ()
    return images.ImageSplits(
        "flat", "0" * 16, **splits, factor_names=names, factors=known if factors else None
    )


# ---- known values --------------------------------------------------------------------------------------


def test_all_zero_logits_cost_ln_2_a_pixel_and_kl_of_the_prior_is_0():
    x = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    rec, kl = terms_of(x, torch.zeros_like(x), torch.zeros(5, 7), torch.zeros(5, 7))
    assert rec.item() == pytest.approx(3 * 64 * 64 * math.log(2), rel=1e-6)
    assert rec.item() == pytest.approx(8517.39, abs=0.01)
    assert kl.shape == (7,) and kl.abs().max() == 0


def test_terms_equal_torch_distributions():
    rng = torch.Generator().manual_seed(1)
    x = (torch.rand(6, 3, 8, 8, generator=rng) > 0.5).float()
    x_logits, (mu, logvar) = 3 * torch.randn(6, 3, 8, 8, generator=rng), gaussians()
    rec, kl = terms_of(x, x_logits, mu, logvar)
    log_prob = D.Bernoulli(logits=x_logits).log_prob(x)  # (B, C, S, S)
    torch.testing.assert_close(rec, -log_prob.sum((1, 2, 3)).mean())
    q, p = D.Normal(mu, (logvar / 2).exp()), D.Normal(0.0, 1.0)
    torch.testing.assert_close(kl, D.kl_divergence(q, p).mean(0))


@pytest.mark.parametrize("beta", [0.25, 1.0, 4.0])
def test_loss_is_rec_plus_beta_kl_and_the_elbo_has_beta_1(beta):
    cfg = Config(**SMALL, beta=beta)
    model, x = build(cfg, CPU), torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    # at first all codes are near N(0, 1) and pixels near 0: nothing could be told apart
    with torch.no_grad():
        model.encoder[-1].weight *= 30
        model.decoder[0].weight *= 30
    loss, terms = loss_fn(model, x, make_rng(0, 5, "train"), cfg, 0, 96)
    assert set(terms) == {"rec_nats", "kl_nats", "elbo_nats"}
    noise = torch.randn(6, cfg.latent_dim, generator=make_rng(0, 5, "train"))
    mu, logvar = model.encode(x)
    x_logits = model.decode(mu + noise * (logvar / 2).exp())  # z ~ q(z|x)
    rec = F.binary_cross_entropy_with_logits(x_logits, x, reduction="none").sum((1, 2, 3)).mean()
    kl = D.kl_divergence(D.Normal(mu, (logvar / 2).exp()), D.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(terms["rec_nats"], rec)
    torch.testing.assert_close(terms["kl_nats"], kl)
    torch.testing.assert_close(loss, rec + beta * kl)
    torch.testing.assert_close(terms["elbo_nats"], -rec - kl)
    assert kl > 0 and terms["elbo_nats"] < 0


def test_capacity_is_the_distance_to_a_rising_target():
    cfg = Config(**SMALL, objective="capacity", beta=7.0, capacity=10.0, capacity_steps=20)
    model, x = build(cfg, CPU), torch.rand(6, 3, 32, 32)
    for step, target in ((0, 0.0), (5, 2.5), (20, 10.0), (500, 10.0)):
        loss, terms = loss_fn(model, x, make_rng(0, step, "train"), cfg, step, 96)
        expected = terms["rec_nats"] + 7 * abs(terms["kl_nats"] - target)
        torch.testing.assert_close(loss, expected)
    assert terms["kl_nats"] < 10  # so that the last one pulls up


def test_the_broadcast_decoder_knows_where_each_cell_is():
    cfg = Config(**SMALL, arch="broadcast")
    model = build(cfg, CPU)
    z = torch.randn(3, cfg.latent_dim)
    x_logits = model.decode(z)
    assert x_logits.shape == (3, 3, 32, 32)
    torch.testing.assert_close(model.decode(z[1:2]), x_logits[1:2])
    # beyond the reach of the padding only coordinates differ between cells
    inner = x_logits[0, :, 8:-8, 8:-8]
    assert inner.var(dim=(1, 2)).min() > 1e-8
    model.decoder.grid.zero_()
    inner = model.decode(z)[0, :, 8:-8, 8:-8]
    assert inner[:, ::2, ::2].var(dim=(1, 2)).max() < 1e-10  # without them all cells are alike
    rest = build(dataclasses.replace(cfg, arch="conv"), CPU)
    for one, other in zip(model.encoder.parameters(), rest.encoder.parameters(), strict=True):
        assert torch.equal(one, other)  # the choice of a decoder leaves the encoder as it was
    keys = set(model.state_dict())
    assert not any("grid" in key for key in keys)


@pytest.mark.parametrize("objective", ["beta", "tc", "capacity"])
def test_beta_goes_from_its_start_by_equal_ratios(objective):
    cfg = Config(**SMALL, beta=4.0, beta_start=64.0, beta_steps=10, objective=objective)
    assert [beta_at(s, cfg) for s in (0, 5, 10, 99)] == pytest.approx([64, 16, 4, 4])
    up = dataclasses.replace(cfg, beta=64.0, beta_start=4.0)
    assert beta_at(5, up) == pytest.approx(16)
    assert beta_at(3, dataclasses.replace(cfg, beta_start=None)) == 4
    model, x = build(cfg, CPU), torch.rand(6, 3, 32, 32)
    half, _ = loss_fn(model, x, make_rng(0, 5, "train"), cfg, 5, 96)
    fixed = dataclasses.replace(cfg, beta=16.0, beta_start=None)
    torch.testing.assert_close(half, loss_fn(model, x, make_rng(0, 5, "train"), fixed, 5, 96)[0])


def tc_by_definition(z, mu, logvar, weights):
    """E log q(z) − Σ_d E log q(z_d) of mixtures with weights (B, B), one row a code; in plain Python."""
    total = 0.0
    for i in range(len(z)):
        density = [
            [
                math.exp(-0.5 * (z[i, d] - mu[j, d]) ** 2 / math.exp(logvar[j, d]))
                / math.sqrt(2 * math.pi * math.exp(logvar[j, d]))
                for d in range(z.shape[1])
            ]
            for j in range(len(mu))
        ]
        joint = sum(w * math.prod(row) for w, row in zip(weights[i], density, strict=True))
        marginals = [
            sum(w * row[d] for w, row in zip(weights[i], density, strict=True)) for d in range(z.shape[1])
        ]
        total += math.log(joint) - sum(map(math.log, marginals))
    return total / len(z)


@pytest.mark.parametrize(
    ("sampling", "n", "own", "other"),
    [("stratified", 50, 1 / 50, 49 / 50 / 4), ("stratified", 5, 0.2, 0.2), ("weighted", 50, 0.2, 0.2)],
)
def test_total_correlation_by_definition(sampling, n, own, other):
    rng = torch.Generator().manual_seed(0)
    mu, logvar, noise = (torch.randn(5, 3, generator=rng) for _ in range(3))
    z = mu + noise * (logvar / 2).exp()
    weights = np.full((5, 5), other) + (own - other) * np.eye(5)
    assert weights.sum(1) == pytest.approx(1)
    expected = tc_by_definition(z.numpy(), mu.numpy(), logvar.numpy(), weights)
    assert total_correlation(z, mu, logvar, n, sampling).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sampling", ["stratified", "weighted"])
def test_total_correlation_of_known_codes(sampling):
    rng = torch.Generator().manual_seed(0)
    one = torch.randn(400, 1, generator=rng)
    narrow = torch.full((400, 2), -3.0)  # deviation 0.22
    draw = narrow.exp().sqrt() * torch.randn(400, 2, generator=rng)
    free = torch.randn(400, 2, generator=rng)
    twice = torch.cat([one, one], 1)  # both latents tell the same: that is all the information of one of them
    found = {
        name: total_correlation(mu + draw, mu, narrow, 400, sampling).item()
        for name, mu in (("free", free), ("twice", twice))
    }
    sd2 = 1 + math.exp(-3)
    expected = -0.5 * math.log(1 - 1 / sd2**2)  # of a Gaussian with that correlation
    assert found["free"] == pytest.approx(0.0, abs=0.2)
    assert found["twice"] == pytest.approx(expected, abs=0.15) and expected > 1
    silent = torch.zeros(400, 2)
    z = torch.randn(400, 2, generator=rng)
    assert total_correlation(z, silent, silent, 400, sampling).item() == pytest.approx(0, abs=1e-5)
    assert total_correlation(z[:1], silent[:1], silent[:1], 400, "weighted").item() == 0  # a single picture


def test_tc_is_the_elbo_plus_its_share_of_total_correlation():
    cfg = Config(**SMALL, objective="tc", beta=6.0)
    model, x = build(cfg, CPU), torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.encoder[-1].weight *= 10
    loss, terms = loss_fn(model, x, make_rng(0, 5, "train"), cfg, 5, 96)
    mu, logvar = model.encode(x)
    z = mu + torch.randn(6, cfg.latent_dim, generator=make_rng(0, 5, "train")) * (logvar / 2).exp()
    tc = total_correlation(z, mu, logvar, 96, "stratified")
    torch.testing.assert_close(terms["tc_nats"], tc)
    torch.testing.assert_close(loss, -terms["elbo_nats"] + 5 * tc)
    assert abs(tc) > 1e-3
    plain = loss_fn(model, x, make_rng(0, 5, "train"), Config(**SMALL, beta=1.0), 5, 96)[0]
    at_one = Config(**SMALL, objective="tc", beta=1.0)  # β = 1 is the VAE
    torch.testing.assert_close(loss_fn(model, x, make_rng(0, 5, "train"), at_one, 5, 96)[0], plain)


def test_without_beta_nothing_is_drawn_and_there_is_no_kl():
    cfg = Config(**SMALL, beta=0.0)
    model, x, rng = build(cfg, CPU), torch.rand(6, 3, 32, 32), make_rng(0, 5, "train")
    before = rng.get_state()
    loss, terms = loss_fn(model, x, rng, cfg, 0, 96)
    assert torch.equal(rng.get_state(), before)
    assert set(terms) == {"rec_nats"} and loss is terms["rec_nats"]
    mu, _ = model.encode(x)
    torch.testing.assert_close(loss, terms_of(x, model.decode(mu), mu, mu)[0])


def test_a_decoder_of_zero_weights():
    cfg = Config(**SMALL)
    model, x = build(cfg, CPU), torch.rand(6, 3, 32, 32)
    for weight in model.decoder.parameters():
        torch.nn.init.zeros_(weight)
    _, terms = loss_fn(model, x, make_rng(0, 0, "train"), cfg, 0, 96)
    assert terms["rec_nats"].item() == pytest.approx(3 * 32 * 32 * math.log(2), rel=1e-6)


def test_the_floor_of_the_reconstruction():
    grey = torch.full((3, 32, 32, 3), 128, dtype=torch.uint8)
    assert rec_floor(grey, CPU) == pytest.approx(3 * 32 * 32 * math.log(2), rel=1e-4)  # 128 is not quite half
    black_and_white = 255 * torch.randint(0, 2, (7, 32, 32, 3), dtype=torch.uint8)
    assert rec_floor(black_and_white, CPU) == 0
    some = torch.randint(0, 256, (300, 32, 32, 3), dtype=torch.uint8)  # more than a chunk
    x = to_float(some, CPU)
    perfect = terms_of(x, torch.logit(x, eps=1e-6), *gaussians())[0].item()
    assert rec_floor(some, CPU) == pytest.approx(perfect, rel=1e-3)
    assert rec_floor(some, CPU) < terms_of(x, torch.zeros_like(x), *gaussians())[0].item()


def test_learning_rate():
    cfg = Config(steps=1000, learning_rate=0.5)
    rates = [lr_at(step, cfg) for step in range(1001)]
    assert rates[0] == pytest.approx(0.005)
    assert rates[99] == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi * 0.099)))
    assert max(rates) == rates[99] < 0.5
    assert rates[500] == pytest.approx(0.25)
    assert 0 < rates[999] < 1e-5 and rates[1000] == pytest.approx(0, abs=1e-8)
    assert rates[:100] == sorted(rates[:100]) and rates[99:] == sorted(rates[99:], reverse=True)


# ---- the model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["patches", "conv", "broadcast"])
@pytest.mark.parametrize(
    ("size", "depth"), [(s, d) for s in (32, 64, 128) for d in range(1, s.bit_length() - 1)]
)
def test_shapes(size, depth, arch):
    cfg = Config(arch=arch, image_size=size, depth=depth, width=4, hidden_dim=5, latent_dim=2)
    model = build(cfg, CPU)
    x_logits, mu, logvar = model(torch.rand(2, 3, size, size), torch.zeros(2, 2))
    assert x_logits.shape == (2, 3, size, size) and mu.shape == logvar.shape == (2, 2)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in model.encoder) == depth
    narrow = next(m for m in model.encoder if isinstance(m, torch.nn.Linear)).in_features
    channels = {"patches": 4 + 2 * (depth - 1)}.get(arch, 8 if depth > 1 else 4)
    edge = size // 4 >> (depth - 1) if arch == "patches" else size >> depth
    assert narrow == channels * edge * edge


def test_new_blocks_change_nothing_and_train():
    block = bvae_faces.Block(4)
    x = torch.randn(2, 4, 8, 8)
    y = block(x)
    assert torch.equal(y, x)
    y.square().sum().backward()
    assert block.f[-1].weight.grad.abs().max() > 0


def test_the_pixels_of_a_patch_are_the_channels_of_its_cell():
    """The decoder's last step undoes the encoder's first one: a picture comes back in its place."""
    down, up, channels, edge = bvae_faces.patch_layers(Config(**SMALL, depth=2))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(up[-1](down[0](x)), x)
    assert (channels, edge) == (6, 4)


def test_muon_has_the_weights_and_adam_the_rest():
    model = build(Config(**SMALL), CPU)
    muon, adam = bvae_faces.optimizers(model, Config(**SMALL))
    held = [p for optimizer in (muon, adam) for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()} and len(held) == len(set(held))
    assert muon.param_groups[0]["lr"] == 0.02 and adam.param_groups[0]["lr"] == pytest.approx(0.003)
    assert all(p.ndim > 1 for p in muon.param_groups[0]["params"])
    (alone,) = bvae_faces.optimizers(model, Config(**SMALL, optimizer="adam"))
    assert len(alone.param_groups[0]["params"]) == len(held) and alone.param_groups[0]["lr"] == 0.002


def test_build_is_a_function_of_the_seed():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    a, b, c = (build(Config(**SMALL, seed=s), CPU).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    d = build(Config(**SMALL, seed=1), CPU).state_dict()
    for name in a:
        assert torch.equal(a[name], b[name]) and torch.equal(a[name], d[name])
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_to_float():
    batch = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).view(2, 4, 4, 3)
    x = to_float(batch, CPU)
    assert x.shape == (2, 3, 4, 4) and x.dtype == torch.float32
    assert x[1, 2, 3, 0] * 255 == batch[1, 3, 0, 2]
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert to_float(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8), CPU).max() == 1


def test_bf16_on_a_cpu():
    x = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    losses = {}
    for precision in ("fp32", "bf16"):
        cfg = Config(**SMALL, precision=precision)
        model = build(cfg, CPU)
        loss, terms = loss_fn(model, x, make_rng(0, 0, "train"), cfg, 0, 96)
        loss.backward()
        assert loss.dtype == terms["kl_nats"].dtype == torch.float32
        assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
        losses[precision] = loss.item()
    assert losses["bf16"] != losses["fp32"] == pytest.approx(losses["bf16"], rel=0.01)


# ---- measuring -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 4.0])
@pytest.mark.parametrize("factors", [True, False])
def test_evaluate(beta, factors):
    data, cfg = faces(8, 600, factors), Config(**SMALL, beta=beta)  # two chunks
    model = build(cfg, CPU)
    state = torch.random.get_rng_state()
    metrics = evaluate(model, data, "val", cfg, CPU, 0)
    assert evaluate(model, data, "val", cfg, CPU, 0) == metrics
    assert torch.equal(torch.random.get_rng_state(), state)
    names = {"loss", "rec_nats", "mse", "active_units"}
    names |= {"kl_nats", "elbo_nats", "gaussian_tc_nats"} if beta else set()
    names |= {"mig"} if factors else set()
    assert set(metrics) == {f"val/{name}" for name in names}
    with torch.no_grad():  # all in one, by hand
        x = to_float(data.val, CPU)
        mu, logvar = model.encode(x)
        mse = (torch.sigmoid(model.decode(mu)) - x).square().mean().item()
    assert metrics["val/mse"] == pytest.approx(mse, rel=1e-5)
    assert metrics["val/active_units"] == int(latents.active_units(mu).sum())
    if beta:
        kl = latents.kl_per_latent(mu, logvar).sum().item()
        assert metrics["val/kl_nats"] == pytest.approx(kl, rel=1e-4)
        assert metrics["val/loss"] == pytest.approx(metrics["val/rec_nats"] + beta * kl, rel=1e-5)
        assert metrics["val/elbo_nats"] == pytest.approx(-metrics["val/rec_nats"] - kl, rel=1e-5)
    else:
        assert metrics["val/loss"] == metrics["val/rec_nats"]
    other = evaluate(model, data, "test", cfg, CPU, 0)
    if factors:
        names |= {"dci_disentanglement", "dci_completeness", "dci_informativeness", "sap", "factor_vae"}
    assert {name.split("/")[1] for name in other} == names and all(k.startswith("test/") for k in other)
    assert other["test/mse"] != metrics["val/mse"]


def test_the_measures_of_a_code_that_is_the_truth():
    class Perfect(torch.nn.Module):
        """The codes are the colour's channels themselves, one for each latent."""

        def encode(self, x):
            mu = torch.cat([3 * x.mean((2, 3)), torch.zeros(len(x), 1)], 1)
            return mu, torch.full_like(mu, -5.0)

        def decode(self, z):
            return torch.logit((z[:, :3] / 3).clamp(1e-4, 1 - 1e-4))[..., None, None].expand(-1, 3, 32, 32)

        def forward(self, x, noise):
            mu, logvar = self.encode(x)
            return self.decode(mu), mu, logvar

    metrics = evaluate(Perfect(), faces(8, 600), "test", Config(**SMALL), CPU, 0)
    assert metrics["test/mse"] < 1e-6
    assert metrics["test/active_units"] == 3
    assert metrics["test/mig"] > 0.9 and metrics["test/sap"] > 0.9 and metrics["test/factor_vae"] == 1
    assert metrics["test/dci_disentanglement"] > 0.95 and metrics["test/dci_informativeness"] > 0.95


@pytest.mark.parametrize("beta", [0.0, 4.0])
def test_pictures_of_training_say_what_they_show(monkeypatch, beta):
    said = {}

    def note(make, *args, **kwargs):
        said.setdefault(make.__name__, []).append([*args[1:], *kwargs.values()])

    monkeypatch.setattr(bvae_faces, "picture", note)
    cfg = Config(**SMALL, beta=beta)
    model = build(cfg, CPU)
    with torch.no_grad():
        model.encoder[-1].weight[1:] = 0  # all latents but the first are those of the prior
        model.encoder[-1].bias[:] = 1 - torch.arange(8).clamp(max=1)
    bvae_faces.training_pictures(model, faces(8, 40), cfg, CPU)
    _, (_, drawn), (_, rows, columns, _) = said["grid"]
    if beta:
        assert drawn == "z ~ N(0, I)" and columns[0] == "-3"
        assert [row.split()[0] for row in rows if not row.endswith("\nsilent")] == ["z0"]
        assert [chart[-2:] for chart in said["bars"]] == [["KL, nats", "latent"]]
        assert said["histogram"][0][-1] == "KL, nats"
    else:
        assert drawn == "z ~ N(mean, sd²) of the codes; with β = 0 there is no prior"
        assert columns[0] == "-3 sd" and not any("silent" in row for row in rows)
    bvae_faces.interpolation(model, torch.zeros(4), torch.ones(4))
    labels, title = said["strip"][0][:2]
    assert (labels[0], labels[1], labels[-1]) == ("t = 0.00", "t = 0.13", "t = 1.00")
    assert title.startswith("straight from code to code")


# ---- training ------------------------------------------------------------------------------------------


@pytest.fixture
def learn(tmp_path, monkeypatch):
    """The real `train` on the flat pictures: rows of metrics.jsonl and the run's folder."""

    def run(factors: bool = True, **flags) -> tuple[list[dict], Path]:
        monkeypatch.setattr(bvae_faces, "load_data", lambda cfg: faces(factors=factors))
        name = f"run{len(list(tmp_path.iterdir()))}"
        train(Config(**flags, out=str(tmp_path), name=name, wandb="disabled", device="cpu", threads=1))
        rows = [json.loads(row) for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return rows, tmp_path / name

    return run


def blind_error() -> float:
    """The squared error of the best constant picture: what a model reaches that ignores its input."""
    x = to_float(faces().test, CPU)
    return (x - to_float(faces().train, CPU).mean(0)).square().mean().item()


VAL = {"val/loss", "val/rec_nats", "val/mse", "val/active_units"}
TRAIN = {"train/loss", "train/rec_nats", "train/learning_rate"}


@pytest.mark.parametrize(("beta", "factors"), [(4.0, True), (0.0, False)])
def test_training_learns_and_logs_what_the_table_says(learn, beta, factors):
    rows, folder = learn(factors, **LEARN, beta=beta, eval_every=80, sample_every=100, log_every=20)
    drawn = {"kl_nats", "elbo_nats"} if beta else set()
    val = VAL | {f"val/{name}" for name in drawn} | ({"val/mig"} if factors else set())
    val |= {"val/gaussian_tc_nats"} if beta else set()
    dci = {f"test/dci_{name}" for name in ("disentanglement", "completeness", "informativeness")}
    by_step = {row["step"]: set(row) - {"step", "epoch"} for row in rows}
    assert list(by_step) == sorted(by_step) and list(by_step)[-1] == 240
    for step, keys in by_step.items():
        expected = set()
        if step % 80 == 0:
            expected |= val | {"val/mse_best"}
        if step == 0:
            expected |= {"val/rec_floor_nats"}
        if step % 20 == 0 and step < 240:
            expected |= TRAIN | {f"train/{name}" for name in drawn}
        if step and step % 6 == 0:  # 96 pictures are six steps an epoch
            expected |= {"train/loss_epoch"}
        if step == 240:
            expected |= {name.replace("val/", "test/") for name in val}
            expected |= dci | {"test/sap", "test/factor_vae"} if factors else set()
        assert keys == expected, step
    assert [row["epoch"] for row in rows] == [round(row["step"] / 6, 6) for row in rows]

    best = [row["val/mse_best"] for row in rows if "val/mse_best" in row]
    seen = [row["val/mse"] for row in rows if "val/mse" in row]
    assert best == [min(seen[: i + 1]) for i in range(len(seen))]
    last, first = rows[-1], rows[0]
    assert last["test/mse"] < BAR * blind_error() < seen[0]
    gap = [row["val/rec_nats"] - first["val/rec_floor_nats"] for row in (first, last)]
    assert 0 < gap[1] < 0.4 * gap[0]
    assert last["train/loss_epoch"] < 0.9 * first["train/loss"]
    assert last["val/active_units"] >= 2

    pictures = {"sample/reconstructions", "sample/random", "latent/traversal"}
    pictures |= {"latent/kl_per_latent", "latent/kl_histogram"} if beta else set()
    media = {p.parent.relative_to(folder / "media").as_posix(): set() for p in folder.glob("media/*/*/*")}
    for path in folder.glob("media/*/*/*"):
        media[path.parent.relative_to(folder / "media").as_posix()].add(path.name)
        assert path.stat().st_size > 50
    expected = {key: {f"{s:08d}.png" for s in (0, 100, 200, 240)} for key in pictures}
    expected["sample/interpolation"] = expected["train/curve"] = {"00000240.png"}
    expected["sample/interpolation_video"] = {"00000240.mp4"}
    assert media == expected
    status = json.loads((folder / "status.json").read_text())
    assert (status["status"], status["step"], status["headline"]) == ("finished", 240, best[-1])


def test_the_bar_is_missed_by_a_decoder_that_is_not_trained(learn, monkeypatch):
    """An untrained part can't reach what `test_training_learns` demands."""

    def frozen(cfg, device):
        model = build(cfg, device)
        for weight in model.decoder.parameters():
            weight.requires_grad_(False)
        return model

    monkeypatch.setattr(bvae_faces, "build", frozen)
    rows, _ = learn(**LEARN, beta=0.0, eval_every=240, sample_every=1000)
    assert rows[-1]["test/mse"] > BAR * blind_error()


def test_one_step(learn):
    rows, folder = learn(**SMALL, steps=1, sample_every=0)
    assert [row["step"] for row in rows] == [0, 1]
    assert rows[0]["train/learning_rate"] == pytest.approx(Config().learning_rate / 100)
    kept = json.loads((folder / "config.json").read_text())
    assert (kept["family"], kept["headline"], kept["goal"]) == ("bvae_faces", "val/mse", "minimize")
    assert kept["flags"] == dataclasses.asdict(Config(**kept["flags"]))


def test_the_figures_of_the_test_part_come_from_the_best_weights(learn, monkeypatch):
    """At a huge learning rate the last weights are worse than the first: test/* must be those of the best."""
    rows, folder = learn(
        **SMALL, beta=0.0, optimizer="adam", learning_rate=100.0, steps=12, eval_every=4, sample_every=1000
    )
    values = {row["step"]: row["val/mse"] for row in rows if "val/mse" in row}
    assert values[12] > min(values.values()), "the test means nothing if the last is the best"
    kept = torch.load(next((folder / "checkpoints").glob("best_*.pt")), weights_only=True)
    assert values[kept["step"]] == min(values.values())
    cfg = Config(**SMALL, beta=0.0)
    model = build(cfg, CPU)
    model.load_state_dict(kept["states"][0])
    assert rows[-1]["test/mse"] == evaluate(model, faces(), "test", cfg, CPU, 0)["test/mse"]
