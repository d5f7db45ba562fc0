"""The doctor finds faults that are really there, says how to mend them, and leaves nothing behind."""

import base64
import errno
import hashlib
import http.server
import json
import os
import re
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
from research.common.lease import process_start
from tests.test_faults import SmallDisk

ROOT = Path(__file__).resolve().parents[1]
KEY = "0123456789abcdef" * 3
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, no commands on PATH, no proxy, W&B not set up; returns the folder of commands."""
    from wandb.sdk import wandb_setup

    (tmp_path / "home").mkdir()
    (tmp_path / "bin").mkdir()
    for name in (
        *PROXIES,
        *map(str.upper, PROXIES),
        "NETRC",
        "CUDA_VISIBLE_DEVICES",
        "XDG_CACHE_HOME",
        "XDG_DATA_HOME",
        "XDG_CONFIG_HOME",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_FILE",
        "MPLCONFIGDIR",
        "IMAGEIO_FFMPEG_EXE",
        "COLUMNS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(wandb_setup, "_singleton", None)
    return tmp_path / "bin"


@pytest.fixture
def command(bare: Path) -> Callable[..., None]:
    """command(name, says, code): a program on PATH that prints `says` and exits with `code`."""

    def make(name: str, says: str = "", code: int = 0, script: str = "") -> None:
        (bare / f"{name}.txt").write_text(says)
        script = script or f"/bin/cat {bare}/{name}.txt {'' if code == 0 else '>&2'}\nexit {code}\n"
        (bare / name).write_text("#!/bin/sh\n" + script)
        (bare / name).chmod(0o755)

    return make


@pytest.fixture
def hanging(
    bare: Path, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """hanging(name): a program on PATH whose child sleeps; returns the file with the child's pid."""
    monkeypatch.setattr(machine, "COMMAND_S", 0.5)
    monkeypatch.setattr(machine, "QUOTA_S", 0.5)

    def make(name: str) -> Path:
        command(name, script=f"/bin/sleep 60 &\necho $! > {bare}/pid\nwait\n")
        return bare / "pid"

    return make


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    monkeypatch.setenv("PATH", os.defpath)  # for mount
    disk = SmallDisk(tmp_path / "disk", monkeypatch)
    yield disk
    if disk.mounted:
        subprocess.run(
            ["umount", "-l", str(disk.folder)], check=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        )


def by_name(lines: Any) -> dict[str, Line]:
    """The lines by their check; what is wrong says how to mend it, what is right does not."""
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


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


# ---------------------------------------------------------------------------------------------- versions


def test_versions(tmp_path, monkeypatch):
    found = by_name(doctor.versions(Flags()))
    assert {line.state for line in found.values()} == {"ok"}
    assert set(found) == {"python", "numpy", "torch", "wandb", "sweeps"}
    assert found["wandb"].found.endswith(", as pinned")
    asks = '"wandb==0.1.2", "numpy>=1", "surely-not-there>=3", "rich<1"'
    project = f'[project]\nrequires-python = ">=3.99"\ndependencies = [{asks}]\n'
    (tmp_path / "pyproject.toml").write_text(project)
    monkeypatch.setattr(doctor, "PYPROJECT", tmp_path / "pyproject.toml")
    found = by_name(doctor.versions(Flags()))
    bad = ("python", "wandb", "surely-not-there", "rich")
    assert {name: line.state for name, line in found.items()} == dict.fromkeys(bad, "fail") | {"numpy": "ok"}
    assert "pip install 'wandb==0.1.2'" in found["wandb"].mend
    assert found["surely-not-there"].found.startswith("not installed")


# -------------------------------------------------------------------------------------------------- W&B


class Server:
    """What a W&B server answers to the question who one is, and what it was asked."""

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
        (None, {}, "offline (not logged in)", "warn"),
        (None, {"WANDB_API_KEY": KEY}, "online (logged in)", "ok"),
        (None, {"WANDB_MODE": "dryrun", "WANDB_API_KEY": KEY}, "offline (WANDB_MODE)", "ok"),
        (None, {"WANDB_MODE": "online"}, "online (WANDB_MODE)", "fail"),
        ("online", {"WANDB_MODE": "offline"}, "online (--wandb)", "fail"),
        ("offline", {"WANDB_MODE": "online"}, "offline (--wandb)", "warn"),
    ],
)
def test_mode_and_login(account, flag, environment, mode, login):
    found = account(flag, **environment)
    assert found["mode"].found == mode
    assert found["login"].state == login
    assert login == "ok" or "wandb login" in found["login"].mend
    assert ("account" in found) == ("WANDB_API_KEY" in environment)


def test_wandb_offline_was_said(account, tmp_path):
    (tmp_path / "home" / ".config" / "wandb").mkdir(parents=True)
    (tmp_path / "home" / ".config" / "wandb" / "settings").write_text("[default]\nmode = offline\n")
    assert account(WANDB_API_KEY=KEY)["mode"].found == "offline (as `wandb offline` says)"


def test_disabled_asks_nobody(account, server):
    for found in (account("disabled"), account(WANDB_MODE="disabled")):
        assert [line.state for line in found.values()] == ["skipped"]
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
    assert ("WANDB_API_KEY" if place == "environment" else "netrc") in found["login"].found
    [(path, authorization, query)] = server.asked
    assert path == "/graphql"
    assert base64.b64decode(authorization.removeprefix("Basic ")).decode() == f"api:{KEY}"
    assert "viewer" in query


@pytest.mark.parametrize(
    ("code", "body", "bad", "words"),
    [
        (401, "{}", "account", "refused"),
        (200, '{"data": {"viewer": null}}', "account", "refused"),
        (500, "", "server", "HTTP 500"),
        (404, "{}", "server", "HTTP 404"),
        (200, "<html>Accept our terms</html>", "server", "not as W&B"),
        (302, "", "server", "https://login.example"),
    ],
)
def test_bad_answers(account, server, code, body, bad, words):
    server.code, server.body = code, body
    server.headers = {"Location": "https://login.example"} if code == 302 else {}
    found = account("online", WANDB_API_KEY=KEY)
    assert {name for name, line in found.items() if line.state == "fail"} == {bad}
    assert words in found[bad].found
    assert account("offline")[bad].state == "warn"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("fault", ["refused", "timeout", "TLS", "proxy", "DNS"])
def test_unreachable(account, server, monkeypatch, fault):
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
        assert "--wandb=offline" in found["server"].mend
        assert found["clock vs W&B"].state == "skipped"
        assert account("offline")["server"].state == "warn"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WANDB_API_KEY": "short"}, "40+ characters"),
        ({"WANDB_BASE_URL": "https://wandb.ai"}, "did you mean"),
        ({"WANDB_BASE_URL": "nonsense"}, "valid URL"),
        ({"WANDB_MODE": "onlin"}, "onlin"),
    ],
)
def test_impossible_settings(account, server, environment, words):
    found = account(**environment)
    assert found["settings"].state == "fail"
    assert words in found["settings"].found
    assert server.asked == []


@pytest.mark.parametrize(
    ("ahead", "state"), [(0, "ok"), (30, "ok"), (-100, "warn"), (100, "warn"), (7200, "fail")]
)
def test_clocks(account, server, tmp_path, monkeypatch, ahead, state):
    server.ahead = ahead
    line = account()["clock vs W&B"]
    assert line.state == state
    if ahead:
        told = re.search(r"is ([\d,]+) s (ahead|behind)", line.found)
        assert abs(int(told[1].replace(",", "")) - abs(ahead)) <= 2  # the header has whole seconds
        assert told[2] == ("behind" if ahead > 0 else "ahead")
    real = time.time
    monkeypatch.setattr(machine.time, "time", lambda: real() - ahead)  # the disk's clock is the kernel's
    line = by_name(machine.out_folder(str(tmp_path)))["clock vs disk"]
    assert line.state == state
    assert ahead == 0 or ("behind" if ahead > 0 else "ahead") in line.found


# --------------------------------------------------------------------------------------- disks and quota


def test_the_five_folders(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("WANDB_ARTIFACT_DIR", str(tmp_path / "elsewhere"))
    before = tree(tmp_path)
    found = by_name(machine.folders())
    home, defaults = tmp_path / "home", {"WANDB_CONFIG_DIR": ".config", "WANDB_DATA_DIR": ".local/share"}
    assert found["WANDB_CACHE_DIR"].state == "fail"
    assert "Not a directory" in found["WANDB_CACHE_DIR"].found
    assert found["WANDB_CACHE_DIR"].mend.startswith("export WANDB_CACHE_DIR=")
    assert found["WANDB_DIR"].found.startswith(f"{tmp_path}/wandb: ")
    for name, place in defaults.items():
        assert found[name].found.startswith(f"{home}/{place}/wandb: "), "as in Linux"
        assert found[name].state == "ok"
    command("sinfo")
    found = by_name(machine.folders())
    states = {name: line.state for name, line in found.items() if name.startswith("WANDB")}
    expected = dict.fromkeys(defaults, "warn") | {"WANDB_CACHE_DIR": "fail"}
    assert states == expected | {"WANDB_DIR": "ok", "WANDB_ARTIFACT_DIR": "ok"}, (
        "only those in the home folder"
    )
    assert tree(tmp_path) - before == {"bin/sinfo", "bin/sinfo.txt"}


@pytest.mark.parametrize(
    ("space", "inodes", "state"),
    [
        (6e9, 10**6, "ok"),
        (4.9e9, 10**6, "warn"),
        (0.4e9, 10**6, "fail"),
        (6e9, 19_000, "warn"),
        (6e9, 900, "fail"),
        (4.9e9, 900, "fail"),
        (6e9, None, "ok"),
    ],
)
def test_room(tmp_path, monkeypatch, space, inodes, state):
    told = {"f_frsize": 4096, "f_bavail": int(space / 4096), "f_files": 10**7, "f_favail": inodes}
    told |= {"f_files": 0, "f_favail": 0} if inodes is None else {}
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**told))
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
def test_quota(command, row, share, state):
    command("quota", QUOTA.format(row))
    lines = list(machine.folders())
    quotas = [line for line in lines if line.check == "home quota"]
    assert [line.state for line in quotas] == [state, "ok"]
    assert f"nfs:/home/joe: {int(row.split()[0].rstrip('*')) * 1024 / 1e9:.1f} GB" in quotas[0].found
    assert f" {share} of the limit" in quotas[0].found
    cache = next(line for line in lines if line.check == "WANDB_CACHE_DIR")
    assert cache.state == "warn"
    assert "its quota" in cache.found


def test_quota_not_known(command, hanging):
    assert by_name(machine.folders())["home quota"].found == "not known: no command `quota` here"
    command("quota", "quota: Cannot stat() mounted device", code=1)
    assert "Cannot stat()" in by_name(machine.folders())["home quota"].found
    pid = hanging("quota")
    line = by_name(machine.folders())["home quota"]
    assert line.state == "warn"
    assert "no answer within 0.5 s" in line.found
    assert process_start(int(pid.read_text())) is None, "what hangs is ended, its child too"


# -------------------------------------------------------------------------------------------------- GPU


def test_gpus_that_torch_does_not_see(command, hanging, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert list(machine.gpu()) == [Line("GPU", "ok", "no GPU: runs on the CPU")]
    command("nvidia-smi", "NVIDIA-SMI has failed because it could not communicate with the driver", code=9)
    line = by_name(machine.gpu())["GPU"]
    assert line.state == "ok"
    assert "could not communicate" in line.found
    command("nvidia-smi", "NVIDIA A100, 470.1\nNVIDIA A100, 470.1\n")

    def init() -> None:
        raise RuntimeError(
            "The NVIDIA driver on your system is too old (found version 11040).\nPlease update"
        )

    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    line = by_name(machine.gpu())["GPU"]
    assert line.state == "fail"
    assert "too old" in line.found
    assert "driver 470.1" in line.mend
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "no CUDA" in by_name(machine.gpu())["GPU"].found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    line = by_name(machine.gpu())["GPU"]
    assert line.state == "warn"
    assert line.mend == "unset CUDA_VISIBLE_DEVICES"
    pid = hanging("nvidia-smi")
    line = doctor.look("GPU", Flags())[0]
    assert line.state == "fail"
    assert "`nvidia-smi " in line.found
    assert "no answer within 0.5 s" in line.found
    assert process_start(int(pid.read_text())) is None


def test_gpus_that_torch_sees(monkeypatch):
    import torch

    def ones(n: int, device: str) -> Any:
        if device == "cuda:2":
            raise RuntimeError("CUDA error: no kernel image is available\nmore")
        return real(n)

    real = torch.ones
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,3")
    monkeypatch.setattr(torch, "ones", ones)
    for name, told in {
        "is_available": True,
        "device_count": 3,
        "get_device_name": "H200",
        "mem_get_info": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, told=told: told)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: ([80e9, 1e9][i], 140e9))
    found = by_name(machine.gpu())
    assert [line.state for line in found.values()] == ["ok", "warn", "fail"]
    assert found["GPU 0"].found == "H200: 80.0 of 140.0 GB free (CUDA_VISIBLE_DEVICES=0,1,3)"
    assert "no kernel image" in found["GPU 2"].found


# -------------------------------------------------------------------------------------------- data sets


def test_absent_sets_and_new_ones(tmp_path, monkeypatch):
    def emoji(data_dir: Path) -> Any:
        if not (data_dir / "emoji").exists():
            raise DataError("--dataset=emoji is not there: get it with `python data/prepare.py emoji`")
        raise DataError("--dataset=emoji is damaged (train.gz): get it with `python data/prepare.py emoji`")

    monkeypatch.setitem(images.NAMED_SETS, "emoji", emoji)
    found = by_name(doctor.data_sets(Flags(data_dir=str(tmp_path / "store"))))
    states = {
        "synthetic": "ok",
        "celeba": "skipped",
        "lfw": "skipped",
        "emoji": "skipped",
        "digits": "ok",
        "mnist": "skipped",
        "fashion": "skipped",
        "pydoc": "ok",
        "shakespeare": "skipped",
    }
    assert {name: line.state for name, line in found.items()} == states
    assert found["lfw"].mend == f"python data/prepare.py lfw --data_dir={tmp_path}/store"
    assert not (tmp_path / "store").exists()
    (tmp_path / "store" / "emoji").mkdir(parents=True)
    (tmp_path / "store" / "MNIST" / "raw").mkdir(parents=True)
    cut = tmp_path / "store" / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    cut.write_bytes(b"\x1f\x8b")
    found = by_name(doctor.data_sets(Flags(data_dir=str(tmp_path / "store"))))
    assert found["emoji"].state == found["mnist"].state == "fail"
    assert found["emoji"].found == "is damaged (train.gz)"
    assert found["mnist"].found == f"is incomplete or damaged ({cut}: cut off within its gzip stream)"
    assert found["mnist"].mend == f"python data/prepare.py mnist --data_dir={tmp_path}/store"


def test_damaged_celeba(tmp_path, monkeypatch):
    from torchvision.datasets import CelebA

    folder, content = tmp_path / "celeba", b"000001.jpg 0\n"
    (folder / "img_align_celeba").mkdir(parents=True)
    (folder / "list_eval_partition.txt").write_bytes(content)
    (folder / "img_align_celeba.zip").write_bytes(b"not read")
    recorded = [
        ("id", hashlib.md5(content).hexdigest(), "list_eval_partition.txt"),
        ("id", "0", "list_attr_celeba.txt"),
        ("id", "0", "img_align_celeba.zip"),
    ]
    monkeypatch.setattr(CelebA, "file_list", recorded)
    line = by_name(doctor.data_sets(Flags(data_dir=str(tmp_path))))["celeba"]
    assert line.state == "ok"
    assert "decoded at first use" in line.found
    (folder / "list_eval_partition.txt").write_bytes(b"000001.jpg 1\n")
    line = by_name(doctor.data_sets(Flags(data_dir=str(tmp_path))))["celeba"]
    assert line.state == "fail"
    assert line.found == f"checksum differs: {folder}/list_eval_partition.txt"
    assert line.mend.startswith(f"rm {folder}/list_eval_partition.txt && python data/prepare.py celeba")
    (folder / "img_align_celeba").rmdir()
    assert "img_align_celeba" in by_name(doctor.data_sets(Flags(data_dir=str(tmp_path))))["celeba"].found


def test_lfw_and_its_cache(tmp_path):
    """A set that is hashed to be known: nothing is left beside it; its decoded copy is read back."""
    for i in range(20):
        person = tmp_path / "lfw-py" / "lfw_funneled" / f"Person_{i}"
        person.mkdir(parents=True)
        pixels = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(person / f"Person_{i}_0001.jpg")
    flags, before = Flags(data_dir=str(tmp_path)), tree(tmp_path)
    assert by_name(doctor.data_sets(flags))["lfw"].state == "ok"
    assert tree(tmp_path) == before
    (tmp_path / "lfw-py" / "lfw-funneled.tgz").write_bytes(b"cut off")
    assert "checksum differs" in by_name(doctor.data_sets(flags))["lfw"].found
    (tmp_path / "lfw-py" / "lfw-funneled.tgz").unlink()
    *_, cache = images.load_arrays("lfw", str(tmp_path), 8)
    found = by_name(doctor.data_sets(flags))
    assert found["lfw"].found.endswith("decoded at 8 pixels")
    assert "image cache" not in found
    cache.write_bytes(cache.read_bytes()[:-1] + b"\0")
    line = by_name(doctor.data_sets(flags))["image cache"]
    assert line.state == "warn"
    assert line.mend == f"rm {cache}"


# ------------------------------------------------------------------------------------------------ SLURM

SINFO = "cpu*|up|1-00:00:00|4|(null)\ngpu|up|4:00:00|2|gpu:a100:4\ngpu|up|4:00:00|1|gpu:v100:2\n"
CONFIG = "Configuration data as of now\nMaxArraySize            = 1001\nMaxJobCount             = 10000\n"


def test_slurm(command):
    assert list(machine.slurm()) == [Line("SLURM", "skipped", "no SLURM here")]
    command("sinfo", SINFO)
    command("scontrol", CONFIG)
    command("sacct", "Slurm accounting storage is disabled", code=1)
    found = by_name(machine.slurm())
    assert {line.state for line in found.values()} == {"ok"}
    assert found["partition cpu"].found == "up, at most 1-00:00:00, 4 nodes, no gres, default"
    assert found["partition gpu"].found == "up, at most 4:00:00, 3 nodes, gpu:a100:4, gpu:v100:2"
    assert found["limits"].found == "MaxArraySize 1001, MaxJobCount 10000"
    assert "disabled" in found["accounting"].found
    command("sinfo", SINFO.replace("*", "").replace("gpu|up", "gpu|down"))
    command("scontrol", CONFIG.replace("1001", "0"))
    command("sacct")
    found = by_name(machine.slurm())
    states = {"partition cpu": "ok", "partition gpu": "warn", "partitions": "warn", "limits": "fail"}
    assert {name: line.state for name, line in found.items()} == states | {"accounting": "ok"}
    assert found["accounting"].found == "sacct works"


def test_slurm_without_its_controller(command, hanging):
    command("sinfo", "slurm_load_partitions: Unable to contact slurm controller", code=1)
    line = by_name(machine.slurm())["SLURM"]
    assert line.state == "fail"
    assert "Unable to contact" in line.found
    command("sinfo", SINFO)
    pid, start = hanging("scontrol"), time.monotonic()
    lines = doctor.look("SLURM", Flags())
    assert time.monotonic() - start < 5
    assert [line.state for line in lines] == ["ok", "ok", "fail"]
    assert "`scontrol show` gives no answer" in lines[-1].found
    assert process_start(int(pid.read_text())) is None


# ------------------------------------------------------------------------------------------------ --out


@pytest.mark.parametrize("there", [True, False])
def test_out_is_tried_and_left_as_it_was(tmp_path, there):
    out = tmp_path / "a" / "b" / "runs"
    if there:
        out.mkdir(parents=True)
        (out / "run").write_text("mine")
    before = tree(tmp_path)
    found = by_name(machine.out_folder(str(out)))
    assert list(found) == ["space", "file system", "write", "clock vs disk", "append", "leases"]
    assert {found[name].state for name in ("write", "clock vs disk", "append", "leases")} == {"ok"}
    assert tree(tmp_path) == before


def test_out_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    line = by_name(machine.out_folder(str(tmp_path / "file" / "runs")))["write"]
    assert line.state == "fail"
    assert "Not a directory" in line.found
    assert "--out" in line.mend


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


def test_file_systems_that_cannot_hold_a_lease(tmp_path, monkeypatch):
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    line = by_name(machine.out_folder(str(tmp_path)))["leases"]
    assert line.state == "fail"
    assert "no hard links" in line.found
    monkeypatch.setattr(os, "link", lambda a, b: Path(b).write_bytes(Path(a).read_bytes()))
    line = by_name(machine.out_folder(str(tmp_path)))["leases"]
    assert line.state == "fail"
    assert "two could write" in line.found
    monkeypatch.setattr(machine, "SLOW_MS", -1)
    assert by_name(machine.out_folder(str(tmp_path)))["write"].state == "warn"
    monkeypatch.setattr(machine, "append_row", lambda *_: None)
    assert by_name(machine.out_folder(str(tmp_path)))["append"].state == "fail"
    assert tree(tmp_path) == {"bin", "home"}


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("nfs", "warn"),
        ("nfs4", "warn"),
        ("lustre", "warn"),
        ("cifs", "warn"),
        ("smb3", "warn"),
        ("fuse.sshfs", "warn"),
        ("9p", "warn"),
        ("ext4", "ok"),
        ("xfs", "ok"),
        ("fuse.other", "ok"),
    ],
)
def test_network_file_systems(tmp_path, monkeypatch, kind, state):
    place = tmp_path / "my runs"
    place.mkdir()
    mounts = [("tmpfs", f"{place}er", "tmpfs"), ("server:/x", place, kind), ("/dev/sda", "/", "ext3")]
    rows = [
        f"{source} {str(where).replace(' ', chr(92) + '040')} {k} rw 0 0\n" for source, where, k in mounts
    ]
    (tmp_path / "mounts").write_text("".join(rows))
    monkeypatch.setattr(machine, "MOUNTS", tmp_path / "mounts")
    line = by_name(machine.out_folder(str(place / "runs")))["file system"]
    assert (line.found, line.state) == (kind, state)
    assert machine.mount_type(tmp_path) == "ext3"


# --------------------------------------------------------------------------------------------- pictures


def test_pictures(tmp_path, command, bare, monkeypatch):
    found = by_name(machine.pictures())
    assert [line.state for line in found.values()] == ["ok", "ok"]
    assert found["ffmpeg"].found.startswith("ffmpeg version")
    assert found["matplotlib"].found.startswith(f"{tmp_path}/home/.cache/matplotlib")
    assert not (tmp_path / "home" / ".cache").exists()
    command("ffmpeg", " V..... mpeg4\n")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(bare / "ffmpeg"))
    monkeypatch.setenv("MPLCONFIGDIR", str(bare / "ffmpeg" / "matplotlib"))
    found = by_name(machine.pictures())
    assert found["ffmpeg"].state == "fail"
    assert "libx264" in found["ffmpeg"].found
    assert found["matplotlib"].state == "warn"
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(bare / "not there"))
    assert by_name(machine.pictures())["ffmpeg"].state == "fail"


# ---------------------------------------------------------------------------------------------- the whole


def breaks(_: Flags) -> Iterator[Line]:
    yield Line("first", "ok", "fine")
    raise ZeroDivisionError("on\npurpose")


def test_a_check_that_breaks_or_hangs(monkeypatch):
    monkeypatch.setitem(doctor.GROUPS, "GPU", breaks)
    lines = doctor.look("GPU", Flags())
    assert [line.state for line in lines] == ["ok", "fail"]
    assert "ZeroDivisionError: on purpose" in by_name(lines)["GPU"].found
    release = threading.Event()
    monkeypatch.setattr(doctor, "GROUP_S", 0.2)
    monkeypatch.setitem(doctor.GROUPS, "GPU", lambda _: iter([release.wait(30)][:0]))
    [line] = doctor.look("GPU", Flags())
    release.set()
    assert line.state == "fail"
    assert "no end within 0.2 s" in line.found


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
        assert json.loads(out) == [
            {"check": "thing", "state": state, "found": "[bold]found[/]", "mend": mend}
        ]
    else:
        assert "a library talks" not in out
        assert out.split("\n")[1].split() == [state, "thing", "[bold]found[/]"]
        assert ("do this" in out) == bool(mend)


def test_the_real_command(tmp_path, monkeypatch):
    """Everything at once on this machine, from elsewhere: exit code, JSON and nothing else, nothing left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    before = tree(tmp_path)

    def call(*flags: str) -> subprocess.CompletedProcess:
        script = str(ROOT / "launch" / "doctor.py")
        return subprocess.run([sys.executable, script, *flags], capture_output=True, text=True, timeout=60)

    done = call("--json", "--wandb=online")
    assert (done.returncode, done.stderr) == (1, "")
    lines = json.loads(done.stdout)
    assert {line["check"] for line in lines if line["state"] == "fail"} == {"server"}
    assert {"python", "mode", "WANDB_DIR", "synthetic", "SLURM", "leases", "ffmpeg"} <= {
        line["check"] for line in lines
    }
    assert KEY not in done.stdout
    assert tree(tmp_path) == before
    done = call("--otu=x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown flag --otu; did you mean --out?\n"
    assert call("--wandb=onlin").returncode == 2
