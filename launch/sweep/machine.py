"""Checks of a machine: W&B's folders, GPUs, SLURM, the disk for runs, ffmpeg. They leave nothing behind.

Each check yields lines for launch/doctor.py; a command that hangs raises TimeoutError.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from research.common.folder import append_row, read_json, read_rows, write_json

MOUNTS = Path("/proc/mounts")
COMMAND_S, QUOTA_S = 10.0, 5.0  # how long a command may take
SPACE, INODES = (5e9, 0.5e9), (20_000, 1_000)  # bytes; files: warn below the first, fail below the second
CLOCK_S = (60, 3600)  # seconds: warn above the first, fail above the second
GPU_FREE = 2e9  # bytes; if less is free, somebody else is using the GPU
SLOW_MS = 200  # for a small durable write, such as each beat of a lease and each status
COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}  # from good to bad
NO_LINKS = "hard links may be missing (then no run can take its lease), and fsync guarantees little"
NETWORK = {  # file systems with known problems, and what to pay attention to
    "nfs": "machines see each other's changes late: keep clocks right and the mount's acregmax at 60 or less",
    "lustre": "many small files are slow: fewer pictures (--sample_every), data sets unpacked once",
    "cifs": NO_LINKS,
    "smb": NO_LINKS,
    "fuse.sshfs": NO_LINKS,
    "9p": "a share of the host (WSL's /mnt/c): slow, fsync guarantees little: use Linux's own file system",
}
State = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Line:
    """The result of one check, and how to solve the problem, if there is one."""

    check: str
    state: State
    found: str
    mend: str = ""

    def __post_init__(self):
        if self.state == "ok":  # nothing to mend
            object.__setattr__(self, "mend", "")


def ask(*command: str, seconds: float | None = None) -> tuple[int, str, str]:
    """Run a command; returns exit code, output, and the first line of its error output (else of its output).

    TimeoutError: it does not end in time.
    """
    seconds, pipe = seconds or COMMAND_S, subprocess.PIPE
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env=os.environ | {"LC_ALL": "C"},
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGKILL)  # its children too, because they keep the pipes open
            process.communicate(timeout=2)
        raise TimeoutError(f"`{' '.join(command[:2])}` gives no answer within {seconds:g} s") from None
    return process.returncode, out, (err.strip() or out.strip()).partition("\n")[0]


def level(value: float, limits: tuple[float, float]) -> State:
    return "fail" if value < limits[1] else "warn" if value < limits[0] else "ok"


def existing(path: Path) -> Path:
    """`path` itself, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    return next(p for p in (path, *path.parents) if os.path.lexists(p))


def room(path: Path) -> tuple[State, str]:
    """State and description of the free space and inodes where `path` lies or will lie."""
    disk = os.statvfs(existing(path))
    space = disk.f_bavail * disk.f_frsize
    states, found = [level(space, SPACE)], f"{space / 1e9:,.1f} GB free"
    if disk.f_files:  # else this file system does not count them
        states.append(level(disk.f_favail, INODES))
        found += f", {disk.f_favail:,} inodes free"
    return max(states, key=list(COLOURS).index), found


def writable(path: Path) -> tuple[State, str]:
    """Like `room`, but the state is fail, with the reason, if nothing can be written. It leaves nothing
    behind.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=existing(path)) as folder:
            Path(folder, "file").write_bytes(bytes(4096))
        return room(path)
    except OSError as error:
        return "fail", error.strerror or str(error)


def clock(other: str, ahead: float) -> Line:
    """The line for this machine's clock, which is `ahead` seconds ahead of another one."""
    warn, fail = CLOCK_S
    state = level(-abs(ahead), (-warn, -fail))
    found = f"this machine is {abs(ahead):,.0f} s {'ahead' if ahead > 0 else 'behind'}"
    if abs(ahead) <= 2:
        found = "equal to a second or two"
    elif state != "ok":
        found += ": certificates, leases and curves over time go wrong"
    return Line(f"clock vs {other}", state, found, "sudo timedatectl set-ntp true")


def folders() -> Iterator[Line]:
    """W&B's five folders, and the quota of the home folder, where most of them lie by default."""
    from wandb import env

    quotas, unknown = read_quotas()
    small = ""  # a reason to keep large files out of the home folder
    if quotas:
        small = "its quota"
    elif shutil.which("sinfo"):
        small = "small on clusters"
    places = {  # as wandb/env.py and sdk/wandb_setup.py have them; runs write to their own folder under --out
        "WANDB_DIR": Path(env.get_dir() or ".") / "wandb",
        "WANDB_CACHE_DIR": env.get_cache_dir(),
        "WANDB_CONFIG_DIR": Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")),
        "WANDB_DATA_DIR": Path(env.get_data_dir()),
        "WANDB_ARTIFACT_DIR": Path(env.get_artifact_dir()),
    }
    for name, path in places.items():
        path = path.expanduser().absolute()
        state, found = writable(path)
        if state == "ok" and small and path.resolve().is_relative_to(Path.home().resolve()):
            state, found = "warn", f"{found}; in the home folder ({small})"
        if name == "WANDB_DIR":
            found += "; only for `wandb sweep` and `wandb agent`"
        yield Line(name, state, f"{path}: {found}", f"export {name}=<a folder on a large disk>")
    for where, used, share in quotas:
        mend = "du -xh -d2 ~ | sort -h | tail; wandb artifact cache cleanup 1GB"
        found = f"{where}: {used}, {share:.0%} of the limit"
        yield Line("home quota", "warn" if share > 0.9 else "ok", found, mend)
    if not quotas and "no answer" in unknown:
        mend = "try df ~; tell whoever runs the file server of the home folders"
        yield Line("home quota", "warn", f"not known: {unknown}", mend)
    elif not quotas:
        yield Line("home quota", "skipped", f"not known: {unknown}")


def read_quotas() -> tuple[list[tuple[str, str, float]], str]:
    """(file system, used, share of the limit) for each quota, and a reason in case there is none."""
    found = []
    try:
        _, out, complaint = ask("quota", "-w", seconds=QUOTA_S)  # its code only says whether one is exceeded
    except FileNotFoundError:
        return [], "no command `quota` here"
    except TimeoutError as error:
        return [], str(error)
    for where, *words in filter(None, map(str.split, out.splitlines())):
        # KiB, soft, hard, files, soft, hard; a * marks an exceeded limit; a grace period may be in between
        figures = [int(word.rstrip("*")) for word in words if re.fullmatch(r"\d+\*?", word)]
        if len(figures) == 6:
            limits = [(figures[i], figures[i + 1] or figures[i + 2]) for i in (0, 3)]
            share = max((n / limit for n, limit in limits if limit), default=0.0)
            found.append((where, f"{figures[0] * 1024 / 1e9:,.1f} GB in {figures[3]:,} files", share))
    return found, complaint or "no quota is set"


def gpu() -> Iterator[Line]:
    """The GPUs that torch sees, compared with those that nvidia-smi lists."""
    visible, listed, complaint = os.environ.get("CUDA_VISIBLE_DEVICES"), [], ""
    note = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
    with contextlib.suppress(FileNotFoundError):
        code, out, complaint = ask("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
        listed = out.strip().splitlines() if code == 0 else []
    import torch

    warnings.simplefilter("ignore")  # torch's warnings only repeat what its exceptions say
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            try:
                torch.ones(2, device=f"cuda:{i}").sum().item()  # works if torch has kernels for this GPU
                free, total = torch.cuda.mem_get_info(i)
                state = "ok" if free > GPU_FREE else "warn"
                found = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
            except RuntimeError as error:
                state, found = "fail", str(error).partition("\n")[0]
            mend = "see nvidia-smi; leave it out with CUDA_VISIBLE_DEVICES, or install a torch built for it"
            yield Line(f"GPU {i}", state, f"{torch.cuda.get_device_name(i)}: {found}{note}", mend)
    elif listed and visible in ("", "-1", "NoDevFiles"):
        yield Line("GPU", "warn", f"{len(listed)} hidden{note}", "unset CUDA_VISIBLE_DEVICES")
    elif listed:
        why, driver = "this build has no CUDA", listed[0].rpartition(", ")[2]
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            why = str(error).partition("\n")[0] if torch.version.cuda else why
        found = f"nvidia-smi lists {'; '.join(listed)}, but torch {torch.__version__} sees none: {why}{note}"
        yield Line("GPU", "fail", found, f"install a torch with CUDA for driver {driver}, or a newer driver")
    elif torch.backends.mps.is_available():
        yield Line("GPU", "ok", "MPS (Apple)")
    elif complaint:
        yield Line("GPU", "ok", f"no GPU: runs on the CPU (nvidia-smi: {complaint})")
    else:
        yield Line("GPU", "ok", "no GPU: runs on the CPU")


def slurm() -> Iterator[Line]:
    """Partitions, the controller's limits, accounting."""
    if not shutil.which("sinfo"):
        yield Line("SLURM", "skipped", "no SLURM here")
        return
    admins = "scontrol ping; tell the cluster's administrators"
    code, out, complaint = ask("sinfo", "-h", "-o", "%P|%a|%l|%D|%G")
    rows = [line.split("|", 4) for line in out.splitlines()]
    if code or not rows:
        yield Line("SLURM", "fail", f"sinfo: {complaint or 'no partitions'}", admins)
        return
    for name in dict.fromkeys(row[0] for row in rows):
        own = [row for row in rows if row[0] == name]  # one row for each kind of node
        gres = ", ".join(sorted({row[4] for row in own} - {"(null)"})) or "no gres"
        found = f"{own[0][1]}, at most {own[0][2]}, {sum(int(row[3]) for row in own)} nodes, {gres}"
        if name.endswith("*"):
            found += ", default"
        state = "ok" if own[0][1] == "up" else "warn"
        yield Line(f"partition {name.rstrip('*')}", state, found, "choose another one: --partition")
    if not any(row[0].endswith("*") for row in rows):
        yield Line("partitions", "warn", "none is the default", "give --partition")
    code, out, complaint = ask("scontrol", "show", "config")
    limits = dict(re.findall(r"^(MaxArraySize|MaxJobCount|MaxSubmitJobs\w*)\s*=\s*(\S+)", out, re.M))
    state = "fail" if code or limits.get("MaxArraySize") == "0" else "ok"
    yield Line("limits", state, ", ".join(f"{k} {v}" for k, v in limits.items()) or complaint, admins)
    code, _, complaint = ask("sacct", "-n", "-X", "-o", "JobID")
    yield Line("accounting", "ok", f"none, and none is needed ({complaint})" if code else "sacct works")


def out_folder(where: str) -> Iterator[Line]:
    """Everything that leases, checkpoints and logs need from the file system under --out, tried there."""
    out = Path(where).expanduser().absolute()
    made = [p for p in (out, *out.parents) if not os.path.lexists(p)]
    try:
        yield Line("space", *room(out), "make room, or choose another --out")
        kind = mount_type(out)
        watch = next((text for name, text in NETWORK.items() if re.fullmatch(rf"{name}\d*", kind)), "")
        yield Line("file system", "warn" if watch else "ok", kind, watch)
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=out) as folder:
            yield from exercise(Path(folder))
    except OSError as error:
        found = f"{out}: {error.strerror or error}"
        yield Line("write", "fail", found, "make room, get the right to write there, or choose another --out")
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def exercise(folder: Path) -> Iterator[Line]:
    """The operations of research/common/folder.py and lease.py, tried in `folder`."""
    times, file, away = [], folder / "file.json", "choose an --out on another file system"
    for i in range(5):  # all but the first replace an existing file
        start = time.perf_counter()
        write_json(file, {"i": i})
        times.append(1000 * (time.perf_counter() - start))
        if read_json(file) != {"i": i}:
            raise OSError("a renamed file does not read back as it was written")
    ms = sorted(times)[2]
    yield Line("write", "warn" if ms > SLOW_MS else "ok", f"write, fsync, rename: {ms:.1f} ms", away)
    yield clock("disk", time.time() - file.stat().st_mtime)
    for i in range(2):
        append_row(folder / "rows.jsonl", {"i": i})
    whole = list(read_rows(folder / "rows.jsonl")) == [{"i": 0}, {"i": 1}]
    if whole:
        yield Line("append", "ok", "works")
    else:
        yield Line("append", "fail", "rows are lost", away)
    try:
        os.link(file, folder / "lease.1")
        os.link(file, folder / "lease.1")
        yield Line("leases", "fail", "a hard link replaces a file: two could write one run", away)
    except FileExistsError:
        yield Line("leases", "ok", "hard links are exclusive")
    except OSError as error:
        yield Line("leases", "fail", f"no hard links ({error.strerror}): no run can be started", away)


def mount_type(path: Path) -> str:
    """The type of the file system that contains `path`; "unknown" if the system does not say."""
    best, kind, real = -1, "unknown", existing(path).resolve()
    for line in os.fsdecode(MOUNTS.read_bytes()).splitlines() if MOUNTS.exists() else ():
        _, where, this, *_ = line.split()
        where = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), where)  # \040 is a blank
        if len(where) >= best and real.is_relative_to(where):
            best, kind = len(where), this
    return kind


def pictures() -> Iterator[Line]:
    """Checks ffmpeg with the codec of our videos, and the folder where matplotlib keeps its list of fonts."""
    import imageio_ffmpeg

    mend = "unset IMAGEIO_FFMPEG_EXE; pip install --force-reinstall imageio-ffmpeg"
    try:
        code, out, banner = ask(imageio_ffmpeg.get_ffmpeg_exe(), "-encoders")
        works, found = code == 0 and "libx264" in out, banner.partition(" Copyright")[0]
    except (OSError, RuntimeError) as error:
        works, found = False, str(error)
    if works:
        yield Line("ffmpeg", "ok", found)
    else:
        yield Line("ffmpeg", "fail", f"{found}, without libx264", mend)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "matplotlib")
    cache = Path(os.environ.get("MPLCONFIGDIR") or cache).expanduser()
    state, found = writable(cache)
    if state == "fail":
        found += ": fonts are searched for in every run"
    yield Line(
        "matplotlib", "ok" if state == "ok" else "warn", f"{cache}: {found}", "export MPLCONFIGDIR=<a folder>"
    )
