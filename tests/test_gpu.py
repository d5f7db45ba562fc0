"""What only a CUDA device can show."""

import pytest
import torch

from research import bvae_faces, gan_faces
from research.parts.lstm import LSTMLayers

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("script", [bvae_faces, gan_faces], ids=["bvae_faces", "gan_faces"])
def test_resume_is_bit_exact_on_cuda(tmp_path, monkeypatch, script):
    """10 straight steps equal 5 and a resumed 5, under --deterministic: rows and checkpoint digests."""
    from data import synthetic

    monkeypatch.setattr(synthetic, "N_IMAGES", 400)
    common = {
        "batch_size": 16,
        "width": 8,
        "image_size": 32,
        "log_every": 1,
        "eval_every": 5,
        "save_every": 5,
        "data_dir": str(tmp_path),
        "wandb": "disabled",
        "device": "cuda",
        "deterministic": True,
    }
    if script is gan_faces:
        common |= {"penalty_every": 2, "spectral_norm": True}
    script.train(script.Config(steps=10, out=str(tmp_path), name="straight", **common))
    cfg = script.Config(steps=10, out=str(tmp_path), name="resumed", **common)
    with monkeypatch.context() as patch:
        patch.setattr("research.common.run.Run.stopping", property(lambda run: run._saved_step == 5))
        script.train(cfg)
    script.train(cfg)
    straight, resumed = ((tmp_path / name) for name in ("straight", "resumed"))
    assert (straight / "metrics.jsonl").read_bytes() == (resumed / "metrics.jsonl").read_bytes()
    names = [{p.name for p in (d / "checkpoints").iterdir()} for d in (straight, resumed)]
    assert names[0] == names[1]


def test_lstm_keeps_small_gradients_under_autocast():
    """In half precision, which torch uses for nn.LSTM whatever is requested, a gradient of 1e-9 is 0."""
    torch.manual_seed(0)
    layers, x = LSTMLayers(8, 16, batch_first=True).cuda(), torch.randn(4, 5, 8, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        out, state = layers(x)
        again, _ = layers(x.bfloat16(), tuple(s.bfloat16() for s in state))
    assert out.dtype == again.dtype == torch.float32
    (1e-9 * out.sum()).backward()
    assert all(p.grad.any() for p in layers.parameters())
