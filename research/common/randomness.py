"""Randomness as a function: everything that is drawn comes from a generator seeded by (seed, step, stream).

There is no state to save: what is drawn at a step does not depend on what was drawn before it, or whether.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

STREAMS = ("train", "eval", "pictures", "init", "order")  # independent sources of randomness at one step


def seed_of(*parts: Any) -> int:
    """A 63-bit seed that is a function of `parts`."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def make_rng(seed: int, step: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator for everything drawn at `step`: a function of (seed, step, stream), never a state."""
    assert stream in STREAMS, f"{stream} is none of {STREAMS}"
    return torch.Generator(device).manual_seed(seed_of(seed, step, stream))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within this, layers draw their initial weights as a function of `seed`, and nothing else is disturbed.

    torch's layers draw from its global generator on the CPU, which is put back at the end.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(make_rng(seed, 0, "init").get_state())
        yield
