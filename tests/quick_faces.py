"""bvae_faces with a dot for its charts and videos: for tests of what becomes of a run, not its pictures."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from research import bvae_faces
from research.common.commandline import main
from research.common.media import File
from tests.conftest import write_dot

if __name__ == "__main__":
    bvae_faces.training_pictures = lambda *_: {"sample/random": File(".png", write_dot)}
    bvae_faces.interpolation = lambda *_: {}
    main(bvae_faces.Config, bvae_faces.train)
