"""A text VAE's decoder as a model for `charlm_sampling.generate`, writing sentences that end.

Shapes  B sentences, T tokens, D latents, V vocabulary. Codes and tokens lie on the model's device.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from data.sentences import BOS, EOS, PAD, UNK
from research.parts.charlm_sampling import Decoding, generate


class Writer:
    """The decoder of a TextVAE, together with the codes z (B, D) of the sentences that it will write.

    The state of a sentence is the LSTM's state, the code, and whether the sentence has ended: after EOS only
    EOS follows. BOS, PAD and UNK are never written.
    """

    def __init__(self, model: Any, z: Tensor | None, n: int = 1):
        """z: codes (B, D), or None for a language model, which has none; n: how many sentences that one
        writes.
        """
        self.model, self.head = model, model.head
        self.z = z if z is not None and z.shape[1] else None
        self.n = n if z is None else len(z)

    def start(self, batch_size: int, device: torch.device | str) -> list[tuple[Tensor, Tensor]]:
        z = self.z
        assert z is None or len(z) == batch_size, f"{batch_size} sentences, but {len(z)} codes"
        h, c = self.model.first_state(z, batch_size)
        kept = self.head.weight.new_zeros(batch_size, 0) if z is None else z
        return [(h, c), (kept, torch.zeros(batch_size, 1, dtype=torch.bool, device=device))]

    def read(self, tokens: Tensor, state: list) -> tuple[Tensor, list]:
        """tokens (B, T), T ≥ 1 → logits (B, V) of what follows, state."""
        for token in tokens.unbind(1):
            logits, state = self.step(token, state)
        return logits, state

    def step(self, token: Tensor, state: list) -> tuple[Tensor, list]:
        """token (B,) → logits (B, V) of what follows, state."""
        (h, c), (z, ended) = state
        layer = self.model.decoder
        x = torch.cat([self.model.embedding(token), z], 1)
        h, c = torch.lstm_cell(
            x, (h, c), layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0
        )
        logits = self.head(h).float()
        logits[:, [PAD, BOS, UNK]] = -math.inf
        ended = ended | (token == EOS)[:, None]
        only = torch.full_like(logits, -math.inf)
        only[:, EOS] = 0.0
        return torch.where(ended, only, logits), [(h, c), (z, ended)]


@torch.no_grad()
def write_sentences(
    writer: Writer,
    how: Decoding,
    rng: torch.Generator | Sequence[torch.Generator],
    longest: int,
    start: Sequence[int] = (),
) -> Tensor:
    """Ids (B, len(start) + longest) of a sentence for each code, on the CPU; after an EOS only EOS follows.

    start: ids with which each sentence begins. Contrastive search and --no_repeat also look at what follows
    the end of a sentence, but have no choice there.
    """
    device = writer.head.weight.device
    prompt = torch.tensor([[BOS, *start]], device=device).expand(writer.n, -1)
    made = generate(writer, prompt, longest, how, rng)
    return torch.cat([prompt[:, 1:], made], 1).cpu()


@torch.no_grad()
def rebuilt(model: nn.Module, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Sentences reconstructed from their codes: tokens (B, T), lengths (B,) → ids (B, T + 1), on the CPU.

    The code is the mean of q(z|x), and each token is the most probable after those before it.
    """
    mu, _ = model.encode(tokens, lengths)
    how = Decoding(strategy="greedy")
    return write_sentences(Writer(model, mu), how, torch.Generator(), tokens.shape[1] + 1)
