"""An experiment: K runs of vae_mnist trained as one stacked model. Do members learn the same as solo runs?

    python benchmarks/stacked_vae.py --threads 1

Every member has its own seed, β and learning rate. One step of all members is one `torch.func.vmap` of the
gradient over stacked weights, and one step of an Adam that is written out with a learning rate per member.
After --check_steps steps, the weights are compared with those of K solo loops. The control is a solo loop
whose Adam is not the fused one: it rounds differently and is otherwise the same. Then member-steps per second
are measured, in blocks that alternate with the solo loop (benchmarks/race.py).
"""

import copy
import dataclasses
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from benchmarks import race
from data import digits
from research.common.commandline import main
from research.common.randomness import make_rng
from research.measure import latents
from research.vae_mnist import Config, bernoulli_nats, build, loss_fn, lr_at, to_float

CPU = torch.device("cpu")
BETAS = (0.9, 0.99)  # of Adam, as in vae_mnist.train
EPS = 1e-8


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Train K members as one stacked model and as K solo runs; compare weights and speed."""

    threads: int = 1
    """CPU threads of torch"""
    width: int = 512
    """units of the first hidden layer"""
    depth: int = 3
    """hidden layers"""
    batch_size: int = 128
    """pictures per step and member"""
    largest: int = 32
    """members at most: 1, 2, 4 ... up to this"""
    check_steps: int = 50
    """steps after which the weights are compared, with four members"""
    seconds: float = 4.0
    """length of a timed block, about"""
    blocks: int = 3
    """timed blocks of each, in turn"""


def members(flags: Flags, k: int) -> list[Config]:
    """The configurations of K members: seeds, β and learning rates all differ."""
    cfg = Config(width=flags.width, depth=flags.depth, batch_size=flags.batch_size)
    return [
        dataclasses.replace(cfg, seed=i, beta=0.5 * (1 + i % 5), learning_rate=0.001 * (1 + i % 3))
        for i in range(k)
    ]


def rows(cfg: Config, step: int, n: int) -> Tensor:
    """The indices of the pictures in the member's batch, which depend only on its seed and the step."""
    return torch.randint(n, (cfg.batch_size,), generator=make_rng(cfg.seed, step, "order"))


class Solo:
    """One run by itself: the update of vae_mnist.train."""

    def __init__(self, cfg: Config, images: Tensor, fused: bool = True):
        self.cfg, self.images, self.t = cfg, images, 0
        self.model = build(cfg, CPU)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), cfg.learning_rate, betas=BETAS, fused=fused
        )

    def step(self) -> None:
        cfg = self.cfg
        x = to_float(self.images[rows(cfg, self.t, len(self.images))], CPU)
        loss, _ = loss_fn(self.model, x, make_rng(cfg.seed, self.t, "train"), cfg)
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(self.t, cfg)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.t += 1


class Stacked:
    """The same K runs as one model whose weights have a leading axis of members."""

    def __init__(self, cfgs: list[Config], images: Tensor):
        self.cfgs, self.images, self.t = cfgs, images, 0
        models = [build(cfg, CPU) for cfg in cfgs]
        self.params, _ = stack_module_state(models)
        self.params = {name: p.detach() for name, p in self.params.items()}
        self.m = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.v = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.beta = torch.tensor([cfg.beta for cfg in cfgs])
        shell = copy.deepcopy(models[0]).to("meta")

        def loss_of(params: dict[str, Tensor], x: Tensor, noise: Tensor, beta: Tensor) -> Tensor:
            x_logits, mu, logvar = functional_call(shell, params, (x, noise))
            rec = bernoulli_nats(x, x_logits).sum() / len(x)
            return rec + beta * latents.kl_per_latent(mu, logvar).sum()

        self.gradients = vmap(grad_and_value(loss_of))

    @torch.no_grad()
    def step(self) -> None:
        cfgs, t = self.cfgs, self.t
        x = torch.stack([to_float(self.images[rows(c, t, len(self.images))], CPU) for c in cfgs])
        noise = torch.stack(
            [torch.randn(c.batch_size, c.latent_dim, generator=make_rng(c.seed, t, "train")) for c in cfgs]
        )
        grads, _ = self.gradients(self.params, x, noise, self.beta)
        lr = torch.tensor([lr_at(t, c) for c in cfgs])
        self.t += 1
        for name, p in self.params.items():  # Adam, Kingma & Ba 2015, algorithm 1
            g, m, v = grads[name], self.m[name], self.v[name]
            m.lerp_(g, 1 - BETAS[0])
            v.lerp_(g.square(), 1 - BETAS[1])
            root = (v / (1 - BETAS[1] ** self.t)).sqrt_().add_(EPS)
            size = (lr / (1 - BETAS[0] ** self.t)).view([len(cfgs)] + [1] * (p.ndim - 1))
            p.sub_(size * m / root)


def furthest(flags: Flags, images: Tensor) -> dict[int, tuple[float, float]]:
    """step -> the largest difference of a weight from that of its solo run, divided by the largest weight of
    its tensor: for the stacked model, and for the control.
    """
    cfgs, found = members(flags, 4), {}
    stacked = Stacked(cfgs, images)
    solos, controls = ([Solo(cfg, images, fused) for cfg in cfgs] for fused in (True, False))
    for t in range(1, 1 + flags.check_steps):
        for one in (stacked, *solos, *controls):
            one.step()
        if t not in (1, 10, flags.check_steps):
            continue
        apart = [0.0, 0.0]
        for i, (solo, control) in enumerate(zip(solos, controls, strict=True)):
            others = dict(control.model.named_parameters())
            for name, p in solo.model.named_parameters():
                for j, other in enumerate((stacked.params[name][i], others[name])):
                    apart[j] = max(apart[j], float((other - p).detach().abs().max() / p.detach().abs().max()))
        found[t] = tuple(apart)
    return found


def rate(one: Solo | Stacked, count: int, seconds: float) -> float:
    """Member-steps per second, measured for about `seconds`."""
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or not done:
        one.step()
        done += count
    return done / (time.perf_counter() - began)


def run(flags: Flags) -> None:
    sizes = f"batch {flags.batch_size}, width {flags.width}, depth {flags.depth}"
    race.begin(flags.threads, sizes)
    images = digits.load("digits", "").train
    for t, (apart, control) in furthest(flags, images).items():
        print(f"step {t}: weights differ from solo by {apart:.1e} (control {control:.1e}), relative")
    k = 1
    while k <= flags.largest:
        stacked, solo = Stacked(members(flags, k), images), Solo(members(flags, 1)[0], images)
        stacked.step(), solo.step()  # a step is enough to warm up
        contenders = {
            "solo": partial(rate, solo, 1, flags.seconds / 2),
            "stacked": partial(rate, stacked, k, flags.seconds),
        }
        figures = race.alternate(contenders, flags.blocks, warm_up=0, about=f"K {k}")
        speed = race.Spread.of(figures["stacked"]).median
        ratio = race.Spread.of_ratios(figures["stacked"], figures["solo"])
        print(
            f"K {k:3d}: {speed:7.1f} member-steps/s, x{ratio.median:.2f} of solo "
            f"(min {ratio.low:.2f}, max {ratio.high:.2f})",
            flush=True,
        )
        k *= 2


if __name__ == "__main__":
    main(Flags, run)
