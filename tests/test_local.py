"""`python launch/local.py` from its first run to its last: interrupted, grown, edited, failed and retried."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.forks import fork, run_script

ROOT = Path(__file__).resolve().parents[1]
SWEEP = {
    "program": "research/bvae_faces.py",
    "method": "grid",
    "metric": {"name": "val/mse_best", "goal": "minimize"},
    "parameters": {
        "beta": {"values": [0, 4]},
        "seed": {"values": [0]},
        **{
            name: {"value": value}
            for name, value in {
                "image_size": 32,
                "arch": "conv",  # the quicker ones: what is trained does not matter here
                "optimizer": "adam",
                "width": 4,
                "hidden_dim": 16,
                "latent_dim": 4,
                "batch_size": 8,
                "steps": 400,
                "eval_every": 200,
                "log_every": 20,
                "sample_every": 1000,
                "dataset": "faces",
                "data_dir": "store",
            }.items()
        },
    },
}
ENV = os.environ | {"COLUMNS": "160", "PYTHONDONTWRITEBYTECODE": "1", "WANDB_MODE": "disabled"}
ENV = {k: v for k, v in ENV.items() if not k.startswith(("WANDB_SWEEP", "WANDB_RUN", "RUN_LEASE", "SLURM"))}


def write_sweep(path: Path, *, without: str = "", parameters: dict | None = None, **changes) -> Path:
    """SWEEP with changed top-level entries and added parameters ({"values": ...} for lists)."""
    more = {k: {"values": v} if isinstance(v, list) else {"value": v} for k, v in (parameters or {}).items()}
    content = SWEEP | {"parameters": SWEEP["parameters"] | more} | changes
    content = {k: v for k, v in content.items() if k != without}
    path.write_text("# Question  does it run?\n" + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def everything(folder: Path) -> dict[str, bytes]:
    """All files below `folder`, without Python's own caches."""
    paths = [p for p in folder.rglob("*") if "__pycache__" not in p.parts]
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else b"" for p in paths}


class Place:
    """A copy of the project in a folder of its own, with pictures and a sweep beside it."""

    def __init__(self, folder: Path):
        self.folder, self.project = folder, folder / "project"
        for name in ("research", "data", "launch"):
            shutil.copytree(
                ROOT / name, self.project / name, ignore=shutil.ignore_patterns("store", "__pycache__")
            )
        (folder / "faces").mkdir()
        for i in range(60):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "faces" / f"{i:02d}.png")
        self.sweep = write_sweep(folder / "tiny.yaml")
        self.runs = folder / "runs" / "tiny"

    def command(self, *args: str) -> list[str]:
        flags = ["--workers=2", "--threads=1", "--wandb=disabled"]
        return [str(self.project / "launch" / "local.py"), *flags, *(args or ("tiny.yaml",))]

    def trials(self) -> dict[float, Path]:
        """Run folder of each β."""
        kept = [json.loads(p.read_text()) for p in sorted((self.runs / "trials").glob("*.json"))]
        return {trial["flags"]["beta"]: self.runs / trial["key"] for trial in kept}

    def states(self) -> dict[float, dict]:
        found = {beta: folder / "status.json" for beta, folder in self.trials().items()}
        return {beta: json.loads(p.read_text()) for beta, p in found.items() if p.exists()}

    def attempts(self) -> dict[float, int]:
        return {beta: len(list(folder.glob("lease.*"))) for beta, folder in self.trials().items()}

    def forked(self, *args: str) -> tuple[int, str]:
        """Run local.py in a fork of this process; returns its exit code and what it printed."""
        err = self.folder.parent / f"{self.folder.name}.err"
        code = os.waitstatus_to_exitcode(os.waitpid(self.fork(err, *args), 0)[1])
        return code, err.read_text()

    def fork(self, err: Path, *args: str) -> int:
        """Start local.py in a fork of this process, which has imported torch already; its process id."""

        def what() -> None:
            for name in [n for n in sys.modules if n.split(".")[0] in ("research", "data", "launch")]:
                del sys.modules[name]  # this tree's; the copy's are wanted
            run_script(self.command(*args), self.folder)

        return fork(what, err, err, ENV)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine is written for an older pydantic, and says so
        import launch.local
        import research.bvae_faces
        import sweeps  # noqa: F401  (the forks need not import again what takes seconds)

    assert launch.local.html and research.bvae_faces.torch
    return Place(tmp_path_factory.mktemp("local"))


@pytest.mark.parametrize(
    ("args", "change", "parts"),
    [
        (["none.yaml"], None, ["--sweep=none.yaml", "No such file"]),
        (["bad.yaml"], "a: [1\nb: }", ["not readable as YAML"]),
        (["bad.yaml"], "- 1\n- 2\n", ["not a W&B sweep"]),
        (["bad.yaml"], b"\xff\xfe\x00a", ["not readable as YAML"]),
        (["bad.yaml"], {"without": "parameters"}, ["parameters: must hold at least one flag"]),
        (["bad.yaml"], {"without": "program"}, ["program: None is not a training script"]),
        (["bad.yaml"], {"program": "research/nothing.py"}, ["research/nothing.py is not a training script"]),
        (["bad.yaml"], {"program": "data/images.py"}, ["data/images.py is not a training script"]),
        (["bad.yaml"], {"without": "method"}, ["method is missing: write method: grid, or random, or bayes"]),
        (["bad.yaml"], {"method": "bayes"}, ["bayes sweep needs run_cap"]),
        (["bad.yaml"], {"method": "bayes", "run_cap": 3, "without": "metric"}, ["needs metric"]),
        (["bad.yaml"], {"early_terminate": {"type": "hyperband", "min_iter": 0}}, ["min_iter: 0 is less"]),
        (["bad.yaml", "--confirm=1"], {"parameters": {"seed": [0, 1]}}, ["--confirm=1", "varies seed"]),
        (["tiny.yaml", "--confirm=0"], None, ["--confirm=0", "at least 1"]),
        (["bad.yaml"], {"method": "random"}, ["random sweep needs run_cap"]),
        (["bad.yaml"], {"parameters": {"betta": 4}}, ["betta is not a flag", "did you mean beta?"]),
        (["bad.yaml"], {"parameters": {"beta": [4, -1]}}, ["--beta=-1", "at least 0"]),
        (["bad.yaml"], {"parameters": {"image_size": 50}}, ["--image_size=50", "32, 64, 128"]),
        (["bad.yaml"], {"parameters": {"dataset": "nowhere"}}, ["--dataset=nowhere"]),
        (["bad.yaml"], {"parameters": {"beta": []}}, ["--sweep=bad.yaml", "beta"]),
        (["tiny.yaml", "--set", "beta"], None, ["--set=beta", "flag=value"]),
        (["tiny.yaml", "--set", "betta=3"], None, ["betta is not a flag", "did you mean beta?"]),
        (["tiny.yaml", "--set", "beta=[1, -2]"], None, ["--beta=-2", "at least 0"]),
        (["tiny.yaml", "--set", "beta=[1"], None, ["--set=beta=[1"]),
        (["tiny.yaml", "--workers=0"], None, ["--workers=0", "at least 1"]),
        (["tiny.yaml", "--wandb=on"], None, ["--wandb=on", "online, offline, disabled"]),
        (["tiny.yaml", "--worker=2"], None, ["--worker", "did you mean --workers?"]),
        (["--name=x"], None, ["--sweep"]),
    ],
)
def test_refused_in_one_line_with_nothing_written(place, args, change, parts):
    bad = place.folder / "bad.yaml"
    bad.unlink(missing_ok=True)
    if isinstance(change, dict):
        write_sweep(bad, **change)
    elif change is not None:
        bad.write_bytes(change if isinstance(change, bytes) else change.encode())
    before = {k: v for k, v in everything(place.folder).items() if not k.startswith("store")}
    code, text = place.forked(*args)
    assert (code, len(text.splitlines())) == (2, 1), text
    assert text.startswith("error: ") and all(part in text for part in parts), text
    after = everything(place.folder)
    assert {k: v for k, v in after.items() if not k.startswith("store")} == before  # the cache is no result


def local_of(tmp_path: Path):
    from launch.sweep import plan, pool
    from launch.sweep.queue import Queue

    sweep = plan.read(str(write_sweep(tmp_path / "tiny.yaml")))
    return pool.Local(pool.LocalFlags(sweep="tiny.yaml", workers=1), sweep, Queue(tmp_path), 1)


@pytest.mark.parametrize(
    ("values", "others", "line"),
    [
        ([0.1, 0.3], {}, "confirmed over 2 further seeds: val/mse_best 0.2 ± 0.14"),
        (
            [0.1],
            {"diverged": 1, "failed": 1},
            "confirmed over 1 of 3 further seeds; 1 diverged, 1 failed: val/mse_best 0.1",
        ),
        ([], {"failed": 3}, "confirmed over 0 of 3 further seeds; 3 failed"),
    ],
)
def test_what_is_said_of_further_seeds(tmp_path, values, others, line):
    assert local_of(tmp_path).further_seeds(values, Counter(others)) == line


@pytest.mark.parametrize(
    ("flags", "visible", "expected"),
    [
        ({}, None, ["0", "1"]),
        ({"runs_per_gpu": 2}, "4,7", ["4", "7", "4", "7"]),
        ({"workers": 3, "threads": 2}, None, ["0", "1", "0"]),
    ],
)
def test_slots_on_gpus(monkeypatch, flags, visible, expected):
    from launch.sweep import pool

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = pool.slots(pool.LocalFlags(sweep="x.yaml", **flags))
    assert [slot.env["CUDA_VISIBLE_DEVICES"] for slot in found] == expected
    threads = flags.get("threads")
    assert {slot.threads for slot in found} == {threads}
    assert {slot.env.get("OMP_NUM_THREADS") for slot in found} == {str(threads) if threads else None}


def test_slots_share_out_the_cores(monkeypatch):
    from launch.sweep import pool

    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert [slot.threads for slot in pool.slots(pool.LocalFlags(sweep="x.yaml"))] == [1] * 6
    (one, two) = pool.slots(pool.LocalFlags(sweep="x.yaml", workers=2))
    assert one == two == pool.Slot({"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}, 3)


@pytest.mark.parametrize(
    "program",
    [
        "local.py",
        "slurm.py",
        "reproduce.py",
        "report.py",
        "upload.py",
        "doctor.py",
        "sweep/worker.py",
        "sweep/agent.py",
    ],
)
def test_a_launcher_imports_nothing_that_takes_seconds(program):
    """Modules that are needed only to run a sweep, or only to read one, are imported where they are used."""
    heavy = ["torch", "torchvision", "pandas", "matplotlib.pyplot", "scipy", "sklearn", "wandb"]
    heavy += ["sweeps", "jsonschema", "jinja2", "numpy"]
    code = f"""if True:
        import runpy, sys
        sys.argv = [{str(ROOT / "launch" / program)!r}, "--help"]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        finally:
            print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "usage: " in done.stdout


def test_a_worker_that_was_refused_is_not_replaced(tmp_path, monkeypatch, capfd):
    local, started = local_of(tmp_path), []
    monkeypatch.setattr(local, "start_worker", started.append)
    (tmp_path / "worker-0.log").write_text("error: the data are not there\n")
    for code in (2, 1):
        local.workers = {0: subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])}
        local.workers[0].wait()
        local._replace_dead()
    said = capfd.readouterr().err
    assert started == [0] and "worker 0 ended with 2 error: the data are not there\n" in said, said


def test_a_sweep_from_first_to_last(place):
    # Ctrl-C while it trains: saved, exit code 75
    local = subprocess.Popen(
        [sys.executable, *place.command()],
        cwd=place.folder,
        env=ENV,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 180
        while not any((f / "metrics.jsonl").exists() for f in place.runs.glob("[0-9a-f]*")):
            assert local.poll() is None and time.monotonic() < deadline, local.communicate()[0]
            time.sleep(0.02)
        local.send_signal(signal.SIGINT)
        text = local.communicate(timeout=120)[0]
    finally:
        local.kill()
    states = place.states()
    assert local.returncode == 75, text
    assert "2 trials, 2 of them open, 2 workers; varied: beta" in text
    assert "stopping: the workers save" in text and "the same command continues" in text
    assert states and {s["status"] for s in states.values()} <= {"preempted"}, states
    assert all(0 < s["step"] < 400 for s in states.values()), states

    # the same command goes on to the end, here with one worker, which trains both trials
    code, text = place.forked("tiny.yaml", "--workers=1")
    assert code == 0, text
    assert set(place.trials()) == {0, 4}
    for beta, state in place.states().items():
        assert (state["status"], state["step"]) == ("finished", 400)
        if beta in states:
            assert state["segments"][-1]["from_step"] == states[beta]["step"], "it went on, not anew"
        rows = (place.trials()[beta] / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(row)["step"] for row in rows]
        assert steps == sorted(set(steps)) and steps[-1] == 400
    assert "best val/mse" in text and "0000" in text and "running" in text and "finished" in text
    assert (place.runs / "report.html").stat().st_size > 10_000
    assert str(Path("runs/tiny/report.html")) in text
    assert (place.runs / "sweep.yaml").read_text() == place.sweep.read_text()
    snapshot = place.runs / "code"
    script = place.project / "research/bvae_faces.py"
    assert (snapshot / "research/bvae_faces.py").read_bytes() == script.read_bytes()
    assert json.loads((snapshot / "snapshot.json").read_text()).keys() == {"commit", "diff", "source"}
    assert not list(snapshot.rglob("store"))

    # once more: nothing is left to do, and nothing is touched
    before = everything(place.runs)
    code, text = place.forked()
    assert code == 0 and "0 of them open" in text and "best val/mse" in text, text
    after = everything(place.runs)
    assert {k for k in before | after if before.get(k) != after.get(k)} <= {"report.html"}

    # another value makes the grid grow, only the new trial is run
    attempts = place.attempts()
    write_sweep(place.sweep, parameters={"beta": [20, 0, 4]})
    code, text = place.forked()
    assert code == 0 and "3 trials, 1 of them open" in text, text
    assert place.attempts() == attempts | {20: 1}
    assert place.states()[20]["status"] == "finished"

    # anything else is another sweep
    for changes, parts in [
        (
            {"parameters": {"beta": [0, 4, 20], "steps": 401}},
            ["steps.value: 400 → 401", "not points of this"],
        ),
        (
            {"parameters": {"beta": [0, 4]}},
            ["[20, 0, 4] → [0, 4]", "not points of this one, such as 0002 (beta=20"],
        ),
        ({"parameters": {"beta": [0, 4, 20], "depth": 2}}, ["parameters.depth: not there →"]),
        ({"parameters": {"beta": [0, 4, 20]}, "method": "random", "run_cap": 3}, ["method: grid → random"]),
    ]:
        before = everything(place.runs)
        write_sweep(place.sweep, **changes)
        code, text = place.forked()
        assert (code, len(text.splitlines())) == (2, 1), text
        assert "holds another sweep" in text and all(part in text for part in parts), text
        assert everything(place.runs) == before

    # an edited script: refused, --reuse goes on with the snapshot, --fresh starts anew
    script.write_text(script.read_text() + "# edited\n")
    write_sweep(place.sweep, parameters={"beta": [20, 0, 4]})
    code, text = place.forked()
    assert (code, len(text.splitlines())) == (2, 1) and "--fresh" in text and "--reuse" in text, text
    code, text = place.forked("tiny.yaml", "--reuse")
    assert code == 0 and "3 trials, 0 of them open" in text, text
    assert not (snapshot / "research/bvae_faces.py").read_text().endswith("# edited\n")

    # --fresh; and a trial that fails: its last lines, exit code 1, not run again until --retry
    good = next((place.trials()[0] / "checkpoints").glob("best_*.pt")).read_bytes()
    start = place.folder / "weights.pt"
    start.write_bytes(b"no weights at all")
    more = {"beta": [1], "steps": 12, "checkpoint": "weights.pt"}
    write_sweep(place.sweep, parameters=more)
    code, text = place.forked("tiny.yaml", "--fresh")
    assert code == 1 and "1 trial, 1 of them open" in text, text
    assert text.count("weights.pt: not a readable checkpoint") >= 2, text  # its log's last line, the reason
    assert "some trials failed; --retry runs them again" in text
    old, *others = place.runs.parent.glob("tiny.old-*")
    assert not others and len(list((old / "trials").glob("*.json"))) == 3
    assert (place.runs / "code/research/bvae_faces.py").read_text().endswith("# edited\n")
    assert place.states()[1]["status"] == "failed" and place.attempts() == {1: 1}
    start.write_bytes(good)
    code, text = place.forked()
    assert code == 1 and "0 of them open" in text and place.attempts() == {1: 1}, text
    code, text = place.forked("tiny.yaml", "--retry")
    assert code == 0 and "1 failed trials are open again" in text, text
    assert (place.states()[1]["status"], place.states()[1]["step"]) == ("finished", 12)
