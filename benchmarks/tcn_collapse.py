"""Why a TCN as published breaks down late in training, and why the text that it writes ends in newlines.

    python benchmarks/tcn_collapse.py --dataset FILE          # about 5 minutes on a free core

The starting point is an exercise: the block of Bai et al. 2018 (norm="none": weight norm, ReLU, no
normalisation); whole lines as sequences, padded to the longest by newlines, which count in the loss; Adam
with its defaults and a constant learning rate. Each of SETTINGS trains the same small TCN on the same lines.
Every --every epochs it prints:

loss     nats per character of the lines themselves, without padding
peak     largest training loss of a batch since the row above
tail     share of newlines among the characters 101 … 200 of samples that begin after a newline
dead     share of units after a ReLU that are 0 at every position; with layer norm there is no ReLU: none
size     root mean square of the last block's output
update   largest root mean square of an update / learning rate, m / (√v + ε), since the row above
root v   median over the weights of Adam's √v, the size of gradients that it expects
"""

import itertools
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import race
from data import text
from research.common.commandline import main
from research.common.flags import require
from research.draw.charts import COLORS
from research.parts.charlm_models import TCN

SETTINGS = {
    "published": {},
    "padding masked": {"masked": True},
    "clipped at 1.0": {"clip": 1.0},
    "layer norm": {"norm": "layer"},
}
CHANNELS, BLOCKS, KERNEL, BATCH_SIZE = 64, 4, 3, 32
Step = tuple[float, float, float, float]  # epoch, loss, update and root v
DRAWN = 200  # characters of a sample: about three lines


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Train a TCN as published beside changed ones until the text is learnt by heart, and beyond."""

    dataset: str
    """a UTF-8 text file of prose in short lines; with pydoc, the embedded one, no break was seen"""
    lines: int = 96
    """how many lines are learnt, the first of the text's training part"""
    epochs: int = 600
    """passes over them"""
    learning_rate: float = 0.01
    """of Adam, constant"""
    every: int = 30
    """epochs between rows of the table"""
    only: str | None = None
    """one of the settings; default: all, one after the other"""
    seed: int = 0
    """of weights and order"""
    picture: str = "benchmarks/results/tcn_collapse.png"
    """where the curves go"""

    def __post_init__(self):
        known = self.only is None or self.only in SETTINGS
        require(known, self, "only", f"one of {', '.join(SETTINGS)}")


def rows(flags: Flags) -> tuple[Tensor, Tensor, int, int]:
    """Targets (N, T), whether each belongs to a line and not to its padding (N, T), V, and
    the newline's id.
    """
    splits = text.load(flags.dataset, "data/store", cut="lines")
    newline, starts = splits.alphabet.index("\n"), splits.train_starts[: flags.lines + 1].tolist()
    lines = [splits.train[a:b].long() for a, b in itertools.pairwise(starts)]
    y = nn.utils.rnn.pad_sequence(lines, batch_first=True, padding_value=newline)
    own = torch.arange(y.shape[1]) < torch.tensor([len(line) for line in lines])[:, None]
    return y, own, len(splits.alphabet), newline


def nats(model: TCN, y: Tensor, counted: Tensor, newline: int) -> Tensor:
    """The mean of −log p(character | a newline and the line so far) over the positions `counted` (N, T)."""
    x = F.pad(y, (1, 0), value=newline)[:, :-1]
    return F.cross_entropy(model(x)[counted], y[counted])


@torch.no_grad()
def look(model: TCN, y: Tensor, own: Tensor, newline: int) -> dict[str, float]:
    """Loss, share of newlines in the tail of samples, share of dead units, and size of activations."""
    outs, sizes = [], []
    hooks = [c.register_forward_hook(lambda *a: outs.append(a[2])) for b in model.blocks for c in b.convs]
    hooks.append(model.blocks[-1].register_forward_hook(lambda *a: sizes.append(a[2])))
    loss = nats(model, y, own, newline).item()
    for hook in hooks:
        hook.remove()
    dead = torch.cat([(h.amax((0, 1)) <= 0).float() for h in outs]).mean().item()
    rng, token, state = torch.Generator().manual_seed(0), torch.full((16,), newline), model.start(16, "cpu")
    sample = []
    for _ in range(DRAWN):
        logits, state = model.step(token, state)
        token = torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]
        sample.append(token)
    tail = (torch.stack(sample[DRAWN // 2 :]) == newline).float().mean().item()
    dead = dead if model.norm == "none" else math.nan
    return {"loss": loss, "tail": tail, "dead": dead, "size": sizes[0].square().mean().sqrt().item()}


def train(name: str, flags: Flags, norm="none", masked=False, clip=math.inf) -> list[Step]:
    """Train one setting and print its table; returns all of its steps."""
    y, own, vocab_size, newline = rows(flags)
    torch.manual_seed(flags.seed)
    model = TCN(vocab_size, CHANNELS, CHANNELS, BLOCKS, KERNEL, norm=norm)
    rng = torch.Generator().manual_seed(flags.seed)
    optimizer = torch.optim.Adam(model.parameters(), flags.learning_rate)
    (b1, b2), eps = optimizer.defaults["betas"], optimizer.defaults["eps"]
    counted = own if masked else torch.ones_like(own)
    steps, began = [], time.perf_counter()
    per_epoch = math.ceil(len(y) / BATCH_SIZE)
    print(f"\n{name}\nepoch    loss    peak   tail   dead   size  update  root v")
    for epoch in range(flags.epochs + 1):
        if epoch % flags.every == 0 or epoch == flags.epochs:
            at = look(model, y, own, newline)
            since = steps[-flags.every * per_epoch :] or [(0, math.nan, 0, 0)]
            peak, update = (max(step[i] for step in since) for i in (1, 2))
            print(
                f"{epoch:5d}  {at['loss']:6.3f}  {peak:6.2f}  {at['tail']:5.2f}  {at['dead']:5.2f}"
                f"  {at['size']:5.1f}  {update:6.2f}  {since[-1][3]:.0e}",
                flush=True,
            )
        if epoch == flags.epochs:
            break
        for some in torch.randperm(len(y), generator=rng).split(BATCH_SIZE):
            loss = nats(model, y[some], counted[some], newline)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            kept, n = [optimizer.state[p] for p in model.parameters()], len(steps) + 1
            m, v = (torch.cat([state[k].flatten() for state in kept]) for k in ("exp_avg", "exp_avg_sq"))
            root = (v / (1 - b2**n)).sqrt()
            update = (m / (1 - b1**n) / (root + eps)).square().mean().sqrt()
            steps.append((n / per_epoch, loss.item(), update.item(), root.median().item()))
    print(f"{time.perf_counter() - began:.0f} s", flush=True)
    return steps


def draw(runs: dict[str, list[Step]], path: str) -> None:
    """A picture of loss and size of updates over epochs, one above the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), dpi=100, layout="constrained")
    labels = "loss of a batch, nats per character", "size of an update / learning rate"
    for i, (ax, label) in enumerate(zip(figure.subplots(2, sharex=True), labels), 1):
        for color, (name, steps) in zip(COLORS, runs.items()):
            ax.plot([s[0] for s in steps], [s[i] for s in steps], color=color, linewidth=1, label=name)
        ax.set(yscale="log", ylabel=label)
        ax.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=9)
    figure.axes[-1].set_xlabel("epoch")
    figure.savefig(path)


def run(flags: Flags) -> None:
    race.begin(1, f"{flags.lines} lines", f"learning rate {flags.learning_rate:g}")
    names = [flags.only] if flags.only else SETTINGS
    draw({name: train(name, flags, **SETTINGS[name]) for name in names}, flags.picture)


if __name__ == "__main__":
    main(Flags, run)
