"""LSTM layers that compute in float32 where torch's bfloat16 LSTM fails."""

import torch
from torch import Tensor, nn


def in_float32(kind: str) -> bool:
    """Whether LSTM layers on a device of this kind compute in float32, whatever autocast asks for.

    On CUDA torch would compute them in float16, even if bfloat16 was requested (its
    aten/src/ATen/cudnn/AutocastRNN.cpp), and small gradients of a loss that is not scaled up would become 0.
    On processors without AVX-512, oneDNN has no bfloat16 LSTM and would stop with a RuntimeError.
    """
    return kind == "cuda" or (
        kind == "cpu" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    )


class LSTMLayers(nn.LSTM):
    """nn.LSTM, but computed in float32 under autocast where `in_float32` says so."""

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As nn.LSTM: with batch_first, x (B, T, C) → outputs (B, T, H), (hidden, cell)."""
        kind = x.device.type
        if not torch.is_autocast_enabled(kind) or not in_float32(kind):
            return super().forward(x, state)
        with torch.autocast(kind, enabled=False):
            return super().forward(x.float(), state and tuple(s.float() for s in state))
