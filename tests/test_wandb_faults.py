"""Preemption, stops, kills and a server in trouble: W&B gets exactly what was logged."""

import contextlib
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from tests import online
from tests.conftest import folder_of, results
from tests.test_wandb_sweeps import begin
from tests.wandb_server import Server

# a run with room for gates, where it waits until it is disturbed; its results are the same without W&B
LONG = {"steps": 240, "log_every": 10, "save_every": 40, "eval_every": 60}


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    """undisturbed(**flags): the folder of the same run, trained without W&B and without interruption."""
    from research import bvae_faces

    made = {}

    def train(**flags):
        key = json.dumps(flags, sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("undisturbed")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(bvae_faces, "training_pictures", lambda *_: {})
                patch.setattr(bvae_faces, "interpolation", lambda *_: {})
                bvae_faces.train(bvae_faces.Config(**tiny | flags, out=str(made[key])))
        return folder_of(made[key])

    return train


def wandb_core_of(pid: int) -> int | None:
    """The client's service process of a training process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if words[0].endswith(b"wandb-core") and parent == str(pid):
            return int(folder.name)
    return None


def test_preempted_agents_hand_the_run_on(server: Server, tiny, tmp_path, undisturbed, tally) -> None:
    """USR1, then TERM: preempting, back in the queue, resumed under the same id, not a row lost or twice."""
    values = online.flags(tiny, **LONG, out=str(tmp_path / "runs"))
    content = {
        "program": online.QUICK,
        "method": "grid",
        "metric": {"name": "val/mse_best", "goal": "minimize"},
        "parameters": {k: {"value": v} for k, v in values.items()} | {"seed": {"values": [0]}},
    }
    path = online.make_sweep(server, content)
    sweep = server.sweeps[path.rpartition("/")[2]]
    env = online.gates(tmp_path, 60, 160) | {"WANDB_AGENT_KILL_DELAY": "12"}
    with online.agent(server, tmp_path / "w", path, "one", **env) as one:
        online.until(lambda: sweep.members and len(sweep.members[0].rows) > 2, one)
        run = sweep.members[0]
        one.send_signal(signal.SIGUSR1)
        online.until(lambda: run.starts == 2 and run.state == "running", one)
        n_rows = len(run.rows)
        online.until(lambda: len(run.rows) > n_rows + 3, one)
        one.send_signal(signal.SIGTERM)
        one.ended()
    assert run.history_states == 2 * ["running", "preempting", "preempted"]
    assert sweep.waiting == [run.name]
    assert sweep.orders == [("run", run.name), ("resume", run.name)]
    with online.agent(server, tmp_path / "w2", path, "two") as two:
        assert two.ended() == 0, two.said()
    assert sweep.orders[2] == ("resume", run.name)
    assert [kind for kind, _ in sweep.orders] == ["run", "resume", "resume"]
    assert {member.state for member in sweep.members} == {"finished"}
    folders = {member.name: tmp_path / "runs" / member.name for member in sweep.members}
    assert results(folders[run.name]) == results(undisturbed(**LONG))
    status = json.loads((folders[run.name] / "status.json").read_text())
    assert len(status["segments"]) == 3
    tally(server, folders)


def test_stop_of_an_agents_run(server: Server, tiny, tmp_path, tally) -> None:
    """Stop in the dashboard: the run is `stopped`, exits with 0, and is not handed out again."""
    values = online.flags(tiny, **LONG, out=str(tmp_path / "runs"))
    content = {
        "program": online.QUICK,
        "method": "grid",
        "parameters": {k: {"value": v} for k, v in values.items()} | {"seed": {"values": [0]}},
    }
    path = online.make_sweep(server, content)
    sweep = server.sweeps[path.rpartition("/")[2]]
    with online.agent(server, tmp_path / "w", path, "agent", **online.gates(tmp_path, 60)) as agent:
        online.until(lambda: sweep.members and sweep.members[0].rows, agent)
        (run,) = sweep.members
        server.stop_run(run.name)
        assert agent.ended() == 0, agent.said()
    _assert_stopped(run, tmp_path / "runs" / run.name)
    assert sweep.waiting == [] and len(sweep.orders) == 1
    tally(server, {run.name: tmp_path / "runs" / run.name})


def _assert_stopped(run, folder: Path) -> None:
    status = json.loads((folder / "status.json").read_text())
    assert (status["status"], status["reason"]) == ("stopped", "stopped in W&B")
    assert (run.state, run.exitcode) == ("finished", 0)
    assert len(run.rows) > 1


def test_stop_of_a_run_without_an_agent(server: Server, config, dots, tmp_path, monkeypatch, tally) -> None:
    from wandb.sdk.lib.run_stopping import RunStopChecker

    from research import bvae_faces

    # the client asks every second whether the run was stopped, instead of every 15 s
    monkeypatch.setitem(RunStopChecker.__init__.__kwdefaults__, "poll_interval", 1)
    online.log_in_here(monkeypatch, server, tmp_path / "w")
    cfg = config(wandb="online", project="alone", **LONG | {"steps": 20_000})

    def stop() -> None:
        alone = lambda: [run for (project, _), run in server.runs.items() if project == "alone" and run.rows]  # noqa: E731
        server.stop_run(online.until(alone)[0].name)

    stopper = threading.Thread(target=stop)
    stopper.start()
    bvae_faces.train(cfg)
    stopper.join()
    (run,) = [run for (project, _), run in server.runs.items() if project == "alone"]
    _assert_stopped(run, folder_of(cfg))
    tally(server, {run.name: folder_of(cfg)})


def storm(server: Server, home: Path, values: dict, n_kills: int, rng: random.Random) -> int:
    """Start a run again and again and kill -9 it, or its wandb-core, at random moments; returns the kills.

    Each time it gets past its newest checkpoint: three deaths without progress would make it `failed`. A gate
    further on leaves steps for the kills to come.
    """
    checkpoints = lambda: {path.name for path in Path(values["out"]).glob("*/checkpoints/step_*.pt")}  # noqa: E731
    for i in range(n_kills):
        before = checkpoints()
        gate = online.gates(home, values["steps"] * (i + 1) // (n_kills + 1))
        with online.training(server, home, values, script=online.QUICK, **gate) as process:
            online.until(lambda before=before: checkpoints() - before, process)
            time.sleep(rng.uniform(0, 2))
            if (core := wandb_core_of(process.pid)) and rng.random() < 0.4:
                os.kill(core, signal.SIGKILL)
                time.sleep(rng.uniform(0, 1))
            process.send_signal(signal.SIGKILL)
            process.wait()
    return n_kills


def upload(server: Server, home: Path, folder: Path) -> None:
    with online.Process([sys.executable, "launch/upload.py", str(folder)], server, home, "upload") as process:
        assert process.ended() == 0, process.said()


@pytest.mark.parametrize("n_kills", [1, pytest.param(15, marks=pytest.mark.soak)])
def test_kills_lose_nothing(server: Server, tiny, tmp_path, undisturbed, tally, n_kills) -> None:
    """The run and wandb-core get kill -9 at random moments; the run is started again, and then uploaded."""
    rng = random.Random(n_kills)
    long = LONG | ({} if n_kills < 5 else {"steps": 6000})
    values = online.flags(tiny, **long, out=str(tmp_path / "runs"), project=f"storm{n_kills}")
    kills = storm(server, tmp_path / "w", values, n_kills, rng)
    with online.training(server, tmp_path / "w", values, "last", script=online.QUICK) as process:
        code = process.ended()
        assert code == 0, process.said()
    folder = folder_of(tmp_path / "runs")
    assert results(folder) == results(undisturbed(**long))
    upload(server, tmp_path / "w", folder)
    name = json.loads((folder / "config.json").read_text())["wandb_id"]
    tally(server, {name: folder}, kills=kills)


def test_core_and_agent_killed(server: Server, tiny, tmp_path, undisturbed, tally) -> None:
    """wandb-core dies: training continues and says so, and the rest is uploaded. Under an agent the run goes
    on, too.
    """
    values = online.flags(tiny, **LONG, out=str(tmp_path / "runs"), project="core")
    content = {
        "program": online.QUICK,
        "method": "grid",
        "parameters": {k: {"value": v} for k, v in values.items()} | {"seed": {"values": [1]}},
    }
    path = online.make_sweep(server, content)
    sweep = server.sweeps[path.rpartition("/")[2]]
    gate = online.gates(tmp_path, 60)
    with (
        online.agent(server, tmp_path / "w", path, "agent", **gate) as agent,
        online.training(server, tmp_path / "w2", values, script=online.QUICK, **gate) as process,
    ):
        online.until(lambda: sweep.members and sweep.members[0].rows, agent)
        agent.kill()  # only the agent
        agent.wait()
        online.until(lambda: (own := _own(server, "core")) and own.rows, process)
        os.kill(wandb_core_of(process.pid), signal.SIGKILL)
        online.open_gate(tmp_path, 60)
        assert process.ended() == 0, process.said()
        assert "W&B stopped taking this run" in process.said()
        of_agent = sweep.members[0]
        online.until(lambda: of_agent.state == "finished")
    run = _own(server, "core")
    folder = online.folder_with_id(tmp_path / "runs", run.name)
    assert results(folder) == results(undisturbed(**LONG))
    assert online.lost_rows(run, folder) > 0
    upload(server, tmp_path / "w", folder)
    assert run.state == "finished"
    assert {"model", "dataset"} <= {a.artifactType["name"] for a in [*run.logged, *run.used]}
    tally(server, {run.name: folder, of_agent.name: tmp_path / "runs" / of_agent.name}, kills=2)


def _own(server: Server, project: str):
    """The run of a project that belongs to no sweep."""
    runs = list(server.runs.items())
    found = [run for (name, _), run in runs if name == project and run.sweepName is None]
    return found[0] if found else None


def test_server_in_trouble(tiny, tmp_path, undisturbed, tally) -> None:
    """Answers of 500 and 429, silence, and answers after 200 ms: training continues, and
    everything arrives.
    """
    steps = {60: 500, 90: 429, 120: 503, 150: None}  # gate -> what the server answers while it is opened
    with Server() as server:
        values = online.flags(tiny, **LONG, out=str(tmp_path / "runs"))
        gates = online.gates(tmp_path, *steps, 180)
        with online.training(server, tmp_path / "w", values, script=online.QUICK, **gates) as process:
            online.until(lambda: any(run.rows for run in server.runs.values()), process)
            folder = folder_of(tmp_path / "runs")
            for gate, status in steps.items():
                answered = []
                with contextlib.nullcontext() if status else server.paused():
                    server.fault = lambda what, to=answered, status=status: to.append(what) or status
                    online.open_gate(tmp_path, gate)
                    next_gate = lambda gate=gate: online.rows_of(folder)[-1]["step"] >= gate + 20  # noqa: E731
                    online.until(next_gate, process)
                    if status:
                        online.until(lambda to=answered: len(to) > 1, process)
                    else:
                        time.sleep(1.5)  # the client sends once a second
                        assert not answered
            server.delay_s = 0.2
            online.open_gate(tmp_path, 180)
            assert process.ended() == 0, process.said()
        assert results(folder) == results(undisturbed(**LONG))
        (name,) = [run.name for run in server.runs.values()]
        server.delay_s = 0.0
        upload(server, tmp_path / "w", folder)
        assert server.run(name).state == "finished"
        tally(server, {name: folder})


def test_unreachable_or_refused_from_start_to_end(server: Server, tiny, tmp_path, tally) -> None:
    """Nobody listens, or the key is wrong: the run finishes, says so once, and is uploaded later."""
    values = online.flags(tiny, out=str(tmp_path / "runs"), wandb="online", project="later")
    wrong, key = values | {"out": str(tmp_path / "wrong")}, "x" * 40
    quick = {"script": online.QUICK}
    with (
        socket.socket() as held,
        online.training(server, tmp_path / "w2", wrong, **quick, WANDB_API_KEY=key) as refused,
    ):
        held.bind(("127.0.0.1", 0))  # not listening: connections are refused
        quick["WANDB_BASE_URL"] = f"http://127.0.0.1:{held.getsockname()[1]}"
        with online.training(server, tmp_path / "w", values, **quick) as process:
            assert (process.ended(), refused.ended()) == (0, 0), process.said() + refused.said()
    for said in (process.said(), refused.said()):
        assert said.count("W&B does not take this run now") == 1
        assert said.count("W&B stopped") == 0
    assert list(folder_of(tmp_path / "wrong").glob("wandb/offline-run-*"))
    folder = folder_of(tmp_path / "runs")
    assert len(online.rows_of(folder)) > 10
    upload(server, tmp_path / "w", folder)
    (run,) = [run for (project, _), run in server.runs.items() if project == "later"]
    assert run.state == "finished"
    tally(server, {run.name: folder})


def test_alerts(server: Server, config, tmp_path, monkeypatch) -> None:
    """Collapse, divergence and a crash are reported to those who follow the project."""
    from research import bvae_faces
    from research.common.start import start_run

    online.log_in_here(monkeypatch, server, tmp_path / "w")
    data = bvae_faces.load_data(config())
    ended = {}
    for seed, what in enumerate(("collapse", "diverged", "failed")):
        cfg = config(wandb="online", project="alerts", steps=2, seed=seed)
        run = start_run(cfg, bvae_faces.__file__, 1, data, ("val/mse", "minimize"))
        begin(run)
        wandb_id = json.loads((run.folder / "config.json").read_text())["wandb_id"]
        run.log({"val/mse": 0.5, "train/loss": float("nan") if what == "diverged" else 1.0}, 0)
        if what == "collapse":
            run.warn("posterior collapse", "nothing is told")
        if what == "failed":
            run.crash(ValueError("no [luck]\nat all"))
        else:
            run._complete = what == "collapse"
            run.finish()
        online.until(lambda wandb_id=wandb_id: server.run(wandb_id).state != "running")
        ended[what] = server.run(wandb_id)
    titles = {what: [(a["title"], a["severity"]) for a in run.alerts] for what, run in ended.items()}
    assert titles == {
        "collapse": [("posterior collapse", "WARN")],
        "diverged": [("diverged", "WARN")],
        "failed": [("failed", "ERROR")],
    }
    assert [ended[what].state for what in titles] == ["finished", "finished", "failed"]
    assert "ValueError: no [luck]" in ended["failed"].alerts[0]["text"]


def test_the_server_refuses_what_it_does_not_know(tmp_path) -> None:
    """The server's strictness is real: what it does not know is refused and listed."""
    import requests

    from tests.wandb_server import KEY

    before = threading.active_count()  # other tests of this process may have left some
    with Server() as server:

        def ask(query: str, **variables) -> int:
            body = {"query": query, "variables": variables, "operationName": None}
            return requests.post(f"{server.url}/graphql", json=body, auth=("api", KEY)).status_code

        assert ask("query Viewer { viewer { id } }") == 200 and server.refused == []
        assert ask("query Viewer { viewer { shoeSize } }") == 400
        assert ask("query Nothing { nothing }") == 400
        new = 'mutation U($n: String) { upsertBucket(input: {name: $n, modelName: "p"}) { inserted } }'
        assert ask(new, n="r") == 200
        assert requests.get(f"{server.url}/elsewhere").status_code == 400
        gap = {"files": {"wandb-history.jsonl": {"offset": 5, "content": ["{}"]}}}
        requests.post(f"{server.url}/files/tester/p/r/file_stream", json=gap, auth=("api", KEY))
        assert requests.post(f"{server.url}/graphql", json={"query": "{viewer{id}}"}).status_code == 401
        assert [refusal.split(":")[0] for refusal in server.refused] == [
            "query Viewer",
            "query Nothing",
            "GET /elsewhere",
            "wandb-history.jsonl of r",
        ]
    assert threading.active_count() < before + 10
