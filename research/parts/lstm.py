"""LSTM layers that compute in the requested precision."""

import torch
from torch import Tensor, nn


class LSTMLayers(nn.LSTM):
    """nn.LSTM, but float32 under autocast on CUDA.

    There torch computes it in half precision, also where bfloat16 was asked for (its
    aten/src/ATen/cudnn/AutocastRNN.cpp), and small gradients of a loss that is not scaled up become 0.
    """

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As nn.LSTM: x (B, T, C) → outputs (B, T, H), (hidden, cell), where batch_first."""
        kind = x.device.type
        if kind != "cuda" or not torch.is_autocast_enabled(kind):
            return super().forward(x, state)
        with torch.autocast(kind, enabled=False):
            return super().forward(x.float(), state and tuple(s.float() for s in state))
