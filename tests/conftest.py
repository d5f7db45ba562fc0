"""Fixtures that several test files share: a tiny data set, a tiny run, and a process that is restored after a
test.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.groups import pytest_collection_modifyitems as pytest_collection_modifyitems
from tests.groups import pytest_xdist_make_scheduler as pytest_xdist_make_scheduler

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore what a run changes in its process, and hide the environment variables of agents, sweeps and
    SLURM.
    """
    for name in list(os.environ):
        if name.startswith(("WANDB_", "SLURM_", "RUN_", "QUICK_")):
            monkeypatch.delenv(name)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if threads:
        sys.modules["torch"].set_num_threads(threads)
    if "research.common.commandline" in sys.modules:
        sys.modules["research.common.commandline"].AT_CRASH.clear()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread, so that figures do not depend on the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 different tiny pictures; its cache lies beside it, in `store`."""
    folder = tmp_path_factory.mktemp("data") / "faces"
    folder.mkdir()
    for i in range(60):
        pixels = np.random.default_rng(i).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def tiny(faces: Path) -> dict[str, Any]:
    """Flags of a run of 30 steps, with 6 steps per epoch, whose intervals never coincide."""
    return {
        "dataset": str(faces),
        "data_dir": str(faces.parent / "store"),
        "image_size": 32,
        "width": 4,
        "depth": 2,
        "hidden_dim": 16,
        "latent_dim": 4,
        "batch_size": 8,
        "steps": 30,
        "log_every": 3,
        "eval_every": 10,
        "save_every": 7,
        "sample_every": 1000,
        "threads": 1,
        "device": "cpu",
        "wandb": "disabled",
    }


@pytest.fixture
def config(tiny: dict[str, Any], tmp_path: Path) -> Callable[..., Any]:
    """config(**flags): the tiny run's Config with these changed; runs go to tmp_path/runs."""
    from research import bvae_faces

    def make(**flags: Any) -> bvae_faces.Config:
        return bvae_faces.Config(**({"out": str(tmp_path / "runs")} | tiny | flags))

    return make


def write_dot(path: Path) -> None:
    Image.new("RGB", (16, 16)).save(path)


@pytest.fixture
def dots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the family's pictures by black squares, because drawing takes seconds and is
    not tested here.
    """
    from research import bvae_faces
    from research.common.media import File

    def training_pictures(*_: Any) -> dict[str, File]:
        return {"sample/random": File(".png", write_dot)}

    def interpolation(*_: Any) -> dict[str, File]:
        return {"sample/interpolation": File(".png", write_dot)}

    monkeypatch.setattr(bvae_faces, "training_pictures", training_pictures)
    monkeypatch.setattr(bvae_faces, "interpolation", interpolation)


class Killed(BaseException):
    """Stands for kill -9 inside the test's own process."""


def abandon(run: Any) -> None:
    """Leave `run` as kill -9 does: no thread writes any more, its lease names a process that is gone."""
    run._media.shutdown()
    run.lease._stop.set()
    if run.lease._thread:
        run.lease._thread.join()
    run.lease.update(pid_start="gone")


@contextlib.contextmanager
def killed(method: str, step: int, after: bool = True) -> Iterator[None]:
    """Train in this context, and the process "dies" before or after Run.`method` (log or save) of `step`."""
    from research.common.run import Run

    real = getattr(Run, method)

    def dying(self: Run, *args: Any) -> None:
        if args[-1] == step and not after:
            abandon(self)
            raise Killed
        real(self, *args)
        if args[-1] == step:
            abandon(self)
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, method, dying)
        yield


def results(folder: Path) -> dict[str, bytes]:
    """What a straight and an interrupted run must have in common, byte for byte: rows and checkpoints."""
    files = [folder / "metrics.jsonl", *(folder / "checkpoints").glob("*.pt")]
    return {path.name: path.read_bytes() for path in sorted(files)}


def folder_of(runs: Any) -> Path:
    """The only run folder under `runs`, a path or a Config with --out, without those that were set aside."""
    out = Path(getattr(runs, "out", runs))
    (found,) = [p for p in out.iterdir() if ".old-" not in p.name]
    return found


@pytest.fixture(scope="session")
def straight(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny run, never interrupted."""
    from research import bvae_faces

    cfg = bvae_faces.Config(**tiny, out=str(tmp_path_factory.mktemp("straight")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bvae_faces, "training_pictures", lambda *_: {})
        patch.setattr(bvae_faces, "interpolation", lambda *_: {})
        bvae_faces.train(cfg)
    sys.modules["research.common.commandline"].AT_CRASH.clear()
    return folder_of(cfg)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A loopback W&B server; at the end nothing that the client sent may have been refused."""
    from tests.wandb_server import Server

    with Server() as running:
        yield running
        assert running.refused == []


@pytest.fixture
def tally(record_property: Callable[[str, Any], None]) -> Callable[..., None]:
    """tally(server, {W&B id: folder}, kills=0): compare runs with their folders; counted in the summary."""
    from tests.online import figures

    def count(server: Any, folders: dict[str, Path], kills: int = 0) -> None:
        found = figures(server, folders, kills)
        record_property("wandb", found)
        assert (found["rows lost"], found["refused"]) == (0, 0), found

    return count


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The sums of what tests counted: of W&B's runs by `tally`, of sweeps on the SLURM cluster."""
    totals: dict[str, dict[str, int]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, found in getattr(report, "user_properties", ()):
                if name in ("wandb", "slurm") and report.when == "call":
                    total = totals.setdefault(name, {})
                    total |= {k: total.get(k, 0) + n for k, n in found.items()}
    for name, total in sorted(totals.items()):
        counts = ", ".join(f"{k} {n or 'none' if k == 'refused' else n}" for k, n in total.items())
        terminalreporter.write_line(f"{ {'wandb': 'W&B', 'slurm': 'SLURM'}[name] }: {counts}")
