"""Benchmarks: their figures as JSON, the table made of them, all of them at once, a whole sweep's time."""

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bench, memory, race, sweep_time
from research.common import processor
from research.common.commandline import parse
from research.common.messages import UserError
from tests.forks import run_each

ROOT = Path(__file__).resolve().parents[1]
FIGURES = {
    "ours fp32": [300.0, 330.0, 450.0],
    "ours bf16": [600.0, 500.0, 400.0],
    "peer": [100.0, 110.0, 100.0],
}


@dataclass(frozen=True, kw_only=True)
class Flags(race.JsonFlag):
    """Of a made-up benchmark."""

    peer: str | None = None
    data_dir: str = "data/store"
    threads: int = 1
    blocks: int = 5


def kept(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """What `race.keep` writes, with FIGURES unless `changes` says otherwise."""
    peer = changes.pop("peer", "peer")
    arguments = {"figures": FIGURES, "unit": "images/s"} | changes
    benchmark, _, variant = name.partition("-")
    race.keep(Flags(json=str(folder)), f"{benchmark}.py", peer=peer, variant=variant or None, **arguments)
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------ the JSON


def test_all_that_is_known_of_a_measurement_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(race, "git_state", lambda: {"commit": "a" * 40, "diff": ""})
    flags = Flags(
        json=str(tmp_path / "new/folder"), peer="/home/me/examples/vae", data_dir="/data", threads=2
    )
    race.keep(flags, "/any/where/vae_mnist.py", FIGURES, "images/s", peer="peer")
    (path,) = (tmp_path / "new/folder").iterdir()
    assert path.name == "vae_mnist.json"
    written = path.read_text(encoding="utf-8")
    record = json.loads(written)
    assert record["ratios"] == {
        "ours fp32": {"median": 3.0, "min": 3.0, "max": 4.5},
        "ours bf16": {"median": pytest.approx(500 / 110), "min": 4.0, "max": 6.0},
        "peer": {"median": 1.0, "min": 1.0, "max": 1.0},
    }
    known = {"benchmark": "vae_mnist", "variant": None, "unit": "images/s", "peer": "peer"}
    known |= {"figures": FIGURES, "losses": None, "device": "cpu", "gpu": None, "threads": 2}
    known |= {"cores": os.cpu_count(), "cpu": processor.cpu(), "commit": "a" * 40}
    known["flags"] = {"peer": "path/to/vae", "data_dir": "path/to/data", "threads": 2, "blocks": 5}
    known["command"] = "python benchmarks/vae_mnist.py --peer=path/to/vae --threads=2"
    assert record | known == record
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["date"])
    assert "/home/me" not in written and str(tmp_path) not in written
    assert record.keys() >= bench.NEEDED


def test_without_the_peer_there_are_no_ratios(tmp_path):
    alone = {name: values for name, values in FIGURES.items() if name != "peer"}
    record = kept(tmp_path, "bvae_faces", figures=alone)
    assert (record["peer"], record["ratios"], record["figures"]) == (None, {}, alone)


def test_without_the_flag_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    race.keep(Flags(), "vae_mnist.py", FIGURES, "images/s")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder_for_figures(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--json=.*/file: must be a folder"):
        Flags(json=str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [
        ((), ""),
        (("benchmarks/results/amd-epyc-2-cores/README.md",), ""),
        (("benchmarks/results/a.json", "research/charlm.py"), "-dirty"),
    ],
)
def test_results_do_not_make_the_code_dirty(changed, dirty, monkeypatch):
    """Else the second benchmark of `make bench` would find the code changed by the first."""
    diff = "".join(f"diff --git a/{name} b/{name}\nindex 1..2\n--- a/{name}\n" for name in changed)
    real = race.git_state()["commit"]
    monkeypatch.setattr(race, "git_state", lambda: {"commit": real or "a" * 40, "diff": diff})
    assert race.state_of_code()[0] == (real or "a" * 40) + dirty


def test_outside_of_a_checkout_the_commit_is_unknown(monkeypatch):
    monkeypatch.setattr(race, "git_state", lambda: {"commit": None, "diff": ""})
    assert race.state_of_code() == ("unknown", None)


# ------------------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize(
    ("name", "instructions", "cores", "folder"),
    [
        ("AMD EPYC", "avx512_bf16", 2, "amd-epyc-avx512-bf16-2-cores"),
        ("Intel(R) Xeon(R) Processor", "amx_bf16", 2, "intel-xeon-amx-bf16-2-cores"),
        ("AMD EPYC 9B14 96-Core Processor", "avx512f", 180, "amd-epyc-9b14-avx512f-180-cores"),
        ("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz", "avx2", 1, "intel-core-i7-8550u-avx2-1-core"),
        ("Apple M2", "", 8, "apple-m2-8-cores"),
        ("NVIDIA H200", "", 16, "nvidia-h200-16-cores"),
    ],
)
def test_a_device_is_a_plain_name(name, instructions, cores, folder):
    assert bench.slug(name, instructions, cores) == folder


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        ("fpu avx2 sse", "avx2"),
        ("fpu avx2 avx512f", "avx512f"),
        ("avx512_bf16 avx2 avx512f amx_bf16", "amx_bf16"),
        ("", ""),
    ],
)
def test_a_processor_is_known_by_its_best_instructions(flags, best, monkeypatch):
    monkeypatch.setattr(processor, "told_of_cpu", lambda _: flags)
    assert processor.instructions() == best


@pytest.mark.parametrize(
    ("device", "capability", "precisions"),
    [
        ("cpu", "AVX2", ("fp32",)),
        ("cpu", "AVX512", ("fp32", "bf16")),
        ("cpu", "DEFAULT", ("fp32",)),
        ("cuda", "AVX512", ("fp32",)),
    ],
)
def test_an_lstm_is_timed_in_the_precisions_that_it_computes_in(device, capability, precisions, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert race.lstm_precisions(device) == precisions


def table_of(folder: Path) -> list[dict[str, str]]:
    """The rows of the page, each a cell by its heading."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in bench.page(bench.read_records(folder)).splitlines()
        if line.startswith("|")
    ]
    assert all(set(cell) == {"-"} for cell in lines[1])
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_the_table_compares_each_contender_with_the_peer(tmp_path):
    record = kept(tmp_path / "abc", "vae_mnist")
    fp32, bf16 = table_of(tmp_path)
    assert fp32["work"] == "vae_mnist: training, 784-400-20, batch 128, fp32"
    assert (fp32["peer"], fp32["unit"]) == ("PyTorch's VAE example", "images/s")
    assert (fp32["ours"], fp32["peer's"], fp32["ratio"]) == ("330", "100", "3.00 (3.00–4.50)")
    assert (fp32["asked"], fp32["met"], bf16["ratio"], bf16["met"]) == (
        "≥ 4",
        "no",
        "4.55 (4.00–6.00)",
        "yes",
    )
    assert fp32["date"] == record["date"][:10] and record["commit"].startswith(fp32["commit"][:7])
    assert fp32["command"] == "`python benchmarks/vae_mnist.py`"


@pytest.mark.parametrize(
    ("seconds", "loss", "met"), [(20.0, 1.84, "yes"), (20.0, 1.95, "no"), (60.0, 1.84, "no")]
)
def test_a_race_is_won_by_time_and_loss(seconds, loss, met, tmp_path):
    figures, losses = {"ours": [seconds], "nanoGPT": [80.0]}, {"ours": loss, "nanoGPT": 1.89}
    kept(tmp_path / "abc", "charlm-race", figures=figures, unit="s", peer="nanoGPT", losses=losses)
    (row,) = table_of(tmp_path)
    assert (row["asked"], row["met"], row["ratio"]) == ("≤ 0.5", met, f"{seconds / 80:.2f}")
    assert (row["ours"], row["peer's"]) == (f"{seconds:.3g} ({loss:.4g} nats)", "80 (1.89 nats)")


def test_a_missing_peer_is_named_and_nothing_is_met(tmp_path):
    kept(tmp_path / "abc", "bvae_faces", figures={"ours fp32": [450.0]})
    (row,) = table_of(tmp_path)
    assert (row["peer's"], row["ratio"], row["asked"], row["met"]) == ("peer not at hand", "–", "≥ 2", "–")


def test_the_newest_commit_stands_first_whenever_it_was_measured(tmp_path, monkeypatch):
    made = {"1" * 40: "2026-11-01T12:00:00+01:00", "2" * 40: "2026-11-02T12:00:00+00:00"}
    for commit in ("2" * 40, "1" * 40, "1" * 40 + "-dirty"):
        monkeypatch.setattr(race, "state_of_code", lambda c=commit: (c, made[c[:40]]))
        for name in ("sweep_time-bvae_faces", "vae_mnist"):
            figures = {"ours": [1.0], "peer": [2.0]}
            kept(tmp_path / bench.short(commit), name, figures=figures)
    names = [(row["commit"], row["work"].partition(":")[0]) for row in table_of(tmp_path)]
    commits = ("2222222", "1111111", "1111111-dirty")
    assert names == [(commit, script) for commit in commits for script in ("vae_mnist", "sweep_time")]


def test_figures_without_a_goal_are_in_the_table_too(tmp_path):
    kept(tmp_path / "abc", "gan_faces-penalty", figures={"ours": [3.0], "plain": [2.0]}, peer="plain")
    (row,) = table_of(tmp_path)
    assert (row["work"], row["peer"], row["ratio"]) == ("gan_faces: penalty", "plain", "1.50")
    assert (row["asked"], row["met"]) == ("–", "–")


@pytest.mark.parametrize("content", ["{", "[]", '{"benchmark": "vae_mnist"}'])
def test_other_json_is_refused_by_name(content, tmp_path):
    (tmp_path / "abc").mkdir()
    (tmp_path / "abc/odd.json").write_text(content)
    with pytest.raises(UserError, match=r"abc/odd\.json: not figures of a benchmark"):
        bench.read_records(tmp_path)


# ---------------------------------------------------------------------------------------- the commands


def test_each_job_can_be_typed_and_each_goal_has_a_job(tmp_path, monkeypatch):
    """Every benchmark reads the flags that bench.py gives it, with peers and without."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # the scripts put their own tree first
    peers = tmp_path / "peers"
    for peer in bench.PEERS:
        (peers / peer.folder / peer.file).parent.mkdir(parents=True, exist_ok=True)
        (peers / peer.folder / peer.file).touch()
    all_flags = [bench.Flags(peers=str(peers)), bench.Flags(quick=True), bench.Flags(device="cuda")]
    for flags in all_flags:
        for job in bench.selected(flags):
            words = bench.command(job, flags, tmp_path / "json")[2:]
            assert words[-1] == f"--json={tmp_path / 'json'}"
            parse(import_module(f"benchmarks.{job.script}").Flags, words)
    used = {bench.peer_of(job, all_flags[0]) for job in bench.JOBS} - {None}
    assert used == {peers / peer.folder for peer in bench.PEERS}
    assert {name.partition("-")[0] for name in bench.GOALS} == set(bench.NAMES)


def test_quick_bench(tmp_path):
    """As a command: its own digits, no peer, nothing among the results."""
    before = sorted((ROOT / "benchmarks/results").rglob("*"))
    command = [sys.executable, str(ROOT / "benchmarks/bench.py"), "--quick", "--only", "vae_mnist"]
    shown = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=1500
    )
    assert shown.returncode == 0, shown.stderr
    assert "[1/2] vae_mnist --threads=1" in shown.stdout and "[2/2] vae_mnist" in shown.stdout
    rows = [line for line in shown.stdout.splitlines() if line.startswith("| vae_mnist: ")]
    assert len(rows) == 3 and all("| peer not at hand | – |" in row for row in rows)
    assert sorted((ROOT / "benchmarks/results").rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "none").mkdir()
    (tmp_path / "half/nanoGPT").mkdir(parents=True)
    said = {
        "--peers=gone": "--peers=gone: must be a folder in which at least one of these lies: ",
        "--peers=file": "--peers=file: must be a folder in which",
        "--peers=none": "--peers=none: must be a folder in which",
        "--peers=half": "--peers=half: must be a folder whose nanoGPT is a checkout of ",
        "--only=vae": "--only=vae: must be some of vae_mnist,",
        "--only=text_vae": "--data_dir=data/store: text_vae needs shakespeare, which is not there: python",
    }
    commands = [[ROOT / "benchmarks/bench.py", flag] for flag in said]
    for ended, line in zip(run_each(commands, tmp_path / "said", tmp_path), said.values(), strict=True):
        assert (ended.returncode, ended.stdout) == (2, ""), ended
        assert ended.stderr.startswith(f"error: {line}") and ended.stderr.count("\n") == 1
    with pytest.raises(
        UserError, match="--device=cuda: must be cpu, but for bvae_faces, gan_faces, text_vae"
    ):
        bench.Flags(device="cuda", only="charlm")


# --------------------------------------------------------------------------------------- Keras's process

STAND_IN = """
import types
import iniconfig  # also where pytest is; here the one beside this package is wanted
class Model:
    def __init__(self, layers): pass
    def compile(self, **how): pass
    def fit(self, x, y, batch_size, epochs, verbose): assert (len(x), len(y)) == (batch_size, batch_size)
def layer(*args, **how): pass
__version__ = iniconfig.VERSION
Input, Sequential = layer, Model
layers = types.SimpleNamespace(LSTM=layer, RepeatVector=layer, Dense=layer)
backend = types.SimpleNamespace(backend=lambda: "none")
"""


def addition(*flags: str) -> subprocess.CompletedProcess:
    """The benchmark against Keras, one step of each."""
    command = [sys.executable, str(ROOT / "benchmarks/seq2seq_arith.py"), "--steps=1", "--rounds=2", *flags]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600)


def test_keras_gets_the_packages_of_its_folder(tmp_path):
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras/__init__.py").write_text(STAND_IN, encoding="utf-8")
    (tmp_path / "iniconfig.py").write_text('VERSION = "of the folder"', encoding="utf-8")
    made = addition(f"--peer={tmp_path}")
    assert made.returncode == 0, made.stderr
    assert "keras of the folder (none): 50,000 sums in " in made.stdout
    assert len(re.findall(r"(?m)^keras .* x1\.00 of keras", made.stdout)) == 2  # batches of 32 and of 128
    (tmp_path / "keras/__init__.py").write_text("import no_such_backend", encoding="utf-8")
    made = addition(f"--peer={tmp_path}")
    said = f"error: --peer={tmp_path}: Keras cannot be imported from it (No module named 'no_such_backend')"
    assert made.returncode == 2 and " ".join(made.stderr.split()).endswith(said), made.stderr


# -------------------------------------------------------------------------------------- a run's memory


def test_the_peak_of_a_run_beside_that_of_the_bare_import(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/memory.py"), "--only=seq2seq_arith", "--largest=1"]
    command += ["--steps=1", f"--json={tmp_path}"]
    shown = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=1500)
    assert shown.returncode == 0, shown.stderr
    record = json.loads((tmp_path / "memory-seq2seq_arith.json").read_text(encoding="utf-8"))
    assert (record["unit"], record["peer"]) == ("MiB", "10,000 sums")
    assert list(record["figures"]) == ["import torch", "10,000 sums"]
    bare, run = (figures[0] for figures in record["figures"].values())
    assert 100 < bare < run < 4000 and f"| {run:,.0f} |" in re.sub(" +", " ", shown.stdout)


def test_what_a_process_has_in_use_is_measured(tmp_path):
    """In a process of its own: what pytest itself takes would count for the children that it starts."""
    code = """
        import sys
        from benchmarks.memory import peak_of
        made = "import time; made = bytearray(b'x') * {}; time.sleep(0.3)"
        few, many = (peak_of([sys.executable, "-c", made.format(n)]) for n in (100 << 20, 300 << 20))
        assert 195 < many.resident - few.resident < 205, (few, many)
        if sys.platform == "linux":
            assert 195 < many.anonymous - few.anonymous < 205, (few, many)
        assert "torch" not in sys.modules
        try:
            peak_of([sys.executable, "-c", "raise SystemExit('this was wrong')"])
        except RuntimeError as error:
            assert "this was wrong" in str(error)
        else:
            raise AssertionError("a run that fails has no peak")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, check=True, timeout=300)


@pytest.mark.parametrize("family", sorted(set(memory.FAMILIES) - {"text_vae"}))  # as charlm, but slower
def test_each_family_has_data_that_grow(family, tmp_path):
    of = memory.FAMILIES[family]
    flags = [of.make(tmp_path, times) for times in (1, 2)]
    assert len({of.size(times) for times in (1, 10)}) == 2
    script = import_module(f"research.{family}")
    small, large = (script.load_data(parse(script.Config, [*f, f"--data_dir={tmp_path}"])) for f in flags)
    assert small.content_hash != large.content_hash
    sizes = [len(data.train) for data in (small, large)]
    assert sizes[1] > 1.8 * sizes[0]


def test_a_largest_set_is_a_power_of_ten():
    with pytest.raises(UserError, match="--largest=20: must be 1, 10, 100, 1000 or 10000"):
        memory.Flags(largest=20)
    with pytest.raises(UserError, match="--only=charm: must be some of charlm, text_vae,"):
        memory.Flags(only="charm")


def test_fewer_mib_are_better(tmp_path):
    figures = {"import torch": [600.0], "1 MB": [900.0], "10 MB": [999.0]}
    kept(tmp_path / "abc", "memory-charlm", figures=figures, unit="MiB", peer="1 MB")
    bare, larger = table_of(tmp_path)
    assert (larger["asked"], larger["ratio"], larger["met"]) == ("≤ 1.1", "1.11", "no")
    assert (bare["asked"], bare["met"]) == ("–", "–")  # it is no run


# --------------------------------------------------------------------------------------- a sweep's time


@pytest.mark.soak  # the same starts as in tests/test_local.py, and two more
def test_a_sweep_and_the_same_runs_one_after_another(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/sweep_time.py"), "--family=seq2seq_arith", "--runs=2"]
    command += ["--steps=1", "--rounds=1", "--workers=1", f"--json={tmp_path}"]
    shown = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=1500)
    assert shown.returncode == 0, shown.stderr
    record = json.loads((tmp_path / "sweep_time-seq2seq_arith.json").read_text(encoding="utf-8"))
    assert (record["unit"], record["peer"], list(record["figures"])) == (
        "s",
        "one after another",
        ["sweep", "one after another"],
    )
    ours, theirs = (figures[0] for figures in record["figures"].values())
    assert ours > 0 and record["ratios"]["sweep"]["median"] == pytest.approx(ours / theirs, rel=1e-4)
    assert (
        "2 runs of seq2seq_arith, 1 step each, 1 worker" in shown.stdout
        and " of one after another" in shown.stdout
    )


def run_of(**changes: Any) -> sweep_time.Run:
    return sweep_time.Run(**{"seed": 3, "status": "finished", "step": 9, "headline": -140.0} | changes)


def test_rounding_is_the_same_work():
    sweep_time.check_same({"a": run_of()}, {"a": run_of(headline=-140.9)})
    sweep_time.check_same({"a": run_of(headline=0.0)}, {"a": run_of(headline=0.0)})


@pytest.mark.parametrize(
    ("sweep", "plain"),
    [
        ({"a": run_of()}, {"b": run_of()}),
        ({"a": run_of(), "b": run_of()}, {"a": run_of()}),
        ({"a": run_of()}, {"a": run_of(step=8)}),
        ({"a": run_of(status="stopped")}, {"a": run_of(status="stopped")}),
        ({"a": run_of()}, {"a": run_of(headline=-150.0)}),
        ({"a": run_of(headline=0.002)}, {"a": run_of(headline=0.003)}),
        ({"a": run_of(headline=None)}, {"a": run_of(headline=None)}),
    ],
    ids=["runs", "one run less", "fewer steps", "not finished", "ELBO", "small error", "no result"],
)
def test_other_work_has_no_ratio(sweep, plain):
    with pytest.raises(UserError, match=r"^no ratio: "):
        sweep_time.check_same(sweep, plain)
