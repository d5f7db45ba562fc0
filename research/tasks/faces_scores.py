"""Scores of generated pictures against the test part, with the same scores of real pictures beside them."""

from typing import Any

from torch import Tensor

from data import images
from research.measure import sample_quality
from research.parts import face_reader, picture_features

N_SCORED = 2000  # at most this many generated pictures, and as many real ones


def scores(made: Tensor, data: images.ImageSplits, cfg: Any) -> dict[str, Any]:
    """Scores of generated pictures (N, S, S, 3) against data.test, by the features of both networks.

    Returns network → name → score. "random" is a network that is never trained; "reader" is the network that
    reads rendered faces, which is trained on these, whatever the pictures here show. Each has its digest
    under "network", because scores by different networks must not be compared.
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
