"""A classifier of 28×28 pictures, and two scores of generated ones that look through it.

What    A small CNN that tells the class. Its 64 features and its class probabilities stand where Inception's
        stand in the Fréchet distance (Heusel et al. 2017, arXiv:1706.08500, eq. 6) and in the Inception Score
        (Salimans et al. 2016, arXiv:1606.03498, §4), whose networks know photos, not digits. Both by
        torchmetrics. A score means something only beside that of real pictures, at the same N and classifier.
Data    The training pictures of the set and their classes; 1,500 steps of 64, the same on every call.
Kept    In <data_dir>/readers/, once for each data set; the file's name has the digest of its weights, which
        stands beside the scores. Where nothing can be written it is trained again each time.
Error   Its accuracy on the test part: `accuracy`. Half a minute on one core.
Shapes  N pictures, uint8 (N, 28, 28); C classes.
"""

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from data.digits import SIZE, DigitSplits
from data.waiting import announced
from research.common.messages import console
from research.common.randomness import make_rng, seeded
from research.parts.judge import trained_once

STEPS, BATCH, PEAK_LR, N_FEATURES = 1500, 64, 0.002, 64
PER_SPLIT = 1000  # pictures in each of the parts that an Inception Score is the mean of


class Classifier(nn.Module):
    """Pictures, uint8 (N, 28, 28) → features (N, 64) and from them logits (N, C)."""

    def __init__(self, n_classes: int):
        super().__init__()
        edge = SIZE // 4
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 4, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * edge * edge, N_FEATURES),
            nn.SiLU(),
        )
        self.head = nn.Linear(N_FEATURES, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x[:, None].float() / 255))


class FeaturesOf(nn.Module):
    """What torchmetrics asks of a network for the Fréchet distance; float64, since covariances cancel."""

    num_features = N_FEATURES

    def __init__(self, model: Classifier):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.features(x[:, None].float() / 255).double()


@announced("training a classifier of these digits, once")
def train(data: DigitSplits) -> Classifier:
    """A classifier trained on data.train, the same one on every call with as many threads."""
    with seeded(0):
        model = Classifier(len(data.class_names))
    optimizer = torch.optim.Adam(model.parameters(), PEAK_LR, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, STEPS, pct_start=0.1)
    for step in track(range(STEPS), "training the classifier, once", console=console, transient=True):
        rows = torch.randint(len(data.train), (BATCH,), generator=make_rng(0, step, "train"))
        loss = F.cross_entropy(model(data.train[rows]), data.train_labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def load(data: DigitSplits, data_dir: str | Path) -> tuple[Classifier, str]:
    """The classifier for `data` from <data_dir>/readers or trained now; and the digest of its weights."""
    model = Classifier(len(data.class_names))
    return trained_once("the classifier", __file__, data, data_dir, model, lambda: train(data))


@torch.no_grad()
def classify(model: Classifier, x: Tensor) -> Tensor:
    """The classes (N,) of pictures, uint8 (N, 28, 28)."""
    return torch.cat([model(part).argmax(1) for part in x.split(1000)])


def accuracy(model: Classifier, x: Tensor, labels: Tensor) -> float:
    """Share of pictures, uint8 (N, 28, 28), whose class is labels (N,)."""
    return float((classify(model, x) == labels).double().mean())


@torch.no_grad()
def frechet(model: Classifier, x: Tensor, real: Tensor) -> float:
    """Fréchet distance between the features of pictures x and real, uint8 (N, 28, 28): 0 for equal ones.

    Biased upwards, the more the smaller N: compare at equal N, and with that between two real sets.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=FeaturesOf(model))
    for pictures, are_real in ((x, False), (real, True)):
        for part in pictures.split(1000):
            metric.update(part, real=are_real)
    return float(metric.compute())


@torch.no_grad()
def inception_score(model: Classifier, x: Tensor) -> tuple[float, float]:
    """Inception Score of pictures x, uint8 (N, 28, 28): mean and sd over splits of 1,000, from 1 (no class
    told, or always the same) to C. With one split the sd is NaN.
    """
    from torchmetrics.image.inception import InceptionScore

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it keeps all logits, and that one split has no deviation
        metric = InceptionScore(feature=model, splits=max(1, len(x) // PER_SPLIT))
        for part in x.split(1000):
            metric.update(part)
        with torch.random.fork_rng(devices=[]):  # it deals the splits with the global generator
            torch.random.manual_seed(0)
            mean, sd = metric.compute()
    return float(mean), float(sd)
