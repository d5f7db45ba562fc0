"""Machines whose terminal or locale is not UTF-8: every command works there, with characters replaced.

Commands run one after the other in one process of that machine, each as if it were alone in it: a start of
Python with torch costs seconds.
"""

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from data.terminal import readable, replace_unwritable
from research.common.identity import ROOT
from tests.task_folders import latest

C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # files, arguments and output: ASCII
ASCII, LATIN = {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "iso8859-1"}  # the output alone
RESEARCH = [
    f"research/{n}.py"
    for n in ("charlm", "charlm_corpus", "bvae_faces", "gan_faces", "vae_mnist", "seq2seq_arith", "text_vae")
]
LAUNCH = [f"launch/{name}.py" for name in ("local", "slurm", "reproduce", "report", "upload", "doctor")]
# each command gets streams as Python begins with; printed in the end: exit code, stdout and stderr of each
DRIVER = """
import io, json, runpy, sys, traceback
streams, done = (sys.stdout, sys.stderr), []
for command in json.load(open(sys.argv[1], encoding="ascii")):
    files = [io.BytesIO(), io.BytesIO()]
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(f, old.encoding, old.errors, write_through=True) for f, old in zip(files, streams)
    )
    sys.argv, code = command, 0
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    done.append([code, *(f.getvalue().decode(streams[0].encoding, "surrogateescape") for f in files)])
sys.stdout, sys.stderr = streams
print(json.dumps(done))
"""


def run(tmp_path: Path, environment: dict[str, str], *commands: list[str]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each command on such a machine."""
    if environment == C:  # as that machine would hold these arguments
        commands = [[os.fsencode(word).decode("ascii", "surrogateescape") for word in c] for c in commands]
    (tmp_path / "commands.json").write_text(json.dumps(commands), encoding="ascii")
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "commands.json")]
    done = subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, b"")
    return [tuple(answer) for answer in json.loads(done.stdout)]


def python(environment: dict[str, str], code: str) -> bytes:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=os.environ | environment, cwd=ROOT, capture_output=True, check=True
    ).stdout


# ------------------------------------------------------------------------------------------ the functions


@pytest.mark.parametrize(
    ("text", "encoding", "written"),
    [
        ("β = −4, 81 − 24 → 57 …", "ascii", b"beta = -4, 81 - 24 -> 57 ..."),
        ("Où naïve ½ 日本", "ascii", b"Ou naive ? ??"),
        ("Où ½ ± β 日", "iso8859-1", "Où ½ ± ".encode("iso8859-1") + b"beta ?"),
        ("Où β 日", "utf-8", "Où β 日".encode()),
        ("caf\udce9", "utf-8", b"caf\xe9"),  # a file's name, as ls prints it
        ("half of a character: \ud83d", "utf-8", b"half of a character: ?"),
    ],
)
def test_what_is_printed(monkeypatch, text, encoding, written):
    for name in ("stdout", "stderr"):
        file = io.BytesIO()
        monkeypatch.setattr(sys, name, io.TextIOWrapper(file, encoding, "strict", write_through=True))
        replace_unwritable()
        getattr(sys, name).write(text)
        assert file.getvalue() == written


def test_readable():
    assert readable("Où β 日") == "Où β 日"
    assert readable(os.fsencode("Où.txt").decode("ascii", "surrogateescape")) == "Où.txt"
    assert readable("caf\udce9") == "caf\ufffd"
    readable("\ud83d").encode()


def test_text_of_a_yaml_reaches_a_program():
    """A flag's value in a sweep's YAML, and a file's name, on a machine whose encoding lacks a character."""
    code = """if True:
        import subprocess
        from data.terminal import argument
        subprocess.run([argument(word) for word in ("/bin/echo", "\\u00e9", "caf\\udce9")])
    """
    assert python(C, code) == "é ".encode() + b"caf\xe9\n"


# ----------------------------------------------------------------------------------------------- the code


def unnamed(tree: ast.AST) -> list[int]:
    """Lines that open a text file or pipe with the encoding of the locale."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        keys = {k.arg: k.value for k in call.keywords}
        strings = [a.value for a in [*call.args, *keys.values()] if isinstance(a, ast.Constant)]
        is_method = isinstance(call.func, ast.Attribute)
        text_mode = not any(isinstance(s, str) and "b" in s and len(s) < 4 for s in strings)
        if (
            (name == "read_text" and not call.args)
            or (name == "write_text" and len(call.args) < 2)
            or (name == "open" and not is_method and text_mode)
            or (name in ("fdopen", "NamedTemporaryFile") and any(s in ("w", "r", "a") for s in strings))
            or ({"text", "universal_newlines"} & keys.keys() and name in ("run", "Popen", "check_output"))
        ) and "encoding" not in keys:
            found.append(call.lineno)
    return found


@pytest.mark.parametrize("folder", ["research", "launch", "data", "benchmarks", "docs"])
def test_every_text_file_is_read_and_written_as_utf_8(folder):
    """Such lines for files whose type ruff's PLW1514 can't find out."""
    bad = "open('x')\nopen('x', 'wb')\np.read_text()\np.write_text('')\nrun(c, text=True)\nImage.open('x')"
    assert unnamed(ast.parse(bad)) == [1, 3, 4, 5]
    paths = [path for path in (ROOT / folder).rglob("*.py") if "store" not in path.parts]
    assert paths
    lines = {str(path): unnamed(ast.parse(path.read_text(encoding="utf-8"))) for path in paths}
    assert {path: at for path, at in lines.items() if at} == {}


# ------------------------------------------------------------------------------------------- the commands


def test_help(tmp_path):
    commands = [[name, "--help"] for name in [*RESEARCH, *LAUNCH, "data/prepare.py"]]
    for (name, _), (code, out, err) in zip(commands, run(tmp_path, ASCII, *commands), strict=True):
        assert (code, err) == (0, ""), name
        assert "usage: " in out and out.isascii()


LYRICS = "Où est la β-forêt ? “Ici” – 日本 № ½\nÉtoile naïve, plus d’étoiles, très cher\n" * 3


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder whose name is UTF-8, with songs in a file whose name is not."""
    place = tmp_path / "lieu_é"
    place.mkdir()
    rows = [(f"Björk {i % 3}", f"Jóga – no. {i} 日本", f"{i} {LYRICS}") for i in range(30)]
    table = pd.DataFrame(rows, columns=["artist", "song", "lyrics"])
    (place / "caf\udce9.csv").write_text(table.to_csv(index=False), encoding="utf-8")
    return place


def test_songs_from_their_file_to_the_report(tmp_path, place):
    """Training, every task of characters, the study of a corpus, the preparation, the report."""
    data = [f"--dataset={place}/caf\udce9.csv", f"--data_dir={place}/store"]
    small = ["--steps=2", "--batch_size=4", "--seq_len=16", "--n_layers=1", "--embed_dim=16", "--threads=1"]
    of_run = [f"--checkpoint={place}/runs/nom_é", "--wandb=disabled"]
    commands = [
        ["research/charlm.py", *data, *small, f"--out={place}/runs", "--name=nom_é", "--wandb=disabled"],
        ["research/charlm.py", "--task=generate", *of_run, "--start=Où β", "--chars=80", "--temperature=9"],
        ["research/charlm.py", "--task=evaluate", *of_run, f"--text={place}/caf\udce9.csv"],
        ["research/charlm_corpus.py", *data, f"--out={tmp_path}/runs", "--wandb=offline"],
        ["research/charlm_corpus.py", "--task=compare", *of_run, "--song=Jóga – no. 3 日本", "--chars=20"],
        ["data/prepare.py", f"{place}/caf\udce9.csv", f"--data_dir={place}/store"],
        ["launch/report.py", f"{place}/runs", f"--csv={place}/runs.csv"],
        ["research/charlm.py", "--task=generate", f"--checkpoint={place}/été"],
    ]
    answers = run(tmp_path, C, *commands)
    for command, (code, out, err) in zip(commands[:-1], answers):
        assert code == 0, (command, err)
        assert "Traceback" not in err and "Logging error" not in err and "W&B did not" not in err
        assert "\n" in out or command[1] == "--task=evaluate"

    # the text is not lost: what the terminal lacks is replaced there, and whole in the files
    folder = place / "runs" / "nom_é"
    [text] = json.loads((latest(folder, "generate") / "results.json").read_text(encoding="utf-8"))["texts"]
    assert text.startswith("Où β") and len(text) == 84
    assert not set(text) <= set(map(chr, range(256)))
    assert text.encode("ascii", "replaced").decode() in answers[1][1]
    page = (latest(folder, "generate") / "texts.html").read_text(encoding="utf-8")
    assert "Où β" in page
    assert "caf\ufffd" in (latest(folder, "compare") / "songs.html").read_text(encoding="utf-8")
    assert "étoile" in (tmp_path / "runs/corpus_caf?/explore/words.csv").read_text(encoding="utf-8")
    assert "nom_é" in (place / "runs/report.html").read_text(encoding="utf-8")
    assert len(pd.read_csv(place / "runs.csv")) == 1

    [(code, out, err)] = run(tmp_path, LATIN, commands[1])
    assert (code, "Traceback" in err) == (0, False)
    assert text.encode("iso8859-1", "replaced").decode("iso8859-1") in out

    # a mistake is one line there too
    code, out, err = answers[-1]
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: --checkpoint=")
