"""The doctor finds faults that are really there, says how to mend them, and leaves nothing behind.

Every check is called in this process, with its programs, servers and disks replaced; one test starts the real
command. What matters of a line is which check it is, its state, and what of the fault it names.
"""

import base64
import errno
import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data import DataError, images
from launch import doctor
from launch.doctor import Flags
from launch.sweep import machine
from launch.sweep.machine import Line
from research.common.commandline import main
from research.common.identity import ROOT
from research.common.lease import process_start
from tests.test_faults import SmallDisk

KEY = "0123456789abcdef" * 3
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
OTHERS = [
    *("NETRC", "CUDA_VISIBLE_DEVICES", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "COLUMNS"),
    *("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "IMAGEIO_FFMPEG_EXE"),
]


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home, no programs on PATH, no proxy, W&B not set up."""
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib.wbauth import authenticate

    for name in (*PROXIES, *map(str.upper, PROXIES), *OTHERS):
        monkeypatch.delenv(name, raising=False)
    for name in ("home", "bin"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(wandb_setup, "_singleton", None)
    monkeypatch.setattr(authenticate, "_session_auth", None)  # of an earlier test of this process


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Name -> (exit code, output, complaint) of each program that there is, or an exception."""
    known: dict[str, Any] = {}

    def ask(name: str, *_: str, seconds: float | None = None) -> tuple[int, str, str]:
        answer = known.get(name, FileNotFoundError(name))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(machine, "ask", ask)
    monkeypatch.setattr(machine.shutil, "which", lambda name: name if name in known else None)
    return known


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    monkeypatch.setenv("PATH", os.defpath)  # for mount
    disk = SmallDisk(tmp_path / "disk", monkeypatch)
    yield disk
    if disk.mounted:
        tools = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        subprocess.run(["umount", "-l", str(disk.folder)], check=True, env=tools)


def by_name(lines: Any) -> dict[str, Line]:
    """The lines by their check. A line about a problem says how to solve it; the others don't."""
    lines = list(lines)
    for line in lines:
        assert line.state in machine.COLOURS
        assert "\n" not in line.found + line.mend
        if line.state in ("warn", "fail"):
            assert line.found
            assert line.mend
        assert not (line.state == "ok" and line.mend)
    found = {line.check: line for line in lines}
    assert len(found) == len(lines)
    return found


def states(lines: Any) -> dict[str, str]:
    return {name: line.state for name, line in by_name(lines).items()}


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


# ---------------------------------------------------------------------------------------------- versions


def test_versions(tmp_path, monkeypatch):
    ours = ("python", "numpy", "torch", "wandb", "sweeps")
    assert states(doctor.versions(Flags())) == dict.fromkeys(ours, "ok")
    asks = '"wandb==0.1.2", "numpy>=1", "surely-not-there>=3", "rich<1"'
    project = f'[project]\nrequires-python = ">=3.99"\ndependencies = [{asks}]\n'
    (tmp_path / "pyproject.toml").write_text(project)
    monkeypatch.setattr(doctor, "PYPROJECT", tmp_path / "pyproject.toml")
    bad = ("python", "wandb", "surely-not-there", "rich")
    found = by_name(doctor.versions(Flags()))
    assert states(found.values()) == dict.fromkeys(bad, "fail") | {"numpy": "ok"}
    assert "make clean install" in found["python"].mend
    assert "pip install 'rich<1'" in found["rich"].mend


def test_a_python_without_the_packages():
    """It prints one line instead of the traceback of an import, as happens when .venv is not activated."""
    command = [sys.executable, "-S", str(ROOT / "launch" / "doctor.py")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {sys.executable} (Python 3.")
    assert "make install" in done.stderr
    assert done.stderr.count("\n") == 1


# -------------------------------------------------------------------------------------------------- W&B


class Server:
    """A W&B server's answer to the question who one is, and the requests that it got."""

    def __init__(self):
        self.code, self.body = 200, json.dumps({"data": {"viewer": {"entity": "a-team"}}})
        self.ahead, self.headers, self.asked = 0.0, {}, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.append((self.path, self.headers["Authorization"], json.loads(content)["query"]))
                self.send_response(outer.code)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(outer.body.encode())

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string(time.time() + outer.ahead)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def account(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Line]]:
    """account(mode, **environment): the lines on W&B with this server."""

    def lines(mode: Any = None, **environment: str) -> dict[str, Line]:
        for name, value in ({"WANDB_BASE_URL": server.url} | environment).items():
            monkeypatch.setenv(name, value)
        found = by_name(doctor.wandb_account(Flags(wandb=mode)))
        assert KEY not in str(found)
        return found

    return lines


@pytest.mark.parametrize(
    ("flag", "environment", "mode", "login"),
    [
        (None, {}, "offline", "warn"),
        (None, {"WANDB_API_KEY": KEY}, "online", "ok"),
        (None, {"WANDB_MODE": "dryrun", "WANDB_API_KEY": KEY}, "offline", "ok"),
        (None, {"WANDB_MODE": "online"}, "online", "fail"),
        ("online", {"WANDB_MODE": "offline"}, "online", "fail"),
        ("offline", {"WANDB_MODE": "online"}, "offline", "warn"),
    ],
)
def test_mode_and_login(account, flag, environment, mode, login):
    found = account(flag, **environment)
    assert found["mode"].found.split()[0] == mode
    assert found["login"].state == login
    assert ("account" in found) == ("WANDB_API_KEY" in environment)


def test_wandb_offline_was_set(account, tmp_path):
    """If `wandb offline` has set this in the client's settings."""
    (tmp_path / "home" / ".config" / "wandb").mkdir(parents=True)
    (tmp_path / "home" / ".config" / "wandb" / "settings").write_text("[default]\nmode = offline\n")
    assert account(WANDB_API_KEY=KEY)["mode"].found.startswith("offline")


def test_disabled_asks_nobody(account, server):
    for found in (account("disabled"), account(WANDB_MODE="disabled")):
        assert states(found.values()) == {"mode": "skipped"}
    assert server.asked == []


@pytest.mark.parametrize("place", ["environment", "netrc"])
def test_the_key_is_shown_to_the_server_only(account, server, tmp_path, place):
    if place == "netrc":
        host = server.url.removeprefix("http://")
        (tmp_path / "home" / ".netrc").write_text(f"machine {host}\n  login user\n  password {KEY}\n")
        (tmp_path / "home" / ".netrc").chmod(0o600)
    found = account(**({"WANDB_API_KEY": KEY} if place == "environment" else {}))
    assert {line.state for line in found.values()} == {"ok"}
    assert "a-team" in found["account"].found
    [(path, authorization, query)] = server.asked
    assert path == "/graphql"
    assert base64.b64decode(authorization.removeprefix("Basic ")).decode() == f"api:{KEY}"
    assert "viewer" in query


@pytest.mark.parametrize(
    ("code", "body", "bad", "named"),
    [
        (401, "{}", "account", "401"),
        (200, '{"data": {"viewer": null}}', "account", "refused"),
        (500, "", "server", "500"),
        (404, "{}", "server", "404"),
        (200, "<html>Accept our terms</html>", "server", "not as W&B"),
        (302, "", "server", "https://login.example"),
    ],
)
def test_bad_answers(account, server, code, body, bad, named):
    """They are failures for a run that must be online; for one that is offline they are only warnings."""
    server.code, server.body = code, body
    server.headers = {"Location": "https://login.example"} if code == 302 else {}
    found = account("online", WANDB_API_KEY=KEY)
    assert {name for name, line in found.items() if line.state == "fail"} == {bad}
    assert named in found[bad].found
    assert account("offline")[bad].state == "warn"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("fault", ["refused", "timeout", "TLS", "proxy", "DNS"])
def test_unreachable(account, server, monkeypatch, fault):
    """Each fault has a message of its own, without a proxy's password; then clocks can't be compared."""
    monkeypatch.setattr(doctor, "SERVER_S", (1.0, 0.3))
    silent = socket.create_server(("127.0.0.1", 0))  # accepts, and never answers
    urls = {
        "refused": f"http://127.0.0.1:{free_port()}",
        "timeout": f"http://127.0.0.1:{silent.getsockname()[1]}",
        "TLS": server.url.replace("http:", "https:"),
        "DNS": "http://no-such-host.invalid",
    }
    proxy = {"HTTP_PROXY": f"http://me:secret@127.0.0.1:{free_port()}"} if fault == "proxy" else {}
    with silent:
        found = account("online", WANDB_BASE_URL=urls.get(fault, server.url), WANDB_API_KEY=KEY, **proxy)
        assert found["server"].state == "fail"
        assert fault in found["server"].found
        assert "secret" not in str(found)
        assert found["clock vs W&B"].state == "skipped"
        assert account("offline")["server"].state == "warn"


@pytest.mark.parametrize(
    "environment",
    [
        {"WANDB_API_KEY": "short"},
        {"WANDB_BASE_URL": "https://wandb.ai"},
        {"WANDB_BASE_URL": "nonsense"},
        {"WANDB_MODE": "onlin"},
    ],
)
def test_impossible_settings(account, server, environment):
    assert account(**environment)["settings"].state == "fail"
    assert server.asked == []


@pytest.mark.parametrize(
    ("ahead", "state"), [(0, "ok"), (30, "ok"), (-100, "warn"), (100, "warn"), (7200, "fail")]
)
def test_clocks(account, server, tmp_path, monkeypatch, ahead, state):
    """Compared with W&B's clock, and with the disk's, from which this machine's differs by `ahead`."""
    server.ahead = ahead
    with_server = account()["clock vs W&B"]
    real = time.time
    monkeypatch.setattr(machine.time, "time", lambda: real() - ahead)  # the disk's clock is the kernel's
    with_disk = by_name(machine.out_folder(str(tmp_path)))["clock vs disk"]
    assert with_server.state == with_disk.state == state
    for line in (with_server, with_disk):
        assert ahead == 0 or ("behind" if ahead > 0 else "ahead") in line.found


# --------------------------------------------------------------------------------------- disks and quota


def test_the_five_folders(tmp_path, monkeypatch, programs):
    """They are where the client would put them; on a cluster, folders in the home folder are a risk."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("WANDB_ARTIFACT_DIR", str(tmp_path / "elsewhere"))
    before = tree(tmp_path)
    expected = dict.fromkeys(("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"), "ok")
    expected |= {"WANDB_CACHE_DIR": "fail", "home quota": "skipped"}
    found = by_name(machine.folders())
    assert states(found.values()) == expected
    home = tmp_path / "home"
    for name, place in {
        "WANDB_DIR": tmp_path / "wandb",
        "WANDB_CONFIG_DIR": home / ".config" / "wandb",
        "WANDB_DATA_DIR": home / ".local" / "share" / "wandb",
    }.items():
        assert found[name].found.startswith(f"{place}: ")
    programs["sinfo"] = (0, "", "")
    expected |= {"WANDB_CONFIG_DIR": "warn", "WANDB_DATA_DIR": "warn"}
    assert states(machine.folders()) == expected
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("space", "inodes", "state"),
    [
        (6e9, 10**6, "ok"),
        (4.9e9, 10**6, "warn"),
        (0.4e9, 10**6, "fail"),
        (6e9, 19_000, "warn"),
        (6e9, 900, "fail"),
        (4.9e9, 900, "fail"),
        (6e9, None, "ok"),  # a file system that does not count them
    ],
)
def test_room(tmp_path, monkeypatch, space, inodes, state):
    disk = {"f_frsize": 4096, "f_bavail": int(space / 4096), "f_files": 10**7, "f_favail": inodes}
    if inodes is None:
        disk |= {"f_files": 0, "f_favail": 0}
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**disk))
    assert machine.room(tmp_path / "not" / "yet")[0] == state
    assert by_name(machine.out_folder(str(tmp_path)))["space"].state == state


QUOTA = """\
Disk quotas for user joe (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
 nfs:/home/joe  {}
     /dev/sdb1  1000000  0  0  10  0  0
"""


@pytest.mark.parametrize(
    ("row", "share", "state"),
    [
        ("5000000  10000000 12000000  12000 0 0", "50%", "ok"),
        ("9500000  10000000 12000000  12000 0 0", "95%", "warn"),
        ("11000000* 10000000 12000000 6days 12000 0 0", "110%", "warn"),
        ("5000000  0 0  99000 0 100000", "99%", "warn"),
    ],
)
def test_quota(programs, row, share, state):
    programs["quota"] = (1, QUOTA.format(row), "")
    lines = list(machine.folders())
    mine, other = [line for line in lines if line.check == "home quota"]
    assert (mine.state, other.state) == (state, "ok")
    assert f" {share} " in mine.found
    assert next(line.state for line in lines if line.check == "WANDB_CACHE_DIR") == "warn"


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (FileNotFoundError("quota"), "skipped"),
        ((1, "", "quota: Cannot stat() mounted device"), "skipped"),
        (TimeoutError("`quota -w` gives no answer within 5 s"), "warn"),
    ],
)
def test_quota_not_known(programs, answer, state):
    programs["quota"] = answer
    assert by_name(machine.folders())["home quota"].state == state


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path):
    """All checks run programs in this one way."""
    script = tmp_path / "hangs"
    script.write_text(f"#!/bin/sh\n/bin/sleep 60 &\necho $! > {tmp_path}/pid\nwait\n")
    script.chmod(0o755)
    with pytest.raises(TimeoutError, match=r"0\.5 s"):
        machine.ask(str(script), seconds=0.5)
    assert process_start(int((tmp_path / "pid").read_text())) is None
    script.write_text("#!/bin/sh\necho out\necho 'first line\nsecond' >&2\nexit 3\n")
    assert machine.ask(str(script)) == (3, "out\n", "first line")
    with pytest.raises(FileNotFoundError):
        machine.ask("surely-not-there")


# -------------------------------------------------------------------------------------------------- GPU


def test_gpus_that_torch_does_not_see(programs, monkeypatch):
    import torch

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (11040).\nPlease update")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    assert states(machine.gpu()) == {"GPU": "ok"}  # there is none
    programs["nvidia-smi"] = (9, "", "NVIDIA-SMI could not communicate with the driver")
    assert states(machine.gpu()) == {"GPU": "ok"}
    programs["nvidia-smi"] = (0, "NVIDIA A100, 470.1\nNVIDIA A100, 470.1\n", "")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    line = by_name(machine.gpu())["GPU"]
    assert line.state == "fail"
    assert "too old" in line.found
    monkeypatch.setattr(torch.version, "cuda", None)  # a build for the CPU: no driver is to blame
    line = by_name(machine.gpu())["GPU"]
    assert line.state == "fail"
    assert "too old" not in line.found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert states(machine.gpu()) == {"GPU": "warn"}
    programs["nvidia-smi"] = TimeoutError("`nvidia-smi` gives no answer")
    assert states(doctor.look("GPU", Flags())) == {"GPU": "fail"}


def test_gpus_that_torch_sees(programs, monkeypatch):
    """One GPU is free, one is in use by somebody else, and one is unknown to this build of torch."""
    import torch

    def ones(n: int, device: str) -> Any:
        if device == "cuda:2":
            raise RuntimeError("CUDA error: no kernel image is available\nmore")
        return real(n)

    real = torch.ones
    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: ([80e9, 1e9][i], 140e9))
    assert states(machine.gpu()) == {"GPU 0": "ok", "GPU 1": "warn", "GPU 2": "fail"}


# -------------------------------------------------------------------------------------------- data sets


def test_absent_sets_and_new_ones(tmp_path, monkeypatch):
    """Sets that need no download are there; a set that a later version adds is checked, too."""

    def emoji(data_dir: Path) -> Any:
        if not (data_dir / "emoji").exists():
            raise DataError("--dataset=emoji is not there: get it with `python data/prepare.py emoji`")
        raise DataError("--dataset=emoji is damaged (train.gz): get it with `python data/prepare.py emoji`")

    monkeypatch.setitem(images.NAMED_SETS, "emoji", emoji)
    store = tmp_path / "store"
    expected = dict.fromkeys(("celeba", "lfw", "emoji", "mnist", "fashion", "shakespeare"), "skipped")
    expected |= dict.fromkeys(("synthetic", "digits", "pydoc"), "ok")
    found = by_name(doctor.data_sets(Flags(data_dir=str(store))))
    assert states(found.values()) == expected
    assert found["lfw"].mend == f"python data/prepare.py lfw --data_dir={store}"
    assert not store.exists()
    (store / "emoji").mkdir(parents=True)
    (store / "MNIST" / "raw").mkdir(parents=True)
    cut = store / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    cut.write_bytes(b"\x1f\x8b")
    found = by_name(doctor.data_sets(Flags(data_dir=str(store))))
    assert states(found.values()) == expected | {"emoji": "fail", "mnist": "fail"}
    assert str(cut) in found["mnist"].found


def test_damaged_celeba(tmp_path, monkeypatch):
    folder, content = tmp_path / "celeba", b"000001.jpg 0\n"
    (folder / "img_align_celeba").mkdir(parents=True)
    (folder / "list_eval_partition.txt").write_bytes(content)
    (folder / "img_align_celeba.zip").write_bytes(b"not read")
    recorded = [
        ("id", hashlib.md5(content).hexdigest(), "list_eval_partition.txt"),
        ("id", "0", "list_attr_celeba.txt"),
        ("id", "0", "img_align_celeba.zip"),
    ]
    fake = SimpleNamespace(CelebA=SimpleNamespace(file_list=recorded))  # torchvision takes seconds to import
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)

    def line() -> Line:
        return by_name(doctor.data_sets(Flags(data_dir=str(tmp_path))))["celeba"]

    assert line().state == "ok"
    (folder / "list_eval_partition.txt").write_bytes(b"000001.jpg 1\n")
    assert line().state == "fail"
    assert str(folder / "list_eval_partition.txt") in line().found
    assert line().mend.startswith(f"rm {folder}/list_eval_partition.txt && python data/prepare.py celeba")
    (folder / "img_align_celeba").rmdir()
    assert line().state == "fail"
    assert "img_align_celeba" in line().found


def test_lfw_and_its_cache(tmp_path):
    """A set that must be hashed to be recognised: nothing is left beside it, and its decoded copy is read
    back.
    """
    for i in range(20):
        person = tmp_path / "lfw-py" / "lfw_funneled" / f"Person_{i}"
        person.mkdir(parents=True)
        pixels = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(person / f"Person_{i}_0001.jpg")
    flags, before = Flags(data_dir=str(tmp_path)), tree(tmp_path)
    assert by_name(doctor.data_sets(flags))["lfw"].state == "ok"
    assert tree(tmp_path) == before
    (tmp_path / "lfw-py" / "lfw-funneled.tgz").write_bytes(b"cut off")
    assert by_name(doctor.data_sets(flags))["lfw"].state == "fail"
    (tmp_path / "lfw-py" / "lfw-funneled.tgz").unlink()
    *_, cache = images.load_arrays("lfw", str(tmp_path), 8)
    found = by_name(doctor.data_sets(flags))
    assert "8 pixels" in found["lfw"].found
    assert "image cache" not in found
    cache.write_bytes(cache.read_bytes()[:-1] + b"\0")
    line = by_name(doctor.data_sets(flags))["image cache"]
    assert line.state == "warn"
    assert line.mend == f"rm {cache}"


# ------------------------------------------------------------------------------------------------ SLURM

SINFO = "cpu*|up|1-00:00:00|4|(null)\ngpu|up|4:00:00|2|gpu:a100:4\ngpu|up|4:00:00|1|gpu:v100:2\n"
CONFIG = "Configuration data as of now\nMaxArraySize            = 1001\nMaxJobCount             = 10000\n"


def test_slurm(programs):
    assert states(machine.slurm()) == {"SLURM": "skipped"}
    programs["sinfo"] = (0, SINFO, "")
    programs["scontrol"] = (0, CONFIG, "")
    programs["sacct"] = (1, "", "Slurm accounting storage is disabled")  # none is needed
    found = by_name(machine.slurm())
    good = dict.fromkeys(("partition cpu", "partition gpu", "limits", "accounting"), "ok")
    assert states(found.values()) == good
    for part in ("4:00:00", "3 nodes", "gpu:a100:4", "gpu:v100:2"):
        assert part in found["partition gpu"].found
    programs["sinfo"] = (0, SINFO.replace("*", "").replace("gpu|up", "gpu|down"), "")  # and no default
    programs["scontrol"] = (0, CONFIG.replace("1001", "0"), "")
    bad = {"partition gpu": "warn", "partitions": "warn", "limits": "fail"}
    assert states(machine.slurm()) == good | bad


def test_slurm_without_its_controller(programs):
    programs["sinfo"] = (1, "", "slurm_load_partitions: Unable to contact slurm controller")
    line = by_name(machine.slurm())["SLURM"]
    assert line.state == "fail"
    assert "Unable to contact" in line.found
    programs["sinfo"] = (0, SINFO, "")
    programs["scontrol"] = TimeoutError("`scontrol show` gives no answer")  # what came before it stays
    lines = doctor.look("SLURM", Flags())
    assert states(lines) == {"partition cpu": "ok", "partition gpu": "ok", "SLURM": "fail"}


# ------------------------------------------------------------------------------------------------ --out


@pytest.mark.parametrize("there", [True, False])
def test_out_is_tried_and_left_as_it_was(tmp_path, there):
    out = tmp_path / "a" / "b" / "runs"
    if there:
        out.mkdir(parents=True)
        (out / "run").write_text("mine")
    before = tree(tmp_path)
    found = states(machine.out_folder(str(out)))
    assert list(found) == ["space", "file system", "write", "clock vs disk", "append", "leases"]
    assert {found[name] for name in ("write", "clock vs disk", "append", "leases")} == {"ok"}
    assert tree(tmp_path) == before


def test_out_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    line = by_name(machine.out_folder(str(tmp_path / "file" / "runs")))["write"]
    assert line.state == "fail"
    assert os.strerror(errno.ENOTDIR) in line.found


def test_full_disk(disk, monkeypatch):
    disk.fill(0)
    before = tree(disk.folder)
    found = by_name(machine.out_folder(str(disk.folder / "runs")))
    assert found["write"].state == "fail"
    assert os.strerror(errno.ENOSPC) in found["write"].found
    assert "leases" not in found
    assert tree(disk.folder) == before
    if disk.mounted:
        assert found["space"].state == "fail"
        assert found["file system"].found == "tmpfs"
        monkeypatch.setenv("WANDB_DATA_DIR", str(disk.folder / "wandb"))
        assert by_name(machine.folders())["WANDB_DATA_DIR"].state == "fail"
        assert tree(disk.folder) == before


def test_file_systems_that_cannot_hold_a_run(tmp_path, monkeypatch):
    """No hard links; hard links that replace; slow writes; appended rows that are lost."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def replace(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes())

    for link in (refuse, replace):
        monkeypatch.setattr(os, "link", link)
        assert by_name(machine.out_folder(str(tmp_path)))["leases"].state == "fail"
    monkeypatch.setattr(machine, "SLOW_MS", -1)
    assert by_name(machine.out_folder(str(tmp_path)))["write"].state == "warn"
    monkeypatch.setattr(machine, "append_row", lambda *_: None)
    assert by_name(machine.out_folder(str(tmp_path)))["append"].state == "fail"
    assert tree(tmp_path) == {"bin", "home"}


@pytest.mark.parametrize(
    ("state", "kinds"),
    [
        ("warn", ["nfs", "nfs4", "lustre", "cifs", "smb3", "fuse.sshfs", "9p"]),
        ("ok", ["ext4", "xfs", "fuse.other"]),
    ],
)
def test_network_file_systems(tmp_path, monkeypatch, state, kinds):
    monkeypatch.setattr(machine, "MOUNTS", tmp_path / "mounts")
    place = tmp_path / "my runs"
    place.mkdir()
    escaped = str(place).replace(" ", r"\040")  # as the kernel writes a blank
    for kind in kinds:
        mounts = [f"tmpfs {escaped}er tmpfs", f"server:/x {escaped} {kind}", "/dev/sda / ext3"]
        (tmp_path / "mounts").write_text("".join(f"{mount} rw 0 0\n" for mount in mounts))
        line = by_name(machine.out_folder(str(place / "runs")))["file system"]
        assert (line.found, line.state) == (kind, state)
        assert machine.mount_type(tmp_path) == "ext3"


# --------------------------------------------------------------------------------------------- pictures


def test_pictures(tmp_path, programs, monkeypatch):
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: "ffmpeg")
    programs["ffmpeg"] = (0, " V....D libx264\n", "ffmpeg version 7")
    assert states(machine.pictures()) == {"ffmpeg": "ok", "matplotlib": "ok"}
    assert not (tmp_path / "home" / ".cache").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "file" / "matplotlib"))
    without_libx264 = (0, " V..... mpeg4\n", "ffmpeg version 7")
    for answer in (without_libx264, (1, "", "cannot"), FileNotFoundError("ffmpeg"), RuntimeError("none")):
        programs["ffmpeg"] = answer
        assert states(machine.pictures()) == {"ffmpeg": "fail", "matplotlib": "warn"}


# ---------------------------------------------------------------------------------------------- the whole


def breaks(_: Flags) -> Iterator[Line]:
    yield Line("first", "ok", "good")
    raise ZeroDivisionError("on\npurpose")


def test_a_check_that_breaks_or_hangs(monkeypatch):
    """A dead file server hangs every process that looks at it: a line says so, as it does for any unforeseen
    error.
    """
    monkeypatch.setitem(doctor.GROUPS, "GPU", breaks)
    found = by_name(doctor.look("GPU", Flags()))
    assert states(found.values()) == {"first": "ok", "GPU": "fail"}
    assert "ZeroDivisionError: on purpose" in found["GPU"].found
    release = threading.Event()
    monkeypatch.setattr(doctor, "GROUP_S", 0.2)
    monkeypatch.setitem(doctor.GROUPS, "GPU", lambda _: iter([release.wait(30)][:0]))
    began = time.monotonic()
    assert states(doctor.look("GPU", Flags())) == {"GPU": "fail"}
    assert time.monotonic() - began < 10
    release.set()


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("skipped", 0), ("fail", 1)])
def test_exit_code_and_output(monkeypatch, capsys, as_json, state, code):
    def group(_: Flags) -> Iterator[Line]:
        print("a library talks")
        yield Line("thing", state, "[bold]found[/]", "do this")

    monkeypatch.setattr(doctor, "GROUPS", {"Things": group})
    with pytest.raises(SystemExit) as stop:
        doctor.run(Flags(json=as_json))
    assert stop.value.code == code
    out = capsys.readouterr().out
    mend = "" if state == "ok" else "do this"
    if as_json:
        line = {"check": "thing", "state": state, "found": "[bold]found[/]", "mend": mend}
        assert json.loads(out) == [line]
    else:
        assert "a library talks" not in out
        assert out.split("\n")[1].split() == [state, "thing", "[bold]found[/]"]
        assert ("do this" in out) == bool(mend)


@pytest.mark.parametrize("flag", ["--otu=x", "--wandb=onlin"])
def test_a_wrong_flag(monkeypatch, capsys, flag):
    monkeypatch.setattr(sys, "argv", ["doctor.py", flag])
    with pytest.raises(SystemExit) as stop:
        main(Flags, doctor.run)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {'unknown flag --otu' if 'otu' in flag else flag}")
    assert err.count("\n") == 1


def test_the_real_command(tmp_path, monkeypatch):
    """Everything at once on this machine, from elsewhere: exit code, JSON and nothing else, nothing left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    before = tree(tmp_path)
    command = [sys.executable, str(ROOT / "launch" / "doctor.py"), "--json", "--wandb=online"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    lines = json.loads(done.stdout)
    assert {line["check"] for line in lines if line["state"] == "fail"} == {"server"}
    some_of_each = {"python", "mode", "WANDB_DIR", "synthetic", "SLURM", "leases", "ffmpeg"}
    assert some_of_each <= {line["check"] for line in lines}
    assert KEY not in done.stdout
    assert tree(tmp_path) == before
