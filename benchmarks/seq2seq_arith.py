"""Training samples per second of seq2seq_arith's plain LSTM against Keras's addition example.

    uv run --with keras python benchmarks/seq2seq_arith.py
    python benchmarks/seq2seq_arith.py --peer path/to/keras     # uv pip install --target=path/to/keras keras

Both learn sums of two three-digit numbers with an encoder and a decoder LSTM of 128 units. Keras's example
(keras.io/examples/nlp/addition_rnn) trains its model by `fit`, without reversing queries, which takes no
time. Our model is trained by the real functions of the script, in a loop without its log. Rounds of both
alternate (benchmarks/race.py). The input of our decoder is the true previous character, that of Keras's is
the encoder's last state at each character, so ours has one input product more. Our model is timed in both
precisions, Keras's in its default, float32. The time that each takes to make its training set is printed,
too: Keras makes 50,000 sums, our script all queries that exist. Keras computes
with torch unless KERAS_BACKEND names something else. It runs in a process of its own, which waits while ours
is timed: a folder made by `--target` holds a NumPy too, which may be newer than ours and which packages there
are compiled for. Without Keras only our model is timed. Without AVX-512 torch has no LSTM in bfloat16, and
our model is timed in float32 only.
"""

import itertools
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from benchmarks import race
from data import arithmetic
from research import seq2seq_arith as script
from research.common.commandline import main
from research.common.flags import require
from research.common.messages import UserError
from research.common.randomness import make_rng

CPU, DIGITS, WIDTH = torch.device("cpu"), 3, 128
N_SUMS = 50_000  # of Keras's example
CHARACTERS = "0123456789+ "


@dataclass(frozen=True, kw_only=True)
class Flags(race.JsonFlag):
    """Time training of the plain LSTM, beside Keras's where that is installed."""

    peer: str | None = None
    """folder that Keras was installed into; default: where this Python looks for packages"""
    threads: int = 1
    """CPU threads of torch"""
    steps: int = 60
    """updates of a round"""
    rounds: int = 6
    """rounds of each, in turn; the first of each is not counted"""

    def __post_init__(self):
        super().__post_init__()
        has_keras = self.peer is None or Path(self.peer, "keras/__init__.py").is_file()
        require(has_keras, self, "peer", "a folder that holds the package keras")
        for name in ("threads", "steps"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        require(self.rounds >= 2, self, "rounds", "at least 2")


def ours(
    flags: Flags, splits: arithmetic.ArithmeticSplits, batch_size: int, precision: str
) -> Callable[[], None]:
    """A function that runs a round of our training steps: the loop of `seq2seq_arith.train`
    without its log.
    """
    cfg = script.Config(digits=DIGITS, ops="+", batch_size=batch_size, hidden_dim=WIDTH, precision=precision)
    model, alphabet, step = script.build(cfg, splits.alphabet, CPU), splits.alphabet, itertools.count()
    optimizer = script.optimizer_of(model, cfg)
    order = torch.randperm(len(splits.train), generator=make_rng(0, 0, "order"))

    def round_() -> None:
        for _ in range(flags.steps):
            s = next(step)
            rows = order[torch.arange(s * batch_size, (s + 1) * batch_size) % len(order)]
            rng = make_rng(0, s, "train")
            batch = script.batch_of(splits.train.src[rows], splits.train.tgt[rows], None, rng, cfg, alphabet)
            loss = script.loss_fn(model, batch, rng, cfg)
            for group in optimizer.param_groups:
                group["lr"] = script.lr_at(s, cfg)
            model.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
            optimizer.step()

    return round_


def sums() -> tuple[np.ndarray, np.ndarray]:
    """N_SUMS different sums as one-hot arrays (N, 7, 12) and (N, 4, 12), made one after the
    other in Python.
    """
    seen, made = set(), ([], [])
    draw = lambda: random.randrange(10 ** random.randint(1, DIGITS))  # noqa: E731
    while len(seen) < N_SUMS:
        a, b = draw(), draw()
        if (pair := tuple(sorted((a, b)))) in seen:
            continue
        seen.add(pair)
        for text, width, out in ((f"{a}+{b}", 2 * DIGITS + 1, made[0]), (str(a + b), DIGITS + 1, made[1])):
            row = np.zeros((width, len(CHARACTERS)), dtype=bool)
            for i, char in enumerate(text.ljust(width)):
                row[i, CHARACTERS.index(char)] = True
            out.append(row)
    return np.array(made[0]), np.array(made[1])


@cache
def peer(batch_size: int, steps: int) -> Callable[[], None]:
    """A function that runs a round of `fit` of the example's model on some of its sums. It is made once."""
    import keras

    x, y = sums()
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((x.shape[1], len(CHARACTERS))),
            layers.LSTM(WIDTH),
            layers.RepeatVector(y.shape[1]),
            layers.LSTM(WIDTH, return_sequences=True),
            layers.Dense(len(CHARACTERS), activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    some = np.arange(steps * batch_size) % len(x)
    return lambda: model.fit(x[some], y[some], batch_size=batch_size, epochs=1, verbose=0)


# --------------------------------------------------------------------------------------- Keras's process


@contextmanager
def process_of_peer(folder: str | None) -> Iterator[ProcessPoolExecutor]:
    """The process that Keras runs in. It looks for packages in `folder` first, if one is given."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    before = list(sys.path)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        if folder is not None:
            sys.path.insert(1, str(Path(folder).resolve()))  # after our code; the new process copies the list
        pool.submit(os.getpid).result()
        sys.path[:] = before
        yield pool


def begin_peer(threads: int) -> str:
    """What to print about Keras, imported now, and its data. Raises ImportError if it, or its backend, is
    missing.
    """
    torch.set_num_threads(threads)
    import keras

    took = race.seconds(sums)
    return f"keras {keras.__version__} ({keras.backend.backend()}): {N_SUMS:,} sums in {took:.2f} s"


def peer_speed(batch_size: int, steps: int) -> float:
    """Samples per second in a round of Keras's."""
    return race.speed_of(peer(batch_size, steps), steps * batch_size)()


def run(flags: Flags) -> None:
    race.begin(flags.threads, f"LSTM {WIDTH}", f"{DIGITS}-digit sums")
    began = time.perf_counter()
    splits = arithmetic.load("+", DIGITS, 0.5)
    print(f"ours: {len(splits.train):,} training queries in {time.perf_counter() - began:.2f} s")
    with process_of_peer(flags.peer) as process:
        try:
            print(process.submit(begin_peer, flags.threads).result())
            has_keras = True
        except ImportError as error:
            if flags.peer:
                raise UserError(f"--peer={flags.peer}: Keras cannot be imported from it ({error})") from None
            print(f"no Keras ({error}): only ours is timed")
            has_keras = False
        for batch_size in (32, 128):
            samples = flags.steps * batch_size
            rounds = {f"ours {p}": ours(flags, splits, batch_size, p) for p in race.lstm_precisions()}
            contenders = {name: race.speed_of(round_, samples) for name, round_ in rounds.items()}
            if has_keras:
                contenders["keras"] = lambda n=batch_size: process.submit(peer_speed, n, flags.steps).result()
            print(f"batch {batch_size}")
            figures = race.alternate(contenders, flags.rounds, about=f"batch {batch_size}")
            race.report(figures, "samples/s", peer="keras")
            race.keep(flags, __file__, figures, "samples/s", peer="keras", variant=f"batch-{batch_size}")


if __name__ == "__main__":
    main(Flags, run)
