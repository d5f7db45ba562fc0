"""Publishing on W&B: what workspace and report contain, that nothing is ever overwritten, and refusals."""

import json
import re
import socket
import sys
from datetime import datetime
from pathlib import Path

import pytest
import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

import launch.results
from launch.results import wandb_report
from launch.results.read import read_sweep
from tests.test_report import call, make_run
from tests.wandb_server import ENTITY, Project, Run, Server

YAML = """\
# Question  What does beta cost,
#           and | what does it * buy?
# Size      beta 0, 4 × seeds 0, 1: 4 runs.
# Finding   Test figures over 2 seeds.
#   beta = 0    test/mse 0.596 ± 0.088   test/kl_nats 7
#   beta = 4    test/mse 4.596 ± 0.088   test/kl_nats 7
#           Beta costs error.
program: research/vae_mnist.py
method: grid
parameters:
  beta: {values: [0, 4], distribution: q_log_uniform}
  seed: {values: [0, 1]}
"""


@pytest.fixture(scope="module")
def one_server():
    wandb.teardown()  # the client keeps the first address that it meets
    with Server() as server:
        yield server
        wandb.teardown()


@pytest.fixture
def server(one_server, tmp_path, monkeypatch):
    """A server with a login; it must know everything that the client sends."""
    for name, value in one_server.env(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    yield one_server
    assert one_server.refused == []


def trial(folder, server, beta, seed, state="finished", project=None, **flags):
    """A run folder; if a server is given, its run is there, too."""
    project = project or folder.parents[2].name  # the test's own folder
    make_run(folder, beta, seed, state, project=project, entity=None, **flags)
    config = json.loads((folder / "config.json").read_text()) | {"wandb_id": f"id-{folder.name}"}
    (folder / "config.json").write_text(json.dumps(config))
    if server:
        home = server.projects.setdefault(project, Project(server, project))
        server.runs[project, config["wandb_id"]] = Run(server, home, config["wandb_id"])
    return folder


def add_video(folder):
    path = folder / "media" / "sample" / "interpolation_video" / "00000200.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")


@pytest.fixture
def sweep(tmp_path, server):
    """2 beta × 2 seeds, finished, all on W&B; and one run of another sweep in the same project."""
    folder = tmp_path / "runs" / "vae"
    for i, (beta, seed) in enumerate([(4, 0), (0, 0), (4, 1), (0, 1)]):
        add_video(trial(folder / f"key{i}", server, beta, seed))
    (folder / "sweep.yaml").write_text(YAML)
    trial(tmp_path / "runs" / "other" / "stranger", server, 4, 0)
    return folder


def views_of(server, folder):
    project = folder.parents[1].name
    return {key: view for key, view in server.views.items() if view.project.name == project}


def published(server, folder, capsys, *flags):
    """Publish; returns (workspace's URL, its view, report's URL, its view)."""
    before = set(server.views)
    assert call(folder, "--publish", *flags) == 0
    html, *lines = capsys.readouterr().out.splitlines()
    assert html == str(folder / "report.html") and len(lines) == 2
    made = {view.type: view for key, view in server.views.items() if key not in before}
    assert len(server.views) == len(before) + 2
    urls = [re.fullmatch(r"W&B (?:workspace|report): (\S+)", line)[1] for line in lines]
    return urls[0], made["project-view"], urls[1], made["runs"]


def find_all(spec, key):
    """Every value under `key` anywhere in a JSON structure, in order."""
    if isinstance(spec, list):
        return [found for part in spec for found in find_all(part, key)]
    if not isinstance(spec, dict):
        return []
    return [v for k, v in spec.items() if k == key] + find_all(list(spec.values()), key)


def text_of(view):
    """What a reader of a report sees of its text, with markdown as it is written, a block on each line."""
    blocks = json.loads(view.spec)["blocks"]
    return "\n".join(" ".join(find_all(b, "content") + find_all(b, "text")).strip() for b in blocks)


def test_each_call_makes_one_more_of_each_and_changes_nothing(server, sweep, capsys):
    published(server, sweep, capsys)
    before = {key: vars(view).copy() for key, view in views_of(server, sweep).items()}
    runs, projects = {key: vars(run).copy() for key, run in server.runs.items()}, set(server.projects)
    published(server, sweep, capsys)
    after = views_of(server, sweep)
    assert sorted(view.type for view in after.values()) == ["project-view", "project-view", "runs", "runs"]
    assert {key: vars(after[key]) for key in before} == before
    assert len({view.name for view in after.values()}) == 4
    assert {key: vars(run) for key, run in server.runs.items()} == runs
    assert set(server.projects) == projects  # Report.save makes a project that is not there
    for view in after.values():
        assert re.fullmatch(r"vae · \d{4}-\d\d-\d\d \d\d:\d\d", view.displayName)


def test_what_the_workspace_holds(server, sweep, capsys):
    _, view, _, _ = published(server, sweep, capsys)
    section = json.loads(view.spec)["section"]
    sections = {part["name"]: part["panels"] for part in section["panelBankConfig"]["sections"]}
    assert list(sections) == ["Learning curves", "Test figures", "Hyperparameters", "Pictures"]
    lines = [panel["config"] for panel in sections["Learning curves"]]
    assert [line["metrics"] for line in lines] == [["val/mse"], ["val/mse"], ["train/loss"]]
    assert {line["xAxis"] for line in lines} == {"_step"}
    assert [line.get("groupBy") for line in lines] == [None, "beta.value", None]
    assert [panel["config"]["metrics"] for panel in sections["Test figures"]] == [
        ["test/kl_nats"],
        ["test/mse"],
    ]
    parallel, importance = (panel["config"] for panel in sections["Hyperparameters"])
    axes = [("config:beta.value", True), ("config:seed.value", None), ("summary:val/mse_best", None)]
    assert [(axis["accessor"], axis.get("log")) for axis in parallel["columns"]] == axes
    assert importance["targetKey"] == "val/mse_best"
    pictures = {panel["config"]["mediaKeys"][0]: panel["config"]["mode"] for panel in sections["Pictures"]}
    assert pictures == {
        "latent/traversal": "grid",
        "sample/interpolation_video": "gallery",
        "sample/reconstructions": "grid",
    }
    (runs,) = section["runSets"]
    ids = ["id-key0", "id-key1", "id-key2", "id-key3"]
    assert [(f["key"], f["op"], f["value"]) for f in runs["filters"]["filters"]] == [
        ({"section": "run", "name": "name"}, "IN", ids)
    ]
    assert runs["sort"]["keys"] == [
        {"key": {"section": "summary", "name": "val/mse_best"}, "ascending": True}
    ]
    colours = section["customRunColors"]
    assert list(colours) == ids and colours["id-key0"] == colours["id-key2"] != colours["id-key1"]


def test_what_the_report_says(server, sweep, capsys):
    _, _, _, view = published(server, sweep, capsys)
    text = text_of(view)
    assert "vae_mnist, grid over beta (0, 4) × seed (0, 1). Of 4 runs: 4 finished." in text
    assert "\nQuestion\nWhat does beta cost, and | what does it * buy?\nSize\nbeta 0, 4 × seeds" in text
    assert (
        "\nFinding\nTest figures over 2 seeds.\nbeta = 0 · test/mse 0.596 ± 0.088 · test/kl_nats 7 " in text
    )
    assert "\nBeta costs error.\nResults\n" in text
    assert "| 0 | 2 | 2 | 0.263 ± 0.088 | 0.596 ± 0.088 | 7 ± 0 |\n" in text
    own = f"{server.url}/{ENTITY}/{sweep.parents[1].name}/runs"
    assert f"| 0 | 0 | finished | 0.2 | 0.5333 | 7 | [key1]({own}/id-key1) |\n| 0 | 1 | finished" in text
    assert "Commit: `c0ffee0123`, `c0ffee0123-dirty` (" in text
    assert f"python launch/local.py {sweep}/sweep.yaml --name=vae --out={sweep.parent}\n" in text
    assert "# beta=4 · seed=1\npython research/vae_mnist.py --" in text
    spec = json.loads(view.spec)
    values = find_all(spec, "value")
    assert values == [["id-key0", "id-key1", "id-key2", "id-key3"]] * 4
    kinds = find_all(spec, "viewType")
    assert (
        kinds
        == ["Run History Line Plot"] * 3
        + ["Bar Chart"] * 2
        + ["Parallel Coordinates Plot", "Parameter Importance"]
        + ["Media Browser"] * 3
    )
    for panels in find_all(find_all(spec, "panelBankSectionConfig"), "panels"):
        places = [(panel["layout"]["x"], panel["layout"]["y"]) for panel in panels]
        assert len(set(places)) == len(panels)
        assert all(panel["layout"]["x"] + panel["layout"]["w"] <= 24 for panel in panels)


def without_ids(spec):
    """A structure without the names that the library draws at random."""
    if isinstance(spec, dict):
        return {k: without_ids(v) for k, v in spec.items() if k not in ("__id__", "id")}
    return [without_ids(part) for part in spec] if isinstance(spec, list) else spec


def spec_of(view):
    return json.loads(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def test_both_can_be_loaded_back(server, sweep, capsys):
    url, view, report_url, report_view = published(server, sweep, capsys)
    place = wandb_report.find(read_sweep(sweep))
    now = datetime.strptime(view.displayName.split(" · ")[1], "%Y-%m-%d %H:%M")
    meant = wandb_report.make_workspace(read_sweep(sweep), place, now)
    loaded = ws.Workspace.from_url(url)
    assert (loaded.name, loaded.entity, loaded.project) == (meant.name, meant.entity, meant.project)
    assert loaded.runset_settings.filters == meant.runset_settings.filters.replace(
        "Metric('ID')", 'Metric("ID")'
    )
    assert loaded.settings == meant.settings
    assert spec_of(loaded) == json.loads(view.spec)  # nothing is lost on the way there and back
    assert without_ids(spec_of(meant)) == without_ids(json.loads(view.spec))
    meant, loaded = wandb_report.make_report(read_sweep(sweep), place, now), wr.Report.from_url(report_url)
    assert (loaded.title, loaded.description, loaded.id) == (meant.title, meant.description, report_view.id)
    assert [type(block) for block in loaded.blocks] == [type(block) for block in meant.blocks]
    assert spec_of(loaded)["blocks"] == json.loads(report_view.spec)["blocks"]
    assert without_ids(spec_of(meant)) == without_ids(json.loads(report_view.spec))


def test_runs_that_are_not_there_are_left_out(server, sweep, capsys):
    project = sweep.parents[1].name
    del server.runs[project, "id-key0"], server.runs[project, "id-key3"]
    _, view, _, report_view = published(server, sweep, capsys)
    assert find_all(json.loads(view.spec), "value") == [["id-key1", "id-key2"]]
    assert "2 are not on W&B, and not in the charts." in text_of(report_view)
    assert "| 4.2 | 4.533 | 7 | key0 |" in text_of(report_view)


def test_flags_choose_the_place(server, sweep, capsys):
    here = sweep.parents[1].name
    there = server.projects.setdefault(f"{here}-b", Project(server, f"{here}-b"))
    server.runs[there.name, "id-key1"] = Run(server, there, "id-key1")
    _, view, _, _ = published(server, sweep, capsys, f"--project={there.name}", f"--entity={ENTITY}")
    assert view.project is there and find_all(json.loads(view.spec), "value") == [["id-key1"]]


def odd_sweep(kind, folder, server):
    """A sweep's folder of one unusual kind."""
    if kind == "one run":
        trial(folder / "only", server, 4, 0)
    elif kind == "no header":
        for seed in (0, 1):
            trial(folder / f"key{seed}", server, 4, seed, beta2=f"a|b_{seed}*<i>")
        (folder / "sweep.yaml").write_text(YAML.split("Beta costs error.\n")[1])
    elif kind == "all failed":
        for beta in (0, 4):
            (trial(folder / f"key{beta}", server, beta, 0, "failed") / "metrics.jsonl").write_text("")
        (folder / "sweep.yaml").write_text(YAML)
    elif kind == "odd name":
        folder = folder.with_name("β=4 <x> 'y' \N{SNOWMAN} #1?--" + 20 * "long")
        for seed in (0, 1):
            trial(folder / f"key{seed}", server, 4, seed)
    elif kind == "unreadable":
        trial(folder / "key0", server, 4, 0)
        trial(folder / "key1", server, 0, 0)
        (folder / "key1" / "config.json").write_text("{")
    return folder


@pytest.mark.parametrize("kind", ["one run", "no header", "all failed", "odd name", "unreadable"])
def test_odd_sweeps(kind, server, tmp_path, capsys):
    folder = odd_sweep(kind, tmp_path / "runs" / "odd", server)
    url, view, report_url, report_view = published(server, folder, capsys)
    text, kinds = text_of(report_view), find_all(json.loads(view.spec), "viewType")
    assert json.loads(view.spec) == spec_of(ws.Workspace.from_url(url))
    assert json.loads(report_view.spec)["blocks"] == spec_of(wr.Report.from_url(report_url))["blocks"]
    assert ("Parallel Coordinates Plot" in kinds) == (kind in ("no header", "odd name"))
    assert ("Question" in text) == (kind == "all failed")
    if kind == "all failed":
        assert "Of 4 runs: 2 failed." in text and "- beta=0: out of memory\n" in text
        assert set(kinds) == {"Media Browser"}
    elif kind == "no header":
        assert r"| a\|b_0\*\<i\> | 0 | finished |" in text
    elif kind == "odd name":
        assert len(report_view.displayName) <= 128
    elif kind == "unreadable":
        assert find_all(json.loads(view.spec), "value") == [["id-key0"]] and "1 are not on W&B" in text


def refused(folder, capsys, *flags):
    """Publish without success; returns (exit code, its only line of error). The HTML is
    there all the same.
    """
    code = call(folder, "--publish", *flags)
    out, err = capsys.readouterr()
    assert out.splitlines()[:1] == [str(folder / "report.html")] and (folder / "report.html").exists()
    (line,) = [line for line in err.splitlines() if not line.startswith("wandb: ")]
    (folder / "report.html").unlink()
    return code, line


def test_what_is_missing_is_told(server, sweep, capsys, monkeypatch):
    before = dict(server.views)
    code, line = refused(sweep, capsys, "--project=nowhere")
    assert code == 2 and line.startswith(f"error: W&B shows you no project {ENTITY}/nowhere: ")
    assert f"`python launch/upload.py {sweep}`" in line and "nowhere" not in server.projects
    code, line = refused(sweep, capsys, "--entity=somebody")
    assert code == 2 and "somebody" in line
    server.runs.clear()
    code, line = refused(sweep, capsys)
    assert code == 2 and line.startswith("error: none of the 4 runs is in ") and "launch/upload.py" in line
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.delitem(sys.modules, "launch.results.wandb_report")
    monkeypatch.delattr(launch.results, "wandb_report")
    code, line = refused(sweep, capsys)
    assert code == 2 and re.search(r'pip install "wandb-workspaces>=[\d.]+"', line)
    assert server.views == before


@pytest.fixture
def fresh_client():
    """Make the client forget this process's login and address."""
    wandb.teardown()
    yield
    wandb.teardown()


def test_nobody_is_logged_in(server, sweep, capsys, monkeypatch, fresh_client):
    monkeypatch.delenv("WANDB_API_KEY")
    code, line = refused(sweep, capsys)
    assert code == 2 and "`wandb login`" in line
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    monkeypatch.setenv("WANDB_MODE", "offline")  # to train so does not mean to publish so
    wandb.teardown()
    code, line = refused(sweep, capsys)
    assert code == 2 and line.startswith("error: W&B refuses this login")


def test_no_server(sweep, capsys, monkeypatch, fresh_client):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # not listening: connections are refused
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{held.getsockname()[1]}")
        code, line = refused(sweep, capsys)
    assert code == 1 and re.match(r"error: http://127.0.0.1:\d+ cannot be reached \(.*refused\)", line)


def test_the_server_fails_in_between(server, sweep, capsys, monkeypatch):
    # 400 is final; after a 500 the client tries again, and may not end when it is told to
    monkeypatch.setattr(server, "fault", lambda what: 400 if what == "upsertView" else None)
    before = set(server.views)
    assert call(sweep, "--publish") == 1
    out, err = capsys.readouterr()
    (made,) = set(server.views) - before
    assert server.views[made].type == "project-view" and f"nw={server.views[made].name[3:-2]}" in out
    assert err.splitlines()[-1].startswith("error: W&B gave no usable answer")


def test_paragraphs_of_a_header():
    header = read_sweep(Path(__file__).parents[1] / "sweeps").header
    assert header == "" and wandb_report.paragraphs(header) == {}
    assert wandb_report.paragraphs(
        "About this.\n\nTime: 3 min\nQuestion  Is it so?  Yes.\n          Or not?"
    ) == {
        "": ["About this."],
        "Time": ["3 min"],
        "Question": ["Is it so?  Yes. Or not?"],
    }
    parts = wandb_report.paragraphs(
        "Finding   One.\n  a = 1    b 2   c 3\n  a = 2    b 3   c 4\n          So.\n\nTwo."
    )
    assert parts == {"Finding": ["One.", ["a = 1 · b 2 · c 3", "a = 2 · b 3 · c 4"], "So.", "Two."]}


def test_markdown_shows_text_as_it_is():
    assert wandb_report.plain("test/rec_nats <b> a|b `c` _d_ 2*3\n\nx") == (
        r"test/rec_nats \<b\> a\|b \`c\` \_d\_ 2\*3 x"
    )
    rows = [[str(i)] for i in range(200)]
    assert wandb_report.markdown_table(["i"], rows).endswith("| 99 |\n\nThe first 100 of 200.")
