"""LSTM layers: on a CPU they are nn.LSTM itself; their purpose shows only on CUDA (test_gpu.py)."""

import pytest
import torch
from torch import nn

from research.parts.lstm import LSTMLayers


@pytest.mark.parametrize("bf16", [False, True])
def test_on_a_cpu_they_are_those_of_torch(bf16):
    torch.manual_seed(0)
    ours, theirs = LSTMLayers(6, 8, 2, batch_first=True), nn.LSTM(6, 8, 2, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x, state = torch.randn(3, 5, 6), (torch.randn(2, 3, 8), torch.randn(2, 3, 8))
    for given in (None, state):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            (a, (h, c)), (b, (k, d)) = ours(x, given), theirs(x, given)
        assert all(torch.equal(p, q) for p, q in ((a, b), (h, k), (c, d)))
        assert a.dtype == (torch.bfloat16 if bf16 else torch.float32)


def test_on_cuda_they_leave_autocast(monkeypatch):
    """As if this tensor were on a GPU: nn.LSTM gets float32, outside of autocast."""
    seen = []

    class OnCuda(torch.Tensor):
        device = torch.device("cuda")

    def forward(self, x, state=None):
        seen.append((x.dtype, torch.is_autocast_enabled("cuda"), state and [s.dtype for s in state]))

    monkeypatch.setattr(nn.LSTM, "forward", forward)
    x, state = torch.zeros(2, 3, 4, dtype=torch.bfloat16), torch.zeros(1, 2, 4, dtype=torch.bfloat16)
    layers = LSTMLayers(4, 4, batch_first=True)
    torch.set_autocast_enabled("cuda", True)
    try:
        layers(x.as_subclass(OnCuda), (state, state))
        assert torch.is_autocast_enabled("cuda")
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert seen == [(torch.float32, False, [torch.float32] * 2)]
