"""Scores of generated pictures against those of the test part, beside the same scores of real ones."""

from typing import Any

from torch import Tensor

from data import images
from research.measure import sample_quality
from research.parts import face_reader, picture_features

N_SCORED = 2000  # at most so many generated pictures, and real ones


def scores(made: Tensor, data: images.ImageSplits, cfg: Any) -> dict[str, Any]:
    """Scores of generated pictures (N, S, S, 3) against data.test, by the features of both networks.

    random: of one that is never trained; reader: of the reader of rendered faces, trained on these, whatever
    the pictures here are. With each its digest: scores of other networks must not be compared.
    """
    rendered = images.load("synthetic", cfg.data_dir, cfg.image_size)
    reader, of_reader = face_reader.load(rendered, cfg.data_dir)
    networks = {
        "random": (
            picture_features.random_features,
            picture_features.digest(picture_features.random_network()),
        ),
        "reader": (lambda x: picture_features.reader_features(reader, x), of_reader),
    }
    found = {}
    for name, (features, digest) in networks.items():
        fake, real, other = (
            features(made),
            features(data.test[: len(made)]),
            features(data.train[: len(made)]),
        )
        found[name] = sample_quality.scores(fake, real, other)
        of_real = sample_quality.precision_recall(other, real)
        found[name] |= {
            "precision_of_real": of_real.precision,
            "recall_of_real": of_real.recall,
            "two_sample_accuracy": sample_quality.two_sample_accuracy(fake, real, cfg.seed),
            "two_sample_accuracy_of_real": sample_quality.two_sample_accuracy(other, real, cfg.seed),
            "network": digest,
        }
    return found
