"""Images per second of vae_mnist in training, against PyTorch's own VAE example in the same run.

    python benchmarks/vae_mnist.py --peer path/to/examples/vae --data_dir data/store --threads 1

--peer is the folder `vae` of github.com/pytorch/examples, with its main.py as it is: the model (784-400-20),
loss and optimiser, and its loader, which decodes every picture on its own; only its printing and its look for
a GPU are off. Ours is the same model at the same batch size, with pictures taken by index from uint8 as in
training. Blocks of both alternate, so that the ratio holds when the machine's speed drifts. Without --peer
only ours is timed.
"""

import gzip
import importlib.util
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from data import digits
from research import vae_mnist
from research.common.commandline import main
from research.common.run import make_rng


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Time training steps of vae_mnist, alone or against PyTorch's example."""

    peer: str | None = None
    """folder `vae` of a checkout of pytorch/examples"""
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


def ours(flags: Flags, data: digits.DigitSplits, precision: str) -> Callable[[], None]:
    """A block of our training steps at the peer's sizes: the loop of `vae_mnist.train` without its log."""
    cfg = vae_mnist.Config(width=400, depth=1, latent_dim=20, batch_size=flags.batch_size,
                           learning_rate=0.001, precision=precision)  # fmt: skip
    device = torch.device("cpu")
    model = vae_mnist.build(cfg, device)
    optimizer = torch.optim.Adam(model.parameters(), cfg.learning_rate, fused=True)
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


def peer(flags: Flags) -> Callable[[], None]:
    """A block of the example's own `train`, on batches of its own loader."""
    spec = importlib.util.spec_from_file_location("peer_main", Path(flags.peer) / "main.py")
    module = importlib.util.module_from_spec(spec)
    from torchvision import datasets

    real, arguments = datasets.MNIST, ["main.py", f"--batch-size={flags.batch_size}", "--no-accel"]
    arguments.append("--log-interval=1000000")
    quiet = mock.patch("builtins.print")
    with tempfile.TemporaryDirectory() as root:  # torchvision wants its files unpacked, or would download
        (raw := Path(root, "MNIST/raw")).mkdir(parents=True)
        for file in digits.FILES:
            packed = digits.place("mnist", Path(flags.data_dir)) / f"{file}.gz"
            (raw / file).write_bytes(gzip.decompress(packed.read_bytes()))
        here = lambda _, **options: real(root, **options | {"download": False})  # noqa: E731
        with quiet, mock.patch.object(sys, "argv", arguments), mock.patch.object(datasets, "MNIST", here):
            spec.loader.exec_module(module)
    whole = module.train_loader

    class Some:
        """The next `steps` batches of the example's loader, which begins anew when it is through."""

        dataset = whole.dataset
        batches = itertools.chain.from_iterable(itertools.repeat(whole))

        def __iter__(self):
            return itertools.islice(self.batches, flags.steps)

        def __len__(self) -> int:
            return flags.steps

    module.train_loader = Some()

    def block() -> None:
        with quiet:
            module.train(1)

    return block


def run(flags: Flags) -> None:
    torch.set_num_threads(flags.threads)
    data = digits.load("mnist", flags.data_dir)
    contenders = {f"ours {precision}": ours(flags, data, precision) for precision in ("fp32", "bf16")}
    if flags.peer:
        contenders["peer"] = peer(flags)
    speed: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(flags.blocks):
        for name, block in contenders.items():
            began = time.perf_counter()
            block()
            if i:
                speed[name].append(flags.steps * flags.batch_size / (time.perf_counter() - began))
    print(f"torch {torch.__version__}, cpu, {flags.threads} threads, batch {flags.batch_size}, 784-400-20")
    for name, values in speed.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        line = f"{name:10s} {middle:7.0f} images/s (min {low:.0f}, max {high:.0f})"
        if flags.peer:
            ratios = [a / b for a, b in zip(values, speed["peer"], strict=True)]
            middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
            line += f"   x{middle:.2f} of the peer (min {low:.2f}, max {high:.2f})"
        print(line)


if __name__ == "__main__":
    main(Flags, run)
