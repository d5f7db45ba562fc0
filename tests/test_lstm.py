"""LSTM layers: nn.LSTM itself, but float32 where torch has no bfloat16 LSTM (CUDA: also test_gpu.py)."""

import pytest
import torch
from torch import nn

from research.parts.lstm import LSTMLayers

CAPABILITY = torch.backends.cpu.get_cpu_capability()


def pair():
    """Ours and torch's with the same weights, an input and a state."""
    torch.manual_seed(0)
    ours, theirs = LSTMLayers(6, 8, 2, batch_first=True), nn.LSTM(6, 8, 2, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, torch.randn(3, 5, 6), (torch.randn(2, 3, 8), torch.randn(2, 3, 8))


def check_equal(one, other, dtype):
    (a, (h, c)), (b, (k, d)) = one, other
    assert all(torch.equal(p, q) for p, q in ((a, b), (h, k), (c, d)))
    assert a.dtype == dtype


def test_without_autocast_they_are_those_of_torch():
    ours, theirs, x, state = pair()
    for given in (None, state):
        check_equal(ours(x, given), theirs(x, given), torch.float32)


@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT"])
def test_a_processor_without_avx512_computes_them_in_float32(capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    ours, theirs, x, state = pair()
    for given in (None, state):
        with torch.autocast("cpu", torch.bfloat16):
            found = ours(x, given)
            assert torch.is_autocast_enabled("cpu")
        check_equal(found, theirs(x, given), torch.float32)


def test_why_the_processor_matters():
    """With AVX-512 torch computes them in bfloat16, and so do ours; with AVX2 torch stops."""
    ours, theirs, x, state = pair()
    with torch.autocast("cpu", torch.bfloat16):
        if CAPABILITY == "AVX2":
            with pytest.raises(RuntimeError, match="LSTM"):
                theirs(x, state)
        else:
            if not CAPABILITY.startswith("AVX512"):
                pytest.skip("neither AVX2 nor AVX-512: whether nn.LSTM has bfloat16 here is not known")
            check_equal(ours(x, state), theirs(x, state), torch.bfloat16)


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
