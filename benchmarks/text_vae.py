"""Sentences per second of text_vae's training, against a plain padded loop around the same networks.

    python benchmarks/text_vae.py --threads 1 --dataset=shakespeare

The plain loop is written as in introductions (timbmg/Sentence-VAE, train.py): a DataLoader that returns one
sentence after the other in random order, padded to the longest of the data set; log_softmax and a loss over
all positions, in which those after the end of a sentence are ignored; `loss.item()` at each step; float32.
Our loop is what `train` does: a batch has sentences of similar length and is as long as the longest of them.
Blocks of all alternate (benchmarks/race.py). Without AVX-512 there is
no LSTM in bfloat16, and only float32 is timed.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import race
from data import sentences
from research import text_vae
from research.common.commandline import main
from research.common.randomness import make_rng


@dataclass(frozen=True, kw_only=True)
class Flags(race.JsonFlag):
    """Time training steps of text_vae against a plain loop."""

    threads: int = 1
    """CPU threads of torch"""
    dataset: str = "verses"
    """as of research/text_vae.py"""
    data_dir: str = "data/store"
    """where named data sets lie"""
    level: Literal[sentences.LEVELS] = "char"
    """char, word or bpe"""
    batch_size: int = 64
    """sentences per step"""
    steps: int = 16
    """steps per block"""
    blocks: int = 7
    """blocks of each, in turn; the first of each is not counted"""
    device: str = "cpu"
    """cpu or cuda"""


class Padded(Dataset):
    """Sentences, which it returns one at a time: ids (T,), padded with PAD to the longest of all; their
    number.
    """

    def __init__(self, part: sentences.Part):
        self.part, self.longest = part, int(part.lengths.max())

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        ids = self.part.ids(i)
        row = np.full(self.longest, sentences.PAD, np.int64)
        row[: len(ids)] = ids
        return torch.from_numpy(row), len(ids)


def config(flags: Flags, precision: str = "fp32") -> text_vae.Config:
    where = {"dataset": flags.dataset, "data_dir": flags.data_dir, "level": flags.level}
    return text_vae.Config(**where, batch_size=flags.batch_size, precision=precision)


def ours(flags: Flags, data: sentences.SentenceSplits, precision: str) -> Callable[[], None]:
    """A function that runs a block of our training steps."""
    cfg, device = config(flags, precision), torch.device(flags.device)
    model = text_vae.build(cfg, data.vocabulary, device)
    optimizer = torch.optim.Adam(model.parameters(), cfg.learning_rate, fused=True)
    part = text_vae.Sentences(data.train, device)
    order = text_vae.order_of_epoch(torch.from_numpy(data.train.lengths), 0, cfg)
    done = 0

    def work() -> None:
        nonlocal done
        for step in range(done, done + flags.steps):
            batch = part.batch(order[step % len(order)].to(device))
            loss, _ = text_vae.loss_fn(model, batch, make_rng(0, step, "train", device), cfg, 1.0, True)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
            optimizer.step()
        done += flags.steps
        if flags.device == "cuda":
            torch.cuda.synchronize()

    return work


def plain(flags: Flags, data: sentences.SentenceSplits) -> Callable[[], None]:
    """A function that runs a block of steps of the plain loop."""
    cfg, device = config(flags), torch.device(flags.device)
    model = text_vae.build(cfg, data.vocabulary, device)
    optimizer = torch.optim.Adam(model.parameters(), cfg.learning_rate)
    loader = DataLoader(Padded(data.train), flags.batch_size, shuffle=True, drop_last=True)
    batches: Any = iter(loader)

    def work() -> None:
        nonlocal batches
        for _ in range(flags.steps):
            found = next(batches, None)
            if found is None:
                batches = iter(loader)
                found = next(batches)
            tokens, lengths = (t.to(device) for t in found)
            edge = tokens.new_full((len(tokens), 1), sentences.PAD)
            read = torch.cat([edge + sentences.BOS, tokens], 1)
            wanted = torch.cat([tokens, edge], 1).scatter(1, lengths[:, None], sentences.EOS)
            noise = torch.randn(len(tokens), cfg.latent_dim, device=device)
            logits, mu, logvar = model(tokens, lengths, read, noise)
            log_p = F.log_softmax(logits, dim=-1)
            rec = F.nll_loss(
                log_p.flatten(0, 1), wanted.flatten(), ignore_index=sentences.PAD, reduction="sum"
            )
            kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
            loss = (rec + kl) / len(tokens)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
            optimizer.step()
            loss.item()

    return work


def run(flags: Flags) -> None:
    data = text_vae.load_data(config(flags))
    race.begin(flags.threads, f"batch {flags.batch_size}, {data.name} by {flags.level}", device=flags.device)
    blocks = {f"ours {how}": ours(flags, data, how) for how in race.lstm_precisions(flags.device)}
    blocks["plain"] = plain(flags, data)
    contenders = {name: race.speed_of(work, flags.steps * flags.batch_size) for name, work in blocks.items()}
    figures = race.alternate(contenders, flags.blocks)
    race.report(figures, "sentences/s", peer="plain")
    race.keep(flags, __file__, figures, "sentences/s", peer="plain")


if __name__ == "__main__":
    main(Flags, run)
