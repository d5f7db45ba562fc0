"""The reader of faces: scaling, losses, determinism, where it is stored; and whether it can read."""

import numpy as np
import pytest
import torch

from data import images, synthetic
from research.parts import face_reader
from research.parts.face_reader import FACTORS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "N_IMAGES", 1200)
        yield images.load("synthetic", str(tmp_path_factory.mktemp("store")), 32)


def outputs_of(factors):
    """The output of a perfect reader for factors (N, F)."""
    columns = []
    for factor, column in zip(FACTORS, torch.from_numpy(factors).T, strict=True):
        if factor.labels:
            columns.append(20.0 * torch.nn.functional.one_hot(column.long(), len(factor.labels)))
        else:
            columns.append((2 * (column - factor.low) / (factor.high - factor.low) - 1)[:, None])
    return torch.cat(columns, 1)


def test_perfect_outputs_are_read_as_the_factors_and_cost_nothing():
    factors = synthetic.sample_factors(3, np.arange(50))
    out = outputs_of(factors)
    assert face_reader.loss_fn(out, torch.from_numpy(factors)) < 1e-6
    shown = np.zeros((50, 32, 32, 3), np.uint8)
    found = face_reader.read(lambda x: out, shown)
    np.testing.assert_allclose(found, factors, atol=1e-4)
    assert max(face_reader.errors(lambda x: out, shown, factors).values()) < 1e-4
    off = factors.copy()
    off[:, 0] += 3  # degrees
    off[:25, synthetic.FACTOR_NAMES.index("hat")] = 1 - off[:25, synthetic.FACTOR_NAMES.index("hat")]
    off_by = face_reader.errors(lambda x: out, shown, off)
    assert off_by["yaw"] == pytest.approx(3, rel=1e-3) and off_by["hat"] == 0.5
    apart = face_reader.difference(off, factors)
    assert apart[:, 0] == pytest.approx(3 / 120) and apart.sum() == pytest.approx(50 * 3 / 120 + 25)


def test_blur_keeps_half_of_the_pictures_sharp_and_their_mean():
    x = torch.rand(200, 3, 32, 32)
    y = face_reader.blur(x, torch.Generator().manual_seed(0))
    sharp = (x == y).flatten(1).all(1).float().mean()
    assert 0.35 < sharp < 0.65
    assert y.var() < 0.9 * x.var()
    torch.testing.assert_close(x.mean(), y.mean(), atol=1e-3, rtol=0)


def test_a_reader_is_trained_once_and_kept(data, tmp_path, monkeypatch):
    monkeypatch.setattr(face_reader, "STEPS", 2)
    one, digest = face_reader.load(data, tmp_path)
    monkeypatch.setattr(face_reader, "train", lambda data: pytest.fail("trained again"))
    other, again = face_reader.load(data, tmp_path)
    assert digest == again and len(digest) == 8
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_damaged_reader_is_made_anew_the_same(data, tmp_path, monkeypatch):
    monkeypatch.setattr(face_reader, "STEPS", 2)
    _, digest = face_reader.load(data, tmp_path)
    (file,) = tmp_path.glob("readers/*/best_*.pt")
    file.write_bytes(file.read_bytes()[:-100])
    assert face_reader.load(data, tmp_path)[1] == digest
    assert len(list(tmp_path.glob("readers/*/best_*.pt"))) == 1


def test_where_nothing_can_be_written_it_is_not_kept(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(face_reader, "STEPS", 2)
    (tmp_path / "readers").write_text("a file in the way")
    _, digest = face_reader.load(data, tmp_path)
    assert "the reader of faces is not kept" in " ".join(capsys.readouterr().err.split())
    assert face_reader.load(data, tmp_path / "else")[1] == digest


def test_a_short_training_already_tells_yaw_and_background(data, monkeypatch):
    monkeypatch.setattr(face_reader, "STEPS", 100)
    reader = face_reader.train(data)
    off_by = face_reader.errors(reader, data.test.numpy(), data.factors["test"])
    assert off_by["yaw"] < 28  # always saying 0 has 34.6
    assert off_by["background"] < 0.15  # 0.29


@pytest.mark.soak
def test_the_real_reader_reads(tmp_path):
    data = images.load("synthetic", str(tmp_path), 64)
    off_by = face_reader.errors(face_reader.load(data, tmp_path)[0], data.test.numpy(), data.factors["test"])
    assert off_by["yaw"] < 5 and off_by["hat"] < 0.01 and off_by["background"] < 0.03
