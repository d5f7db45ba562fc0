"""Sweeps through the real `wandb sweep` and `wandb agent -f`, and what a run leaves on the server."""

import contextlib
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from research.common.checkpoints import resolve
from research.common.folder import read_json
from research.common.messages import UserError
from tests import online, short_sweeps
from tests.conftest import folder_of
from tests.wandb_server import Server

MEDIA = {"charlm": {".html"}, "seq2seq_arith": {".html", ".png"}, "text_vae": {".html", ".png"}}


def each_sweep() -> list[Any]:
    """Sweep, number of agents, values of the parameter that varies.

    Two agents share bvae's, which is made by `wandb sweep`. Of charlm, which logs text, one agent starts one
    run of the first sweep. One run of the other scripts, and two agents on each of the sweeps, are soaks: to
    start their runs takes long, all scripts log by the same code, and tests/test_sweeps.py puts each YAML
    through W&B's schema and the script's own parser.
    """
    seen = {"research/bvae_faces.py"}
    found = [pytest.param(short_sweeps.ROOT / "sweeps" / "bvae.yaml", 2, 2, id="bvae")]
    for path in short_sweeps.SWEEPS:
        program = short_sweeps.read(path)["program"]
        if program not in seen:
            marks = () if program == "research/charlm.py" else pytest.mark.soak
            found.append(pytest.param(path, 1, 1, id=f"{path.stem}-one_run", marks=marks))
        seen.add(program)
        if path.stem != "bvae":
            found.append(pytest.param(path, 2, 2, id=path.stem, marks=pytest.mark.soak))
    return found


@pytest.mark.parametrize(("path", "n_agents", "n_values"), each_sweep())
def test_sweep_through_agents(path, n_agents, n_values, server: Server, tiny, tmp_path, tally) -> None:
    content = short_sweeps.read(path)
    family = Path(content["program"]).stem
    places = {name: tiny[name] for name in ("data_dir", "threads", "device")} | {
        "out": str(tmp_path / "runs")
    }
    if family in ("bvae_faces", "gan_faces"):
        places["dataset"] = tiny["dataset"]
    content = short_sweeps.short(content, places, n_values)
    usual = path.stem == "bvae"  # once by the commands of the docs, else with shorter waits
    if usual:
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
        sweep = online.wandb_sweep(server, tmp_path / "w", tmp_path / "sweep.yaml")
    else:
        sweep = online.make_sweep(server, content)
    with contextlib.ExitStack() as stack:
        begin = lambda i: online.agent(server, tmp_path / f"agent{i}", sweep, "agent", usual)  # noqa: E731
        agents = [stack.enter_context(begin(i)) for i in range(n_agents)]
        ended = [agent.ended() for agent in agents]
        assert set(ended) == {0}, "\n".join(agent.said() for agent in agents)
    runs = server.sweeps[sweep.rpartition("/")[2]].members
    varied = [k for k, v in content["parameters"].items() if "values" in v]
    points = Counter(tuple(run.settings[k] for k in varied) for run in runs)
    n_points = int(np.prod([len(content["parameters"][k]["values"]) for k in varied]))
    assert len(points) == n_points
    assert set(points.values()) == {1}  # each point exactly once
    worked = server.sweeps[sweep.rpartition("/")[2]].agents  # agent -> its last run
    idle = list(worked.values()).count(None)  # a sweep of one point has a run for one agent
    assert (len(worked), idle) == (n_agents, max(0, n_agents - n_points))
    for run in runs:
        folder = tmp_path / "runs" / run.name
        assert (run.state, run.exitcode, run.jobType) == ("finished", 0, "train")
        assert json.loads((folder / "status.json").read_text())["status"] == "finished"
        config = json.loads((folder / "config.json").read_text())
        names = [name for name in sorted(content["parameters"]) if name in config["result_flags"]]
        assert run.displayName == " ".join(f"{name}={config['flags'][name]}" for name in names)[:128]
        kinds = {Path(name).suffix for name in run.files if name.startswith("media/")}
        assert kinds >= MEDIA.get(family, {".png", ".mp4"})
        assert {"model.txt", "requirements.txt", "wandb-metadata.json"} <= run.files.keys()
        (model,) = [a for a in run.logged if a.artifactType["name"] == "model"]
        (weights,) = [name for name in model.content if name.endswith(".pt")]
        assert model.content[weights] == (folder / "checkpoints" / weights).read_bytes()
        assert [a.artifactType["name"] for a in run.used] == ["dataset"]
        assert run.used[0].artifactSequence.name == f"data-{run.settings['data_hash']}"
    made = {a.artifactSequence.name for run in runs for a in run.logged} - {
        f"{family}-{r.name}" for r in runs
    }
    kept = {
        name for (_, name), a in server.collections.items() if content["program"] in a.latestArtifact.content
    }
    assert len(made) <= 1 and made <= kept  # the code; the same code of an earlier sweep is not kept twice
    assert len(kept) >= 1
    tally(server, {run.name: tmp_path / "runs" / run.name for run in runs})


def begin(run: Any) -> None:
    """Start the loop, as a script does next; this is where W&B starts."""
    model = torch.nn.Linear(1, 1)
    next(run.loop(model, torch.optim.SGD(model.parameters(), 0.1)))


def test_every_kind_of_media_arrives(server: Server, config, tmp_path, monkeypatch, tally) -> None:
    """PNG, HTML, MP4 and GIF, each file with its own bytes; a NaN and a missing value."""
    from research import bvae_faces
    from research.common import media
    from research.common.start import start_run
    from research.draw import pictures

    online.log_in_here(monkeypatch, server, tmp_path / "w")
    cfg = config(wandb="online", project="media", steps=1)
    run = start_run(cfg, bvae_faces.__file__, 1, bvae_faces.load_data(cfg), ("val/mse", "minimize"))
    begin(run)
    frames = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)
    files = {
        "sample/text": media.html("<b>Ash nazg</b>"),
        "sample/png": media.File(".png", lambda path: Image.fromarray(frames[0]).save(path)),
        "sample/mp4": media.video(frames, 4),
        "sample/gif": media.File(".gif", lambda path: pictures.write_gif(path, frames, 4)),
    }
    run.log(files | {"val/mse": 0.5, "val/loss": float("nan")}, 0)
    run.log({"val/mse": 0.25}, 1)
    run.finish()
    there = server.run(json.loads((run.folder / "config.json").read_text())["wandb_id"])
    first, last = there.rows
    assert (first["val/mse"], last["val/mse"]) == (0.5, 0.25)
    for key in files:
        (mine,) = (run.folder / "media" / key).iterdir()
        sent = there.files[first[key]["path"]]
        if mine.suffix == ".html":  # the client puts a line of its own before a page
            assert sent.endswith(b"<b>Ash nazg</b>")
        else:
            assert sent == mine.read_bytes()
    tally(server, {there.name: run.folder})


def test_checkpoint_from_an_artifact(server: Server, tiny, tmp_path, monkeypatch, tally) -> None:
    """--checkpoint=entity/project/name:alias: a task and a training start from it, with lineage."""
    values = online.flags(tiny, out=str(tmp_path / "runs"), project="art", steps=4)
    with online.training(server, tmp_path / "w", values, script=online.QUICK) as first:
        assert first.ended() == 0, first.said()
    folder = folder_of(tmp_path / "runs")
    name = json.loads((folder / "config.json").read_text())["wandb_id"]
    spec = f"tester/art/bvae_faces-{name}:best"
    task = values | {"task": "random_generation", "checkpoint": spec, "out": str(tmp_path / "elsewhere")}
    task |= {"data_dir": str(tmp_path / "store")}
    for flag in ("steps", "seed", "batch_size", "log_every", "eval_every", "sample_every", "save_every"):
        task.pop(flag, None)
    again = values | {"checkpoint": spec, "steps": 2, "out": str(tmp_path / "more")}
    with (
        online.training(server, tmp_path / "task", task, "task") as one,
        online.training(server, tmp_path / "again", again, "again", online.QUICK) as two,
    ):
        assert (one.ended(), two.ended()) == (0, 0), one.said() + two.said()
    in_project = [run for (project, _), run in server.runs.items() if project == "art"]
    made = {run.jobType: run for run in in_project if run.name != name}
    used = [artifact.artifactSequence.name for artifact in made["random_generation"].used]
    assert used == [f"bvae_faces-{name}"]
    assert f"bvae_faces-{name}" in [artifact.artifactSequence.name for artifact in made["train"].used]
    assert any(path.endswith(".png") for path in made["random_generation"].files)
    online.log_in_here(monkeypatch, server, tmp_path / "w4")
    with pytest.raises(UserError, match="--checkpoint=tester/art/nothing:best: W&B gives no such artifact"):
        resolve("tester/art/nothing:best", "best", tmp_path)
    tally(server, {name: folder})


def test_local_directs_a_wandb_sweep(server: Server, tiny, tmp_path, tally) -> None:
    """launch/local.py --wandb=online: a real sweep; a run that is killed is finished under its own id."""
    values = online.flags(tiny, steps=400, log_every=50, save_every=50, eval_every=200)
    content = {
        "program": "research/bvae_faces.py",
        "method": "grid",
        "metric": {"name": "val/mse_best", "goal": "minimize"},
        "parameters": {k: {"value": v} for k, v in values.items()} | {"beta": {"values": [0, 4]}},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "launch/local.py", str(tmp_path / "mine.yaml"), "--wandb=online"]
    command += [f"--out={tmp_path / 'runs'}", "--project=local", "--workers=2"]
    sweep_folder = tmp_path / "runs" / "mine"
    with online.Process(command, server, tmp_path / "w", "local") as local:

        def in_training() -> tuple[Any, int] | None:
            """A run that W&B knows, that has a checkpoint and that its training process holds; returns the
            process's pid.
            """
            for (project, name), run in list(server.runs.items()):
                lease = read_json(sweep_folder / name / "lease.1")
                begun = any((sweep_folder / name / "checkpoints").glob("step_*.pt"))
                if project == "local" and begun and lease["role"] == "train":
                    return run, lease["pid"]
            return None

        victim, pid = online.until(in_training, local, every_s=0.01)
        os.kill(pid, signal.SIGKILL)
        online.until(lambda: not Path(f"/proc/{pid}").exists())
        server.lose(victim.name)
        assert local.ended() == 0, local.said()
    (sweep,) = [s for s in server.sweeps.values() if s.displayName == "mine" or "mine" in s.config]
    assert [kind for kind, _ in sweep.orders] == ["run", "run"]  # W&B gave each point once
    assert victim.history_states == ["running", "crashed", "running", "finished"]
    runs = {run.name: sweep_folder / run.name for run in sweep.members}
    assert sorted(run.displayName for run in sweep.members) == ["beta=0.0", "beta=4.0"]
    assert {run.group for run in sweep.members} == {"mine"}
    said = local.said()
    assert f"W&B sweep: {server.url}/tester/local/sweeps/{sweep.name}" in said
    assert (sweep_folder / "report.html").exists()
    tally(server, runs, kills=1)
