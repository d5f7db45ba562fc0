"""The classifier of digits: determinism, where it is stored; and the two scores that use it."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from data import digits
from research.parts import digit_classifier


@pytest.fixture(scope="module")
def data():
    return digits.load("digits", "nowhere")


def test_it_is_trained_once_and_kept(data, tmp_path, monkeypatch):
    monkeypatch.setattr(digit_classifier, "STEPS", 2)
    one, digest = digit_classifier.load(data, tmp_path)
    other = dataclasses.replace(data, content_hash="f" * 16)
    with monkeypatch.context() as patch:
        patch.setattr(digit_classifier, "train", lambda data: pytest.fail("trained again"))
        again, same = digit_classifier.load(data, tmp_path)
        with pytest.raises(pytest.fail.Exception):
            digit_classifier.load(other, tmp_path)
    assert digest == same and len(digest) == 8
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    (file,) = tmp_path.glob("readers/*/best_*.pt")
    file.write_bytes(file.read_bytes()[:-100])  # damaged: made anew, the same
    assert digit_classifier.load(data, tmp_path)[1] == digest
    assert len(list(tmp_path.glob("readers/*/best_*.pt"))) == 1


def test_where_nothing_can_be_written_it_is_not_kept_and_the_same(data, tmp_path, monkeypatch):
    monkeypatch.setattr(digit_classifier, "STEPS", 2)
    (tmp_path / "file").write_text("no folder")
    _, digest = digit_classifier.load(data, tmp_path / "file")
    assert digest == digit_classifier.load(data, tmp_path)[1]


def test_a_short_training_already_tells_the_digits(data, monkeypatch):
    monkeypatch.setattr(digit_classifier, "STEPS", 60)
    model = digit_classifier.train(data)
    assert digit_classifier.accuracy(model, data.test, data.test_labels) > 0.85
    assert digit_classifier.accuracy(model, data.test, (data.test_labels + 1) % 10) < 0.1


class Sees(nn.Module):
    """A classifier whose features are the first 64 pixels and whose logits are the first ten, times 100."""

    def forward(self, x):
        return 100 * x[:, 0, :10].float() / 255

    def features(self, x):
        return x.flatten(1)[:, : digit_classifier.N_FEATURES]


def pictures(first_row: torch.Tensor) -> torch.Tensor:
    x = torch.zeros(len(first_row), 28, 28, dtype=torch.uint8)
    x[:, 0, : first_row.shape[1]] = (255 * first_row).round().to(torch.uint8)
    return x


def test_the_inception_score_of_known_pictures():
    state = torch.random.get_rng_state()
    sure = pictures(torch.eye(10).repeat(20, 1))
    score, sd = digit_classifier.inception_score(Sees(), sure)
    assert score == pytest.approx(10, rel=1e-3) and math.isnan(sd)  # one split
    assert digit_classifier.inception_score(Sees(), sure[:1].repeat(50, 1, 1))[0] == pytest.approx(
        1
    )  # one class
    assert digit_classifier.inception_score(Sees(), pictures(torch.zeros(50, 10)))[0] == pytest.approx(
        1
    )  # unsure
    mean, sd = digit_classifier.inception_score(Sees(), sure.repeat(10, 1, 1))
    assert 9.5 < mean <= 10 and 0 <= sd < 0.2
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_frechet_distance_of_known_pictures():
    rng = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (400, 28, 28), generator=rng).to(torch.uint8)
    assert digit_classifier.frechet(Sees(), real, real) == pytest.approx(0, abs=1e-6)
    moved = real.clone()
    moved[:, 0, 0] = real[:, 0, 0] // 2  # one feature, in [0, 1], with half the spread around half the mean
    a, b = (x[:, 0, 0].double() / 255 for x in (real, moved))
    found = digit_classifier.frechet(Sees(), moved, real)
    assert found == pytest.approx(float((a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2), rel=0.05)


@pytest.mark.soak
def test_the_real_classifier_tells_digits(data, tmp_path):
    model, _ = digit_classifier.load(data, tmp_path)
    assert digit_classifier.accuracy(model, data.test, data.test_labels) > 0.97
