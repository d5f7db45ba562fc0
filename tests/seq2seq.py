"""What the tests of seq2seq_arith share: flags of small runs, pictures of a mixture, and fixtures to import.

A test file takes a fixture with `from tests.seq2seq import store as store`; none is active by itself.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from research import seq2seq_arith as script
from research.parts import digit_classifier as judge
from research.parts import seq2seq_mistakes
from research.parts.seq2seq_models import N_PICTURES
from research.tasks import seq2seq_arith as tasks

CPU = torch.device("cpu")
ALPHABET = "0123456789+- "
Q, A, V, H = 5, 3, 13, 12  # of two digits, and units
SMALL = {"hidden_dim": H, "n_heads": 2, "device": "cpu", "threads": 1, "wandb": "disabled"}
ONE = {"digits": 1, "ops": "+", "train_fraction": 0.8, "batch_size": 16}  # 76, 4 and 20 queries
LEARN = {"steps": 160, "hidden_dim": 48, "batch_size": 32, "learning_rate": 0.02, "eval_every": 80}
MODES = ("text_to_text", "image_to_text", "text_to_image")


def named(flags: dict) -> str:
    """A short name of the flags for a test's own."""
    names = (str(value) if key in ("model", "mode") else key for key, value in flags.items() if value)
    return "-".join(names) or "plain"


@pytest.fixture
def short_lesson(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classifier that reads drawn answers learns only for a moment; tests of its own train it longer."""
    monkeypatch.setattr(judge, "STEPS", 8)


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Black squares for charts, which take longer than a short training."""
    for module, name in (
        (seq2seq_mistakes, "map_picture"),
        (tasks, "bars"),
        (tasks, "heatmap"),
    ):
        monkeypatch.setattr(module, name, lambda *_: np.zeros((8, 8, 3), np.uint8))


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, no_charts: None) -> None:
    """Turn off samples and charts, which are tested elsewhere."""
    monkeypatch.setattr(script, "samples", lambda *_: {})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A --data_dir for a whole test file, so that each classifier is trained only once."""
    return tmp_path_factory.mktemp("store")


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def mixture_nats(net: torch.nn.Module, drawn: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """−log p(drawn) (B, A) of a mixture of Bernoulli pictures, by torch.distributions and in double
    precision.
    """
    pixels = torch.distributions.Bernoulli(logits=net.pictures.double(), validate_args=False)
    chosen = torch.distributions.Categorical(logits=logits.double())
    mixture = torch.distributions.MixtureSameFamily(
        chosen, torch.distributions.Independent(pixels, 1), validate_args=False
    )
    return -mixture.log_prob(drawn.double().flatten(2))


def scattered(net: torch.nn.Module, size: float = 1.0) -> torch.nn.Module:
    """A model that draws gets pictures that are not alike; any other model stays as it is."""
    if net.pictures is not None:
        net.pictures.data = size * torch.randn(N_PICTURES, 784, generator=torch.Generator().manual_seed(5))
    return net
