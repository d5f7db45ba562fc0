"""Randomness as a function: everything that is drawn comes from a generator seeded by (seed, step, stream).

There is no state to save: what is drawn at a step does not depend on whether or what was drawn before.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

STREAMS = ("train", "eval", "pictures", "init", "order")  # independent sources of randomness at one step


def seed_of(*parts: Any) -> int:
    """A 63-bit seed that is a function of `parts`."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def make_rng(
    seed: int, step: int, stream: str, device: torch.device | str = "cpu", of: Sequence[str | int] = ()
) -> torch.Generator:
    """The generator for everything drawn at `step`: a function of (seed, step, stream, of), never a state.

    of: what the draws are for, if there are several at a step, such as a song, a strategy and a number. One
    more or one less of them does not change the draws of the others.
    """
    assert stream in STREAMS, f"{stream} is none of {STREAMS}"
    parts = [json.dumps(list(of))] if of else []  # JSON, because it writes different lists differently
    return torch.Generator(device).manual_seed(seed_of(seed, step, stream, *parts))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within this context, layers draw initial weights as a function of `seed`; nothing else is affected.

    torch's layers draw from its global generator on the CPU, whose state is restored at the end.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(make_rng(seed, 0, "init").get_state())
        yield
