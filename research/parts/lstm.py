"""LSTM layers that compute in the requested precision."""

import torch
from torch import Tensor, nn


class LSTMLayers(nn.LSTM):
    """nn.LSTM, but computed in float32 under autocast on CUDA.

    There torch would compute it in float16, even if bfloat16 was requested (its
    aten/src/ATen/cudnn/AutocastRNN.cpp), and small gradients of a loss that is not scaled up would become 0.
    """

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As nn.LSTM: with batch_first, x (B, T, C) → outputs (B, T, H), (hidden, cell)."""
        kind = x.device.type
        if kind != "cuda" or not torch.is_autocast_enabled(kind):
            return super().forward(x, state)
        with torch.autocast(kind, enabled=False):
            return super().forward(x.float(), state and tuple(s.float() for s in state))
