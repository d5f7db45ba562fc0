"""Notebooks: pairs are in step, the committed ones are clean, and all execute on short runs of embedded data.

The short runs are made by the real launch/local.py from the notebooks' own sweeps, and each notebook executes
in a real kernel. In that kernel each figure of its conclusion is then changed, and its sentences must follow.
"""

import ast
import contextlib
import csv
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jupytext
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from data import arithmetic, digits, glyphs, synthetic
from data.old_lines import LINES
from launch.results import notebook, read, wandb_runs
from notebooks import execute
from research.common.messages import hush
from research.parts import digit_classifier
from tests.online import log_in_here
from tests.test_docs import check, commands

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 1_000_000  # bytes of a committed notebook
PLACES = re.compile(r"/(?:home|root|tmp|Users|work)/\S+")  # on somebody's machine
TEXT_VAE = {"dataset": "verses", "parameters": 40_000, "embed_dim": 16, "encoder_dim": 16, "steps": 40}
TEXT_VAE |= {"eval_every": 20, "sample_every": 1000, "precision": "fp32", "seed": "[0]"}
ARITHMETIC = {"data_dir": "{place}/store", "hidden_dim": 16, "steps": 30, "batch_size": 16}
ARITHMETIC |= {"eval_every": 15, "sample_every": 30, "train_fraction": 0.9, "seed": "[0]"}
SMALL_FACES = {"dataset": "{place}/faces", "data_dir": "{place}/store", "image_size": 32, "seed": "[0, 1]"}
SMALL_FACES |= {"batch_size": 8, "steps": 30, "eval_every": 10, "sample_every": 10, "precision": "fp32"}
FACES = SMALL_FACES | {"width": 8, "depth": 2, "hidden_dim": 16, "latent_dim": 4}
PROSE = {"dataset": "{place}/chapter.txt", "n_layers": 2, "n_heads": 2, "embed_dim": 16, "seq_len": 16}
PROSE |= {"steps": 32, "eval_every": 8, "sample_every": 1000, "seed": "[0]"}
# flags that make a sweep's runs short; {place} is a folder that the fixture fills
SHORT = {
    "lyrics": {
        "dataset": "{place}/songs.csv",
        "hidden_dim": 32,
        "embed_dim": 16,
        "batch_size": 16,
        "epochs": 12,
        "sample_every": 1000,
    },
    "digits_50": {
        "dataset": "digits",
        "data_dir": "{place}/store",
        "width": 64,
        "sample_every": 90,
        "eval_every": 45,
        "iw_samples": 2,
        "precision": "fp32",
    },
    "bvae": FACES | {"beta": "[0, 40]", "seed": "[0]"},
    "bvae_sets": FACES | {"dataset": "[{place}/faces]", "beta": "[0, 1]"},
    "gan_sets": SMALL_FACES | {"dataset": "[{place}/faces]", "width": 4, "latent_dim": 8},
    "text_vae": TEXT_VAE | {"anneal": "[none]", "latent_dim": 4},
    "text_vae_lm": TEXT_VAE,
    "seq2seq_split": ARITHMETIC | {"train_fraction": "[0.9, 0.8]"},
    "seq2seq_depth": ARITHMETIC | {"hidden_dim": "[16]", "encoder_layers": "[1]"},
    "seq2seq_mode": ARITHMETIC | {"dataset": "digits", "precision": "fp32"},
    "prose": PROSE | {"parameters": "[8_000, 16_000]", "learning_rate": "[0.008]"},
    "prose_pos": PROSE | {"parameters": 8_000},
}


def sweeps_of(name: str) -> list[str]:
    """The sweeps whose runs a notebook reads."""
    return re.findall(r'runs_of\("(\w+)"\)', (execute.FOLDER / f"{name}.py").read_text())


def conclusion_of(made: nbformat.NotebookNode) -> int:
    """Where the code of the conclusion stands."""
    (at,) = [i for i, cell in enumerate(made.cells) if cell.source.startswith("## Conclusion")]
    return at + 1


# ---- as they are committed ------------------------------------------------------------------------------


def faults(made: nbformat.NotebookNode) -> list[str]:
    """What an executed notebook must not contain."""
    found, counts = [], []
    for i, cell in enumerate(made.cells):
        if cell.cell_type != "code":
            continue
        counts.append(cell.execution_count)
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {i}: {output.get('evalue') or output.get('text')}")
            shown = str(output.get("text", "")) + str(
                [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
            )
            # a video is long, and its letters are of all kinds
            shown = re.sub(r"base64,[\w+/=]+", "", shown)
            found += [f"cell {i}: {path}" for path in PLACES.findall(shown)]
            if str(ROOT) in shown:
                found.append(f"cell {i}: {ROOT}")
    if counts != list(range(1, len(counts) + 1)):
        found.append(f"executed in the order {counts}")
    return found


@pytest.mark.parametrize("name", execute.NAMES)
def test_a_committed_pair_is_in_step_and_clean(name: str) -> None:
    file = execute.FOLDER / f"{name}.ipynb"
    code, made = jupytext.read(execute.FOLDER / f"{name}.py"), nbformat.read(file, as_version=4)
    assert [(c.cell_type, c.source) for c in made.cells] == [(c.cell_type, c.source) for c in code.cells]
    nbformat.validate(made)
    assert faults(made) == []
    assert file.stat().st_size < LARGEST
    assert all(cell.outputs for cell in made.cells[conclusion_of(made) :] if cell.cell_type == "code")


@pytest.mark.parametrize("name", execute.NAMES)
def test_what_every_notebook_has(name: str) -> None:
    cells = jupytext.read(execute.FOLDER / f"{name}.py").cells
    first, text = cells[0].source, "\n".join(cell.source for cell in cells)
    assert re.match(r"# \S.*\n\nAuthors: ", first) and cells[0].cell_type == "markdown"
    assert len(sweeps_of(name)) >= 1 and "runs_of" in cells[1].source
    for heading in ("## Introduction", "## Conclusion", "## On your own"):
        assert text.count(heading) == 1
    for sweep in sweeps_of(name):
        assert f"python launch/local.py sweeps/{sweep}.yaml" in text
    assert text.count("notebook.source(") >= 2 and text.count("notebook.layers(") >= 1
    # an explanation before each piece of code but the first two, which find the runs and import
    kinds = [cell.cell_type for cell in cells]
    code = [i for i, kind in enumerate(kinds) if kind == "code"]
    alone = [i for i in code[1:] if kinds[i - 1] == "code" and kinds[max(0, i - 2)] == "code"]
    assert alone == [], "two pieces of code may follow an explanation, not three"


@pytest.mark.parametrize("name", ["README", *execute.NAMES])
def test_its_commands_can_be_typed(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    page = execute.FOLDER / "README.md"
    if name != "README":
        cells = jupytext.read(execute.FOLDER / f"{name}.py").cells
        page = tmp_path / "page.md"
        page.write_text("\n\n".join(cell.source for cell in cells), encoding="utf-8")
    lines = commands(page)
    assert len(lines) >= 2
    for line in lines:
        check(line, monkeypatch)


@pytest.mark.parametrize("name", execute.NAMES)
def test_nothing_is_trained_or_defined_in_a_notebook(name: str) -> None:
    tree = ast.parse((execute.FOLDER / f"{name}.py").read_text())
    called = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")
    }
    assert called.isdisjoint({"backward", "train", "Linear", "LSTM", "Sequential", "AdamW", "Adam"})
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def test_faults_are_found() -> None:
    cell = nbformat.v4.new_code_cell("1", execution_count=1)
    made = nbformat.v4.new_notebook(cells=[cell])
    assert faults(made) == []
    for output in (
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output("stream", name="stdout", text="/home/somebody/runs"),
        nbformat.v4.new_output("display_data", {"text/plain": f"{ROOT}/runs"}),
        nbformat.v4.new_output("error", ename="E", evalue="it broke"),
    ):
        cell.outputs = [output]
        assert len(faults(made)) >= 1
    cell.outputs, cell.execution_count = [], 2
    assert faults(made) == ["executed in the order [2]"]


def test_this_machines_folder_is_cut_from_outputs() -> None:
    cell = nbformat.v4.new_code_cell("1", execution_count=1)
    cell.outputs = [
        nbformat.v4.new_output("stream", text=f"see {ROOT}/runs/x and {ROOT}"),
        nbformat.v4.new_output("display_data", {"text/plain": f"{ROOT}/a", "image/png": "abc"}),
    ]
    cell.metadata["execution"] = {"iopub.execute_input": "2026"}
    made = execute.tidy(nbformat.v4.new_notebook(cells=[cell])).cells[0]
    assert made.outputs[0].text == "see runs/x and ." and made.outputs[1].data == {
        "text/plain": "a",
        "image/png": "abc",
    }
    assert made.metadata == {}


# ---- on short runs --------------------------------------------------------------------------------------


def write_songs(path: Path) -> None:
    """A CSV of sixty songs, with a character too rare to be kept."""
    rng = random.Random(0)
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["artist", "song", "lyrics"])
        for i in range(60):
            lyrics = "\n".join(rng.choices(LINES, k=8))
            rows.writerow([f"Band {i % 7}", f"Song {i}", lyrics + ("é" if i < 3 else "")])


def write_prose(path: Path) -> None:
    """A text of 40 paragraphs."""
    rng = random.Random(0)
    paragraphs = [" ".join(rng.choices(LINES, k=2)) for _ in range(40)]
    path.write_text("\n".join(paragraphs), encoding="utf-8")


def write_faces(folder: Path) -> None:
    """Eighty rendered faces as files, of which no factors are known."""
    folder.mkdir(exist_ok=True)
    pixels = synthetic.render(synthetic.sample_factors(0, np.arange(80)), 32)
    for i, face in enumerate(pixels):
        Image.fromarray(face).save(folder / f"{i:02d}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CSV of songs and a text; `make` puts runs into it."""
    place = tmp_path_factory.mktemp("notebooks")
    write_songs(place / "songs.csv")
    write_prose(place / "chapter.txt")
    return place


def make(sweep: str, place: Path) -> None:
    """The short runs of a sweep, once, by the real launcher."""
    if (place / "runs" / sweep).exists():
        return
    dataset = SHORT[sweep].get("dataset", "")
    if dataset == "digits":  # whose scores need a classifier: one that learned for a second
        known = digits.load("digits", str(place / "store"))
        if sweep == "seq2seq_mode":  # and here it reads operators and blanks, too
            known = glyphs.classes(known, arithmetic.alphabet_of("+-"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(digit_classifier, "STEPS", 150)
            digit_classifier.load(known, place / "store")
    if "faces" in dataset:
        write_faces(place / "faces")
    words = [f"--set={key}={str(value).format(place=place)}" for key, value in SHORT[sweep].items()]
    words += [f"--out={place / 'runs'}", "--workers=1", "--threads=1", "--wandb=disabled"]
    ran = subprocess.run(
        [sys.executable, "launch/local.py", f"sweeps/{sweep}.yaml", f"--name={sweep}", *words],
        cwd=ROOT,
        env=environment(place),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def environment(place: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return kept | {"NOTEBOOK_RUNS": str(place / "runs"), "OMP_NUM_THREADS": "1"}


def played(name: str, place: Path) -> Iterator[tuple[NotebookClient, nbformat.NotebookNode]]:
    """The notebook and what executes it, its kernel running."""
    made = execute.load(execute.FOLDER / f"{name}.py")
    client = execute.client_of(made)
    with client.setup_kernel(env=environment(place)):
        yield client, made


def said(client: NotebookClient, code: str, at: int) -> str:
    """The Markdown that a cell with this code displays."""
    cell = nbformat.v4.new_code_cell(code)
    client.execute_cell(cell, at)
    return "\n".join(o.data["text/markdown"] for o in cell.outputs if "text/markdown" in o.get("data", {}))


@pytest.mark.parametrize("name", execute.NAMES)
def test_a_notebook_executes_on_short_runs_and_concludes_from_them(name: str, place: Path) -> None:
    for sweep in sweeps_of(name):
        make(sweep, place)
    for client, made in played(name, place):
        for i, cell in enumerate(made.cells):
            client.execute_cell(cell, i)
        assert faults(execute.tidy(made)) == []
        assert len(nbformat.writes(made)) < LARGEST
        outputs = [output for cell in made.cells for output in cell.get("outputs", [])]
        assert any(kind.startswith("image/") for output in outputs for kind in output.get("data", {}))

        # each figure is in the conclusion: another one changes what it says
        at = conclusion_of(made)
        code, keys = made.cells[at].source, []
        assert not re.search(r"(?<![\w.:'\"{])\d{2,}(?![\w'\"}%])", strings_of(code)), "a figure is typed"
        cell = nbformat.v4.new_code_cell("kept = dict(figures); print('\\n'.join(kept))")
        client.execute_cell(cell, at)
        keys = cell.outputs[0].text.split()
        as_it_is = said(client, code, at)
        assert len(keys) >= 6 and len(as_it_is) > 300
        for key in keys:
            changed = f"figures = kept | {{{key!r}: other(kept[{key!r}])}}\n{OTHER}".splitlines()
            changed = "\n".join([*changed[1:], changed[0], code])
            assert said(client, changed, at) != as_it_is, f"{key} is not in the conclusion"


OTHER = """def other(value):
    if isinstance(value, str):
        return value + " and another"
    return 2 * value + 1"""


def strings_of(code: str) -> str:
    """The constant parts of the strings in a piece of code."""
    parts = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    return " ".join(part for part in parts if isinstance(part, str))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore what `runs_of` changes in a process."""
    monkeypatch.chdir(ROOT)
    yield
    hush(False)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", execute.NAMES)
def test_without_its_runs_a_notebook_says_the_one_command(name: str, tmp_path: Path) -> None:
    made = execute.load(execute.FOLDER / f"{name}.py")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(notebook.Missing) as missing:
        patch.setenv("NOTEBOOK_RUNS", str(tmp_path / "runs"))
        patch.setattr(sys, "path", [*sys.path])  # the cell adds to it
        exec(made.cells[1].source, {})
    line, sweep = str(missing.value), sweeps_of(name)[0]
    command = f"python launch/local.py sweeps/{sweep}.yaml --name={sweep} --out={tmp_path / 'runs'}"
    assert "\n" not in line and f"`{command}`" in line
    time = re.search(r"(?m)^# Time +(.*)$", (ROOT / "sweeps" / f"{sweep}.yaml").read_text())[1]
    assert f"Time: {time}" in line


def test_a_kernel_shows_missing_runs_without_a_traceback(tmp_path: Path) -> None:
    for client, made in played("lyrics", tmp_path):
        with pytest.raises(CellExecutionError):
            client.execute_cell(made.cells[1], 1)
        (output,) = made.cells[1].outputs
        (line,) = output.traceback
        assert line.startswith("The runs of this notebook are not there yet. Run `python launch/local.py")


@pytest.mark.usefixtures("here")
def test_runs_that_have_not_ended_are_missing(place: Path, tmp_path: Path, monkeypatch: Any) -> None:
    make("lyrics", place)
    monkeypatch.setenv("NOTEBOOK_RUNS", str(place / "runs"))
    assert [run.status["status"] for run in notebook.runs_of("lyrics").runs] == ["finished"]
    (tmp_path / "lyrics" / "abc").mkdir(parents=True)
    (tmp_path / "lyrics" / "abc" / "status.json").write_text('{"status": "running"}')
    monkeypatch.setenv("NOTEBOOK_RUNS", str(tmp_path))
    with pytest.raises(
        notebook.Missing, match=r"^0 of the 1 run that this notebook reads have ended\. Run `"
    ):
        notebook.runs_of("lyrics")
    monkeypatch.delenv("NOTEBOOK_RUNS")
    said = notebook.how_to_make("lyrics", Path("runs/lyrics"))
    assert said.startswith("Run `python launch/local.py sweeps/lyrics.yaml` in the repository's root. Time: ")


@pytest.mark.usefixtures("here")
def test_what_a_run_lacks_is_told(place: Path) -> None:
    make("lyrics", place)
    run = read.read_sweep(place / "runs" / "lyrics").runs[0]
    assert notebook.n_parameters(run) == 8_556
    with pytest.raises(notebook.Missing, match=r"has no sample/films; it has .*sample/continuations"):
        notebook.media(run, "sample/films")
    with pytest.raises(notebook.Missing, match="has no results of task evaluate; call the task first"):
        notebook.task(run, "evaluate")


@pytest.mark.usefixtures("here")
def test_runs_are_fetched_from_wandb(place: Path, tmp_path: Path, server: Any, monkeypatch: Any) -> None:
    """Uploaded by the real command, and read by the client's public API: the same runs.

    The API is asked in processes of their own: where its service has run, tests can no longer fork.
    """
    make("lyrics", place)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTEBOOK_RUNS", "wandb:tester/letters-and-latents")
    log_in_here(monkeypatch, server, tmp_path / "home")
    asking = "import os, sys; sys.path.insert(0, sys.argv[1]); from launch.results import notebook; "
    asking += "os.chdir = lambda _: None; print(notebook.runs_of('lyrics').runs[0].folder)"

    def asked() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", asking, str(ROOT)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "W&B has no finished runs of group lyrics there. Upload the runs" in asked().stderr
    words = [sys.executable, str(ROOT / "launch" / "upload.py"), str(place / "runs" / "lyrics")]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    ran = asked()
    assert ran.returncode == 0, ran.stderr
    there, (here,) = read.read_run(ran.stdout.strip()), read.read_sweep(place / "runs" / "lyrics").runs
    there.folder = there.folder.resolve() if there.folder.is_absolute() else tmp_path / there.folder
    assert there.folder == tmp_path / "runs/wandb/tester/letters-and-latents/lyrics" / here.config["key"]
    assert there.flags == here.flags and there.problem is None
    assert there.rows == here.rows and there.status["headline"] == here.status["headline"]
    assert {key: [step for step, _ in files] for key, files in there.media.items()} == {
        key: [step for step, _ in files] for key, files in here.media.items()
    }
    assert notebook.n_parameters(there) == notebook.n_parameters(here)
    weights = [next((run.folder / "checkpoints").glob("best_*.pt")) for run in (there, here)]
    assert weights[0].name == weights[1].name and weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("n", "sentence"), [(1, "W&B has 1 finished of the 9 runs"), (9, None)])
def test_a_group_at_wandb_that_lacks_runs_is_told(n: int, sentence: str | None, tmp_path: Path) -> None:
    """W&B knows nothing of runs that were never uploaded, so the notebook counts what the YAML describes."""
    folder = Path("runs/wandb/a/b/bvae")
    for i in range(n):
        (tmp_path / folder / f"{i:012x}").mkdir(parents=True)
        (tmp_path / folder / f"{i:012x}" / "status.json").write_text('{"status": "finished"}')
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        api = SimpleNamespace(flush=lambda: None, runs=lambda *_, **__: [])
        patch.setattr(wandb_runs, "asking", lambda: contextlib.nullcontext(api))
        patch.setattr(notebook, "say", lambda *sentences: shown.append(" ".join(sentences)))
        assert len(notebook.of_wandb("a/b", "bvae").runs) == n
    assert bool(shown) == bool(sentence) and (not shown or shown[0].startswith(sentence))


def test_spread_over_seeds() -> None:
    assert notebook.spread([1, 2, 3]) == "2.00 ± 1.00"
    assert notebook.spread([0.125], ".1%") == "12.5%"
    assert notebook.spread([0.5, None, 0.7, float("nan")], ".0%") == "60% ± 14%"
    assert notebook.spread([None]) == "–"


def test_seeds_with_which_a_figure_is_higher() -> None:
    first = pd.Series({0: 1.0, 1: 2.0, 2: float("nan"), 3: 9.0})
    assert notebook.higher(first, {0: 0.5, 1: 2.0, 2: 0.0, 4: 0.0}) == (1, 2)
    assert notebook.higher({0: 1.0}, {1: 0.0}) == (0, 0)


def test_every_notebook_is_in_the_list() -> None:
    listed = re.findall(r"(?m)^\| \[(\w+)\]\((\w+)\.ipynb\)", (execute.FOLDER / "README.md").read_text())
    assert sorted(listed) == [(name, name) for name in execute.NAMES]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import time; time.sleep(60)", "a cell took more than 0 minutes"),
        ("import os; os._exit(1)", "its kernel died"),
    ],
)
def test_a_notebook_that_hangs_or_dies_is_told_and_the_next_is_executed(
    code: str, expected: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(execute, "FOLDER", tmp_path)
    monkeypatch.setattr(execute, "NAMES", ["bad", "good"])
    monkeypatch.setattr(execute, "CELL_TIMEOUT_S", 10)
    head = (ROOT / "notebooks" / "lyrics.py").read_text("utf-8").partition("# %%")[0]
    (tmp_path / "bad.py").write_text(f"{head}# %%\n{code}\n", encoding="utf-8")
    (tmp_path / "good.py").write_text(f"{head}# %%\n1 + 1\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["execute.py"])
    with pytest.raises(SystemExit) as stopped:
        execute.main()
    assert stopped.value.code == 1
    assert f"notebooks/bad.py: {expected}" in capsys.readouterr().err
    assert (tmp_path / "good.ipynb").is_file() and not (tmp_path / "bad.ipynb").exists()


def test_an_unknown_notebook_is_refused() -> None:
    ran = subprocess.run(
        [sys.executable, "notebooks/execute.py", "lyricks"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2 and "lyricks: no notebook here; there are " in ran.stderr
