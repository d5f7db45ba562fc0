"""Features of pictures: they are fixed, depend only on the picture, and their distances grow with damage."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data import synthetic
from research.measure.sample_quality import kernel_distance, precision_recall
from research.parts import face_reader
from research.parts import picture_features as features

N = 256


@pytest.fixture(scope="module")
def faces():
    """2 N rendered faces of a size; each size is rendered only once."""
    rendered = {}

    def of_size(size):
        if size not in rendered:
            factors = synthetic.sample_factors(0, np.arange(2 * N))
            rendered[size] = torch.from_numpy(synthetic.render(factors, size))
        return rendered[size]

    return of_size


def to_uint8(x):
    """(N, 3, S, S) in 0 … 1 as pictures."""
    return (255 * x).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def blurred(pictures, share):
    x = face_reader.to_float(pictures)
    return to_uint8(torch.lerp(x, F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1), share))


def noisy(pictures, deviation):
    x = face_reader.to_float(pictures)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return to_uint8(x + deviation / 255 * noise)


def with_shuffled_patches(pictures, n):
    """Each picture cut into n×n patches, which are put together in another order."""
    rng = torch.Generator().manual_seed(0)
    size = pictures.shape[1] // n
    patches = pictures.unfold(1, size, size).unfold(2, size, size)  # (N, n, n, 3, size, size)
    patches = patches.permute(0, 1, 2, 4, 5, 3).flatten(1, 2)
    shuffled = torch.stack([one[torch.randperm(n * n, generator=rng)] for one in patches])
    rows = shuffled.unflatten(1, (n, n)).transpose(2, 3)  # (N, n, size, n, size, 3)
    return rows.reshape(pictures.shape)


DAMAGE = {"blur": (blurred, (0.5, 1)), "noise": (noisy, (16, 32)), "patches": (with_shuffled_patches, (2, 4))}


@pytest.mark.parametrize("size", [64, 32])
def test_the_kernel_distance_grows_with_damage_and_with_fewer_modes(faces, size):
    of_all = features.random_features(faces(size))
    of_real, of_other = of_all.split(N)
    floor = max(  # the largest of 20 between halves of the real faces
        kernel_distance(*of_all[torch.randperm(2 * N, generator=torch.Generator().manual_seed(i))].split(N))
        for i in range(20)
    )
    for name, (damage, amounts) in DAMAGE.items():
        found = [
            kernel_distance(features.random_features(damage(faces(size)[N:], amount)), of_real)
            for amount in amounts
        ]
        assert 2 * floor < found[0] < found[1], name

    # n faces repeated; the mean over which they are, as some 64 stand for all faces better than others do.
    # That is less than real sets may differ by chance: recall tells it for certain.
    found = [
        np.mean([kernel_distance(few.repeat(N // n, 1), of_real) for few in of_other.split(n)])
        for n in (N, 64, 16)
    ]
    assert found[0] < found[1] < found[2] and found[2] > floor
    repeated = precision_recall(of_other[:64].repeat(N // 64, 1), of_real)
    assert repeated.precision > 0.7 and repeated.recall < 0.01


def test_helpers_do_what_they_say(faces):
    pictures = faces(32)[:8]
    assert torch.equal(with_shuffled_patches(pictures, 1), pictures)
    for n in (2, 4):
        shuffled = with_shuffled_patches(pictures, n)
        assert not torch.equal(shuffled, pictures)
        assert torch.equal(shuffled.flatten(1).sort().values, pictures.flatten(1).sort().values)
    assert torch.equal(blurred(pictures, 0), pictures) and torch.equal(noisy(pictures, 0), pictures)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_features_are_those_of_a_picture_alone_at_every_size(faces, size):
    pictures = torch.from_numpy(synthetic.render(synthetic.sample_factors(1, np.arange(25)), size))
    found = features.random_features(pictures)
    assert found.shape == (25, features.N_FEATURES) and found.dtype == torch.float32
    assert found.isfinite().all() and not found.requires_grad
    assert torch.equal(found, features.random_features(pictures))
    torch.testing.assert_close(features.random_features(pictures[21:22]), found[21:22], atol=1e-5, rtol=1e-4)
    assert found.std(0).min() > 1e-4  # none is the same for all faces


def test_the_random_network_is_the_same_whatever_was_drawn_before():
    torch.manual_seed(1)
    one = features.RandomNetwork()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    other = features.RandomNetwork()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert features.digest(one) == features.digest(other) == features.digest(features.random_network())
    # On every machine: the weights come from uniform draws by exact steps. Another digest here means that
    # scores can no longer be compared with earlier ones.
    assert features.digest(one) == "f806892f"


def test_the_digest_tells_weights_apart():
    one = features.RandomNetwork()
    assert len(features.digest(one)) == 8
    with torch.no_grad():
        one.stages[2][0, 0, 0, 0] += 1e-6
    assert features.digest(one) != features.digest(features.random_network())


def test_weights_keep_the_scale_of_what_they_see():
    x = torch.randn(64, 6, 16, 16, generator=torch.Generator().manual_seed(0))
    for weight in features.RandomNetwork().stages:
        x = F.leaky_relu(F.conv2d(x, weight), features.SLOPE)
        assert float(x.square().mean()) == pytest.approx(1, rel=0.35)


def test_constant_pictures_have_no_spread_inside():
    shown = torch.tensor([0, 128, 255], dtype=torch.uint8)[:, None, None, None].expand(3, 32, 32, 3)
    assert features.random_features(shown).isfinite().all()


def test_features_of_the_reader_are_what_its_last_layer_sees(faces, monkeypatch):
    torch.manual_seed(0)
    reader = face_reader.Reader(32).eval()
    pictures = faces(32)[:30]
    monkeypatch.setattr(features, "READER_CHUNK", 7)
    found = features.reader_features(reader, pictures)
    assert found.shape == (30, 256) and not found.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(reader.net[-1](found), reader(face_reader.to_float(pictures)))


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (32, 32, 3), (0, 32, 32, 3)])
def test_what_are_no_pictures_is_refused(shape):
    with pytest.raises(ValueError, match="uint8"):
        features.random_features(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match="uint8"):
        features.reader_features(face_reader.Reader(32), torch.zeros(2, 32, 32, 3))
