"""Features of pictures, by which research/measure/sample_quality.py compares generated with real ones.

What    `random_features` are those of a convolutional network with random weights, which is never trained and
        is the same for every data set. Networks trained on photos, such as Inception, do not suit pictures of
        other kinds; for these Naeem et al. 2020 (arXiv:2002.09797) recommend random networks.
        `reader_features` are those of the network that reads rendered faces
        (research/parts/face_reader.py). It sees what it was trained to see, the factors. It is trained on
        blurred pictures too, so it hardly notices blur and noise.
Kept    Nothing is stored: this file determines the weights, and `digest` identifies them.
Shapes  N pictures, uint8 (N, S, S, 3), S a multiple of 8, at least 16; K features.
"""

import functools
import hashlib
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from research.common.randomness import seeded
from research.parts.face_reader import Reader, to_float

SEED = 200209797  # runs do not use this seed, so no model starts with these weights
WIDTHS = (24, 48, 64, 64)  # channels of the stages
SLOPE = 0.2  # of the leaky ReLU for negative numbers
DETAIL = 3.0  # the factor by which detail is amplified, since natural pictures have little of it
EDGE, COLOUR = 8, 0.3  # edge of the small picture in pixels, and its weight beside the other features
N_FEATURES = 2 * sum(WIDTHS) + 3 * EDGE**2
CHUNK = 20  # pictures at once: more leave the processor's cache and take longer
READER_CHUNK = 250


class RandomNetwork(nn.Module):
    """Pictures, uint8 (N, S, S, 3) → features (N, 592), float32, by weights that are drawn once and fixed.

    Colour and layout: the picture at 8×8 pixels. Shapes and texture: mean and standard deviation over
    positions of each channel of each of four stages. A stage is a 3×3 convolution and a leaky ReLU; between
    stages, mean pooling halves the size. The stages see two things. One is the picture minus its mean colour:
    otherwise brightness would move all features and hide the rest. The other is its detail, the difference
    from the mean of 3×3 pixels, amplified: otherwise they would hardly notice whether a picture is sharp.
    """

    def __init__(self):
        super().__init__()
        channels = (6, *WIDTHS)
        self.stages = nn.ParameterList()
        with seeded(SEED):
            for n_in, n_out in itertools.pairwise(channels):
                # He et al. 2015 (arXiv:1502.01852), eq. 15: variance 2 / ((1 + slope²) fan_in). Uniform,
                # because a Gaussian is drawn through logarithms, which processors round differently.
                bound = (3 * 2 / ((1 + SLOPE**2) * 9 * n_in)) ** 0.5
                weight = bound * (2 * torch.rand(n_out, n_in, 3, 3) - 1)
                self.stages.append(weight.contiguous(memory_format=torch.channels_last))
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        x = (to_float(pictures).contiguous() - 0.5) / 0.25  # (N, 3, S, S), about mean 0 and deviation 1
        features = [COLOUR * F.adaptive_avg_pool2d(x, EDGE).flatten(1)]
        detail = x - F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        x = torch.cat([x - x.mean((2, 3), keepdim=True), DETAIL * detail], 1)  # (N, 6, S, S)
        x = x.contiguous(memory_format=torch.channels_last)
        for i, weight in enumerate(self.stages):
            if i:
                x = F.avg_pool2d(x, 2)
            x = F.leaky_relu_(F.conv2d(x, weight, padding=1), SLOPE)
            positions = x.permute(0, 2, 3, 1).flatten(1, 2)  # (N, P, C), a view: quicker than means over S, S
            mean = positions.mean(1)
            spread = (positions - mean[:, None]).square_().mean(1).sqrt()
            features += [mean, spread]
        return torch.cat(features, 1)


@functools.cache
def random_network() -> RandomNetwork:
    """The network behind `random_features`."""
    return RandomNetwork()


def random_features(pictures: Tensor) -> Tensor:
    """Features (N, 592), float32 on the CPU, of pictures, uint8 (N, S, S, 3), by `RandomNetwork`.

    2,000 pictures of 64×64 take about two seconds on one core. ValueError: another type or shape, or no
    pictures.
    """
    _check(pictures)
    return torch.cat([random_network()(part) for part in pictures.cpu().split(CHUNK)])


@torch.no_grad()
def reader_features(reader: Reader, pictures: Tensor) -> Tensor:
    """Features (N, 256), float32, of pictures, uint8 (N, S, S, 3): what the last layer of a reader sees.

    S is the image size of the reader, which is on the CPU. ValueError: another type or shape, or no pictures.
    """
    _check(pictures)
    return torch.cat([reader.net[:-1](to_float(part)) for part in pictures.cpu().split(READER_CHUNK)])


def _check(pictures: Tensor) -> None:
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3 or not len(pictures):
        raise ValueError(f"pictures must be uint8 (N, S, S, 3), got {pictures.dtype} {tuple(pictures.shape)}")


def digest(network: nn.Module) -> str:
    """The first 8 hex digits of the sha256 of a network's weights, to be shown beside what it measures."""
    state = hashlib.sha256()
    for value in network.state_dict().values():
        state.update(value.cpu().contiguous().numpy().tobytes())
    return state.hexdigest()[:8]
