"""launch/install.sh on machines with other Pythons: stubs on PATH that write down what they are asked for.

A stub python answers the script's questions as its version and modules would; a stub uv makes a .venv.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from research.common.identity import ROOT

TOOLS = ("bash", "cat", "chmod", "cp", "dirname", "env", "grep", "mkdir", "mktemp", "rm")
PYTHON = """\
case "$*" in
  *version_info*) echo {version} ;;
  *"import ensurepip, venv"*) exit {no_venv} ;;
  "-m pip --version") exit {no_pip} ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  *--target*) mkdir -p "${{*: -2:1}}/bin"; cp "$STUBS/uv.kept" "${{*: -2:1}}/bin/uv"; exit {no_network} ;;
  "-m pip install"*) cp "$STUBS/uv.kept" "$(dirname "$0")/uv"; exit {no_network} ;;
esac
"""
UV = """\
case "$1 $2" in
  "python find") if [ -n "{found}" ]; then echo "{found}"; else exit 1; fi ;;
  "python dir") echo /home/me/pythons ;;
  "venv "*)
    case "$*" in *" 3.12 "*) if [ -n "{no_download}" ]; then echo "no route to host" >&2; exit 2; fi ;; esac
    mkdir -p .venv/bin; cp "$STUBS/python.kept" .venv/bin/python; echo >.venv/pyvenv.cfg ;;
  "pip install") case "$*" in *torch-backend*) cat "${{*: -1}}" >>"$STUBS/calls" ;; esac ;;
esac
"""


class Machine:
    """A project with the script, and a PATH of its own tools and of nothing else but stubs."""

    def __init__(self, folder: Path):
        self.project, self.stubs = folder / "my project", folder / "bin"
        (self.project / "launch").mkdir(parents=True)
        self.stubs.mkdir()
        shutil.copy(ROOT / "launch" / "install.sh", self.project / "launch")
        shutil.copy(ROOT / "Makefile", self.project)
        (self.project / "requirements.lock").write_text("torch==2\nnvidia-nccl==2\n", encoding="utf-8")
        for name in TOOLS:
            (self.stubs / name).symlink_to(shutil.which(name))
        self.python("python.kept", version="3.12")  # the one that uv makes a .venv of
        self.uv(name="uv.kept")

    def program(self, name: str, body: str) -> None:
        path = self.stubs / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"$STUBS/calls"\n{body}', encoding="utf-8")
        path.chmod(0o755)

    def python(self, name: str = "python3", version: str = "3.13", **lacks: bool) -> None:
        numbers = {key: int(lacks.get(key, False)) for key in ("no_venv", "no_pip", "no_network")}
        self.program(name, PYTHON.format(version=version, **numbers))

    def uv(self, name: str = "uv", found: str = "", no_download: bool = False) -> None:
        self.program(name, UV.format(found=found, no_download="yes" if no_download else ""))

    def install(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        env = {"PATH": str(self.stubs), "STUBS": str(self.stubs), "TMPDIR": str(self.stubs)} | environment
        command = [self.project / "launch" / "install.sh", *arguments]
        return subprocess.run(command, env=env, capture_output=True, encoding="utf-8", cwd="/")

    def calls(self, of: str) -> list[str]:
        """What the stubs of that name were asked, less the script's own questions."""
        path = self.stubs / "calls"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(f"{of} ") and "import " not in line]

    def refused(self, *arguments: str, **environment: str) -> str:
        """The one line with which an installation that can't succeed ends."""
        done = self.install(*arguments, **environment)
        assert done.returncode == 1
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert errors == done.stderr.splitlines()[-1:]
        assert not [path for path in self.stubs.iterdir() if path.name.startswith("tmp.")]
        return errors[0]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("version", ["3.9", "3.13", "3.14"])
def test_another_python_brings_uv_and_uv_brings_one_that_fits(machine, version):
    machine.python(version=version)
    done = machine.install()
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python3 ({version}) installs uv" in done.stdout
    assert "no Python 3.11 or 3.12 on this machine: uv fetches Python 3.12" in done.stdout
    assert "/home/me/pythons" in done.stdout
    assert done.stdout.endswith("== .venv is ready\n")
    uv = machine.calls("uv.kept")
    assert "uv.kept venv --python 3.12 .venv" in uv
    assert (
        uv[-1]
        == "uv.kept pip install -q --compile-bytecode --python .venv/bin/python pip -r requirements.lock"
    )
    assert (machine.project / ".venv/bin/python").exists()
    assert not [path for path in machine.stubs.iterdir() if path.name.startswith("tmp.")]  # thrown away


def test_a_python_that_fits_is_taken_and_nothing_is_fetched(machine):
    """Even if python3 is another version, because uv looks for the right one."""
    machine.python(version="3.13")
    machine.python("python3.12", version="3.12")
    machine.uv(name="uv.kept", found=str(machine.stubs / "python3.12"))
    done = machine.install()
    assert (done.returncode, done.stderr) == (0, "")
    assert "fetches" not in done.stdout
    assert f"making .venv with {machine.stubs}/python3.12 (3.12)" in done.stdout
    assert f"uv.kept venv -q --python {machine.stubs}/python3.12 .venv" in machine.calls("uv.kept")


def test_uv_on_the_path_is_used_and_no_python_is_needed(machine):
    machine.uv()
    assert machine.install().returncode == 0
    assert "uv venv --python 3.12 .venv" in machine.calls("uv")
    assert machine.calls("uv.kept") == []
    machine.python()
    assert machine.install().returncode == 0  # again, with what is there: only the packages
    assert machine.calls("python3") == []
    assert [line.split()[1] for line in machine.calls("uv")].count("venv") == 1


def test_cpu_build_of_torch(machine):
    machine.uv()
    assert machine.install("cpu").returncode == 0
    [command] = [line for line in machine.calls("uv") if "install" in line]
    assert "--torch-backend cpu" in command
    lines = (machine.stubs / "calls").read_text(encoding="utf-8").splitlines()
    assert "torch==2" in lines
    assert "nvidia-nccl==2" not in lines


def test_without_venv_pip_brings_uv(machine):
    """As on Debian with python3-pip and without python3-venv."""
    machine.python(no_venv=True)
    done = machine.install()
    assert (done.returncode, done.stderr) == (0, "")
    assert "the pip of python3 (3.13) installs uv" in done.stdout
    assert not [line for line in machine.calls("python3") if "-m venv" in line]


@pytest.mark.parametrize(
    ("programs", "told"),
    [
        (["apt-get", "apt-cache"], "sudo apt install python3-venv"),
        (["dnf"], "sudo dnf install python3.12"),
        (["brew"], "brew install python@3.12"),
        ([], "https://www.python.org/downloads"),
    ],
)
def test_a_python_without_venv_and_pip(machine, programs, told):
    machine.python(version="3.11", no_venv=True, no_pip=True)
    for name in programs:
        machine.program(name, "")
    line = machine.refused()
    assert line.startswith("error: python3 (3.11) comes without venv and pip")
    assert told in line


@pytest.mark.parametrize(
    ("programs", "told"),
    [
        ({"conda": "", "apt-get": ""}, "conda create -n python312 -c conda-forge python=3.12 && "),
        ({"brew": ""}, "brew install python@3.12"),
        ({"dnf": ""}, "sudo dnf install python3.12"),
        ({"apt-get": "", "apt-cache": ""}, "sudo apt install python3.12 python3.12-venv"),
        (
            {"apt-get": "", "apt-cache": '[ "$2" = python3.11 ]'},
            "sudo apt install python3.11 python3.11-venv",
        ),
        ({"apt-get": "", "apt-cache": "exit 100"}, "https://conda-forge.org/download"),
        ({}, "https://www.python.org/downloads"),
    ],
)
def test_what_to_install(machine, programs, told):
    """There is neither a Python nor uv: the line says how to install one on this system."""
    for name, body in programs.items():
        machine.program(name, body)
    line = machine.refused()
    assert line.startswith("error: found neither uv nor a Python from 3.8 on")
    assert told in line
    machine.uv(no_download=True)
    line = machine.refused()
    assert line.startswith("error: uv could not fetch Python 3.12")
    assert told in line


def test_no_network_for_uv(machine):
    machine.python(no_network=True)
    assert "uv did not come from the package registry" in machine.refused()


@pytest.mark.parametrize(("version", "found"), [("3.13", "3.13"), ("", "does not run")])
def test_a_python_that_was_named_and_does_not_fit(machine, version, found):
    """A Python that was named but is unsuitable is refused, not silently replaced by another."""
    machine.uv()
    machine.python("other", version=version)
    assert machine.refused(PYTHON="other") == f"error: PYTHON=other: {found}; must be Python 3.11 or 3.12"
    machine.python("other", version="3.11")
    assert machine.install(PYTHON="other").returncode == 0
    assert "uv venv -q --python other .venv" in machine.calls("uv")


def test_a_venv_that_is_there_already(machine):
    """Its Python is of another version, has been removed from the machine, or the venv was never finished."""
    machine.uv()
    venv = machine.project / ".venv"
    (venv / "bin").mkdir(parents=True)
    machine.python("../my project/.venv/bin/python", version="3.13")
    assert machine.refused().startswith("error: .venv holds Python 3.13, not 3.11 or 3.12: remove it")
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to("/gone/python3.12")
    (venv / "pyvenv.cfg").touch()
    done = machine.install()
    assert (done.returncode, done.stderr) == (0, "")
    assert "the Python of .venv does not run: making .venv again" in done.stdout
    assert os.access(venv / "bin/python", os.X_OK)


@pytest.mark.parametrize("target", ["sweep", "test"])
def test_readmes_commands_install_first(machine, target):
    """On a machine with only Python 3.13; a second download happens only if the Python of .venv is gone."""
    for name in ("make", "touch", "sh", "test"):
        (machine.stubs / name).symlink_to(shutil.which(name))
    machine.python()
    env = {"PATH": str(machine.stubs), "STUBS": str(machine.stubs)}

    def make() -> int:
        return subprocess.run(["make", target], cwd=machine.project, env=env, capture_output=True).returncode

    def installed() -> int:
        return sum("requirements.lock" in line for line in machine.calls("uv.kept"))

    assert make() == 0
    assert installed() == 1
    job = {"sweep": "launch/local.py sweeps/bvae.yaml", "test": "-m pytest"}[target]
    assert [line for line in machine.calls("python.kept") if job in line]
    assert make() == 0
    assert installed() == 1
    (machine.project / ".venv/bin/python").unlink()
    assert make() == 0
    assert installed() == 2
