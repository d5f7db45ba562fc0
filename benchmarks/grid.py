"""Whole sweeps over seeds by `launch/local.py`, as trials.py and sweep_time.py time them."""

import subprocess
import sys
from pathlib import Path

import yaml

# for each family, a number of steps that takes some seconds on two cores; each has embedded data
FAMILIES = {"vae_mnist": 600, "bvae_faces": 150, "charlm": 100, "seq2seq_arith": 1000}


def sweep(root: Path, family: str, steps: int, runs: int, workers: int, folder: Path) -> None:
    """One sweep over the seeds 0 … runs − 1 with the code in `root`; its run folders lie in `folder`/runs.

    Raises RuntimeError, with what the launcher printed, unless all are done.
    """
    content = {
        "program": f"research/{family}.py",
        "method": "grid",
        "parameters": {"steps": {"value": steps}, "seed": {"values": list(range(runs))}},
    }
    file = folder / "trials.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    command = [sys.executable, f"{root}/launch/local.py", str(file), f"--out={folder}/runs"]
    command += [f"--workers={workers}", "--wandb=disabled"]
    made = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8")
    finished = len(list(Path(folder, "runs").glob("trials/*/status.json")))
    if made.returncode or finished != runs:
        raise RuntimeError(f"{finished} of {runs} trials in {root}\n{made.stderr}")
