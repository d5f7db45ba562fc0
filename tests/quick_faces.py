"""bvae_faces with a dot for its charts and videos: for tests of what becomes of a run, not its pictures.

QUICK_GATE, {"step": "path", ...} as JSON: training waits before each of these steps until that path exists
or it should end. So a test can disturb a run that is certainly in the middle; its results stay the same.
QUICK_STOP_POLL: the W&B client asks so often, in seconds, whether the run was stopped, instead of every 15 s.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from research import bvae_faces
from research.common import run as of_runs
from research.common.commandline import main
from research.common.media import File
from research.common.run import Run
from tests.conftest import write_dot


def add_gates(gates: dict[str, str]) -> None:
    """The checkpoint of a gate's step and the rows before it are written when training waits there."""
    real = Run.log

    def log(run: Run, metrics: dict[str, Any], step: int) -> None:
        while str(step) in gates and not os.path.exists(gates[str(step)]) and not run.stopping:
            time.sleep(0.05)
        real(run, metrics, step)

    Run.log = log


def ask_often(seconds: float) -> None:
    """The client asks the server so often whether somebody stopped the run."""
    from wandb.sdk.lib.run_stopping import RunStopChecker

    RunStopChecker.__init__.__kwdefaults__["poll_interval"] = seconds


if __name__ == "__main__":
    if "QUICK_STOP_POLL" in os.environ:
        ask_often(float(os.environ["QUICK_STOP_POLL"]))
    bvae_faces.training_pictures = lambda *_: {"sample/random": File(".png", write_dot)}
    bvae_faces.interpolation = lambda *_: {}
    of_runs.loss_curve = lambda _: np.zeros((16, 16, 3), np.uint8)
    add_gates(json.loads(os.environ.get("QUICK_GATE", "{}")))
    main(bvae_faces.Config, bvae_faces.train)
