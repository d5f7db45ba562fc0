"""Workers of pytest-xdist get whole groups of tests: what a file's fixtures make is made once."""

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.groups import group_of

ROOT = Path(__file__).resolve().parents[1]
EXECUTES = "test_a_notebook_executes_on_short_runs_and_concludes_from_them"
CONFTEST = """
from tests.groups import pytest_collection_modifyitems, pytest_xdist_make_scheduler
"""
TESTS = """
import os, time
import pytest

@pytest.mark.parametrize("i", range(6))
def test_it(i, worker_id):
    time.sleep(0.05)  # so that every worker gets some
    with open(os.environ["NOTED"], "a", encoding="utf-8") as file:
        file.write(f"{os.environ['PYTEST_CURRENT_TEST'].split('[')[0]} {worker_id}\\n")
"""


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/test_local.py::test_a[x]", "test_local.py"),
        ("tests/test_local.py::test_a[b::c]", "test_local.py"),
        ("tests/test_slurm_cluster.py::test_a", "slurm"),
        ("tests/test_slurm_sweeps.py::test_a[6 trials]", "slurm"),
        ("tests/test_wandb_sweeps.py::test_a[bvae]", "test_a[bvae]"),
        (f"tests/test_notebooks.py::{EXECUTES}[x]", f"{EXECUTES}[x]"),
        (f"tests/test_notebooks.py::{EXECUTES}[lyrics]", "test_notebooks.py"),
        ("tests/test_notebooks.py::test_faults_are_found", "test_notebooks.py"),
    ],
)
def test_the_group_of_a_test(nodeid, group):
    assert group_of(nodeid) == group


def test_a_group_goes_to_one_worker(tmp_path):
    """By the options of the Makefile, in a session of its own."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    files = ("test_one.py", "test_two.py", "test_slurm_cluster.py", "test_slurm_sweeps.py")
    for name in files:
        (tmp_path / name).write_text(TESTS)
    noted = tmp_path / "noted"
    options = ["-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder", "-p", "no:cacheprovider"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=tmp_path,
        env=kept | {"NOTED": str(noted), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    workers = defaultdict(list)
    for line in noted.read_text().splitlines():
        nodeid, worker = line.split()
        workers[nodeid.partition("::")[0]].append(worker)
    assert {len(ran_at) for ran_at in workers.values()} == {6}
    for name in files:
        assert len(set(workers[name])) == 1, f"{name} was shared by {set(workers[name])}"
    assert workers["test_slurm_cluster.py"] == workers["test_slurm_sweeps.py"]
