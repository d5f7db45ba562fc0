"""Images per second of vae_mnist in training, against PyTorch's own VAE example in the same run.

    python benchmarks/vae_mnist.py --peer path/to/examples/vae --data_dir data/store --threads 1
    python benchmarks/vae_mnist.py --peer path/to/examples/vae --race_steps 1000

--peer is the folder `vae` of github.com/pytorch/examples, with its main.py unchanged: model (784-400-20),
loss, optimiser, and its loader, which decodes every picture by itself; only its printing and its search for a
GPU are turned off. Our script uses the same model and batch size, and takes pictures by index from uint8
ones, as in training. Blocks of both alternate (benchmarks/race.py). Without --peer only our script is timed,
on MNIST, or with --dataset=digits on the small embedded digits.

With --race_steps both are trained to the end with two latents: the example for its ten epochs, our default
model for this number of steps. It prints the seconds of training, without reading the data, and the test
−ELBO.
"""

import dataclasses
import gzip
import itertools
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal
from unittest import mock

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks import race
from data import digits
from research import vae_mnist
from research.common.commandline import main
from research.common.flags import require
from research.common.randomness import make_rng


@dataclass(frozen=True, kw_only=True)
class Flags(race.JsonFlag):
    """Time training steps of vae_mnist, alone or against PyTorch's example."""

    peer: str | None = None
    """folder `vae` of a checkout of pytorch/examples"""
    dataset: Literal["mnist", "digits"] = "mnist"
    """what ours learns; digits, which need no download, only without --peer"""
    data_dir: str = "data/store"
    """where MNIST/raw lies"""
    threads: int = 1
    """CPU threads of torch"""
    batch_size: int = 128
    """pictures per step"""
    steps: int = 60
    """steps per block"""
    blocks: int = 5
    """blocks of each, in turn; the first of each is not counted"""
    compiled: bool = True
    """also time ours in bf16 after torch.compile, which takes a minute to begin"""
    race_steps: int | None = None
    """train both with two latents, ours for so many steps, instead of timing blocks"""
    peer_epochs: int = 10
    """race: passes over the data of the example; its own default is 10"""

    def __post_init__(self):
        super().__post_init__()
        require(self.peer is None or self.dataset == "mnist", self, "dataset", "mnist with --peer")
        require(self.peer_epochs >= 1, self, "peer_epochs", "at least 1")


def ours(
    flags: Flags, data: digits.DigitSplits, cfg: vae_mnist.Config, model: vae_mnist.VAE
) -> Callable[[], None]:
    """A function that runs a block of our training steps: the loop of `vae_mnist.train` without its log."""
    device = torch.device("cpu")
    optimizer = torch.optim.Adam(model.parameters(), cfg.learning_rate, betas=(0.9, 0.99), fused=True)
    order, step = torch.randperm(len(data.train), generator=make_rng(0, 0, "order")), itertools.count()

    def block() -> None:
        for _ in range(flags.steps):
            s = next(step)
            rows = order[torch.arange(s * flags.batch_size, (s + 1) * flags.batch_size) % len(order)]
            x = vae_mnist.to_float(data.train[rows], device)
            loss, _ = vae_mnist.loss_fn(model, x, make_rng(0, s, "train"), cfg)
            for group in optimizer.param_groups:
                group["lr"] = vae_mnist.lr_at(s, cfg)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return block


def peer_module(flags: Flags) -> ModuleType:
    """The example's main.py as a module whose loaders read our files, with `print` disabled."""
    from torchvision import datasets

    real, arguments = datasets.MNIST, ["main.py", f"--batch-size={flags.batch_size}", "--no-accel"]
    with tempfile.TemporaryDirectory() as root:  # torchvision needs unpacked files, or it would download
        (raw := Path(root, "MNIST/raw")).mkdir(parents=True)
        for file in digits.FILES:
            packed = digits.place("mnist", Path(flags.data_dir)) / f"{file}.gz"
            (raw / file).write_bytes(gzip.decompress(packed.read_bytes()))
        from_root = lambda _, **options: real(root, **options | {"download": False})  # noqa: E731
        with mock.patch.object(sys, "argv", arguments), mock.patch.object(datasets, "MNIST", from_root):
            return race.module_of(Path(flags.peer, "main.py"))


def peer(flags: Flags) -> Callable[[], None]:
    """A function that runs a block of the example's own `train`, on batches from its own loader."""
    module = peer_module(flags)
    whole = module.train_loader

    class Some:
        """The next `steps` batches of the example's loader, which starts again at its end."""

        dataset = whole.dataset
        batches = itertools.chain.from_iterable(itertools.repeat(whole))

        def __iter__(self):
            return itertools.islice(self.batches, flags.steps)

        def __len__(self) -> int:
            return flags.steps

    module.train_loader = Some()
    return lambda: module.train(1)


def train_both(flags: Flags, data: digits.DigitSplits) -> None:
    """Print seconds of training and test −ELBO of our model and of the example, both with two latents."""
    cfg, device = vae_mnist.Config(batch_size=flags.batch_size, steps=flags.race_steps), torch.device("cpu")
    model = vae_mnist.build(cfg, device)
    took = race.seconds(ours(dataclasses.replace(flags, steps=cfg.steps), data, cfg, model))
    cost = -vae_mnist.evaluate(model, data.test, "test", cfg, device)["test/elbo_nats"]
    print(f"ours    {took:6.1f} s   test -ELBO {cost:.2f}   ({cfg.steps} steps)", flush=True)
    figures, losses = {"ours": [took]}, {"ours": cost}
    if flags.peer:
        peer_took, peer_cost = train_peer(flags, data)
        print(
            f"example {peer_took:6.1f} s   test -ELBO {peer_cost:.2f}   ({flags.peer_epochs} epochs)",
            end="; ",
        )
        print(f"ours took {took / peer_took:.2f} of it")
        figures["example"], losses["example"] = [peer_took], peer_cost
    race.keep(flags, __file__, figures, "s", peer="example", variant="race", losses=losses)


def train_peer(flags: Flags, data: digits.DigitSplits) -> tuple[float, float]:
    """Seconds of the example's epochs with two latents, and its test −ELBO."""
    module = peer_module(flags)
    torch.manual_seed(1)  # the example's own seed
    module.model.fc21, module.model.fc22, module.model.fc3 = (
        torch.nn.Linear(*size) for size in ((400, 2), (400, 2), (2, 400))
    )
    module.optimizer = torch.optim.Adam(module.model.parameters(), lr=1e-3)
    took = race.seconds(lambda: [module.train(epoch) for epoch in range(1, flags.peer_epochs + 1)])
    x = vae_mnist.to_float(data.test, torch.device("cpu"))
    with torch.no_grad():
        x_recon, mu, logvar = module.model(x)
        return took, float(module.loss_function(x_recon, x, mu, logvar)) / len(x)


def run(flags: Flags) -> None:
    data = digits.load(flags.dataset, flags.data_dir)
    if flags.race_steps:
        race.begin(flags.threads, f"batch {flags.batch_size}", "two latents")
        train_both(flags, data)
        return
    race.begin(flags.threads, f"batch {flags.batch_size}", "784-400-20")
    blocks = {}
    for how in ("fp32", "bf16", *(["bf16 compiled"] if flags.compiled else [])):
        cfg = vae_mnist.Config(  # the example's model and learning rate
            width=400,
            depth=1,
            latent_dim=20,
            batch_size=flags.batch_size,
            learning_rate=0.001,
            precision=how.split()[0],
        )
        model = vae_mnist.build(cfg, torch.device("cpu"))
        if how.endswith("compiled"):
            model = torch.compile(model)
        blocks[f"ours {how}"] = ours(flags, data, cfg, model)
    if flags.peer:
        blocks["peer"] = peer(flags)
    pictures = flags.steps * flags.batch_size
    contenders = {name: race.speed_of(block, pictures) for name, block in blocks.items()}
    figures = race.alternate(contenders, flags.blocks)
    race.report(figures, "images/s", peer="peer")
    race.keep(flags, __file__, figures, "images/s", peer="peer")


if __name__ == "__main__":
    main(Flags, run)
