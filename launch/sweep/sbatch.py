"""What a SLURM cluster allows, and the batch script of a sweep on it. Used by launch/slurm.py.

What SLURM sends, and what the script does with it:
- USR1, `--signal_s` before the time limit, to the batch shell alone (`B:`): the workers save, then the task
  requeues itself.
- TERM on preemption, requeueing, `scancel` and at the time limit, then KILL after the cluster's KillWait
  (30 s by default): the workers save, nothing is requeued here. After a preemption SLURM itself requeues the
  task. (A GraceTime before that is announced to steps of srun only, unless the cluster has send_user_signal:
  then it is USR1 that comes.)
- `scancel --signal=TERM` reaches only steps that srun started, of which there are none here; with --full it
  reaches the batch shell, which passes it on.
A task that ends with 75 goes back into the queue only through `scontrol requeue`: for SLURM it has failed.

The script is batch.sh, which lies beside this file: `@name@` is a hole in it, and a hole for whole lines is
the comment `# @name@`, so that the file is a shell script before anything is filled in.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.sweep import begin
from research.common.folder import CODE
from research.common.messages import UserError

HIDING = ("SQUEUE_", "SINFO_", "SCANCEL_", "SBATCH_")
SPARE_S = 120  # of a time limit at least so much is for training: --signal_s is taken off, and comes early
LINGER_S = 900  # a worker without a free trial waits so long for others to die, then gives its GPU back
BATCH = Path(__file__).with_name("batch.sh")
HOLE = re.compile(r"(?:(?<=\n)# )?@(\w+)@")


@dataclass(frozen=True)
class Submission:
    """What one batch script is made of: the command's flags, the sweep's folder, the training script relative
    to the code, the folder of this submission's logs, and --array of its first call of sbatch.
    """

    flags: Any
    folder: Path
    program: str
    logs: Path
    array: str


def no_line(submission: Submission) -> None:
    """The script never gives this option."""


def anything(value: Any, flags: Any) -> None:
    """Nothing is wrong with any value of such a flag."""


def at_least(least: int) -> Callable[[Any, Any], str | None]:
    def must_be(value: int, flags: Any) -> str | None:
        return f"at least {least}" if value < least else None

    return must_be


def must_be_gpus(value: str, flags: Any) -> str | None:
    if re.fullmatch(r"([\w.-]+:)?\d+", value):
        return None
    return "a number, or a type and a number as in a100:1"


def must_be_time(value: str, flags: Any) -> str | None:
    least = flags.signal_s + SPARE_S
    try:
        enough = seconds(value) >= least
    except ValueError:
        return "minutes, hours:minutes:seconds or days-hours, as in 90, 4:00:00 or 1-12"
    return None if enough else f"at least {least} seconds (--signal_s={flags.signal_s})"


def gres(submission: Submission) -> str | None:
    gpus = submission.flags.gpus
    return None if gpus in (None, "0") else f"gpu:{gpus}"


@dataclass(frozen=True)
class Setting:
    """Something that a submission sets: an option of sbatch, or ("") what only the script knows of.

    flags: of launch/slurm.py, those that say it; none where the script depends on what it sets itself.
    in_file: of which type they are where they stand in the user's TOML file; None: they may not.
    must_be: what a flag's value must be, in words; None when it is that.
    comment: what stands above the option's line in the script.
    value: what stands in that line; "" where the option has no value, None for no line.
    """

    option: str
    flags: tuple[str, ...] = ()
    in_file: type | None = None
    must_be: Callable[[Any, Any], str | None] = anything
    comment: str = ""
    value: Callable[[Submission], Any] = no_line


SETTINGS = (  # in the order of the script's lines
    Setting(
        "job-name",
        ("name",),
        comment="the sweep's name; one task is one worker, or as many as share its GPU",
        value=lambda submission: submission.folder.name,
    ),
    Setting(
        "array",
        ("tasks", "throttle"),
        must_be=at_least(1),
        comment="any number of tasks serves any number of trials",
        value=lambda submission: submission.array,
    ),
    Setting(
        "output",
        comment="one file a task (%A: the array's id, %a: the task's), written on after a requeue",
        value=lambda submission: f"{str(submission.logs).replace('%', '%%')}/%A_%a.out",
    ),
    Setting("open-mode", value=lambda _: "append"),
    Setting(
        "requeue",
        comment="SLURM may put this back into the queue: preemption, node failure, `scontrol requeue` below",
        value=lambda _: "",
    ),
    Setting("no-requeue"),
    Setting(
        "signal",
        ("signal_s",),
        must_be=at_least(1),
        comment=(
            "time to save: so many seconds before the limit, to this shell (B:); SLURM may be a minute early"
        ),
        value=lambda submission: f"B:USR1@{submission.flags.signal_s}",
    ),
    Setting("nodes", value=lambda _: "1"),
    Setting("ntasks", value=lambda _: "1"),
    Setting("partition", ("partition",), in_file=str, value=lambda submission: submission.flags.partition),
    Setting("account", ("account",), in_file=str, value=lambda submission: submission.flags.account),
    Setting("qos", ("qos",), in_file=str, value=lambda submission: submission.flags.qos),
    Setting("gres", ("gpus",), in_file=str, must_be=must_be_gpus, value=gres),
    Setting("gpus", ("gpus",)),
    Setting(
        "cpus-per-task",
        ("cpus",),
        in_file=int,
        must_be=at_least(1),
        value=lambda submission: submission.flags.cpus,
    ),
    Setting("mem", ("mem",), in_file=str, value=lambda submission: submission.flags.mem),
    Setting(
        "time",
        ("time",),
        in_file=str,
        must_be=must_be_time,
        value=lambda submission: submission.flags.time,
    ),
    Setting("chdir"),
    Setting("wrap"),
    Setting("parsable"),
    Setting("", ("runs_per_gpu",), must_be=at_least(1)),
    Setting("", ("stagger_s",), must_be=at_least(0)),
    Setting("", ("setup",), in_file=tuple),
    Setting("", ("sbatch",), in_file=tuple),  # options that are not in this table: see extra_options
)
IN_FILE = {flag: setting.in_file for setting in SETTINGS if setting.in_file for flag in setting.flags}


def check_flags(flags: Any) -> None:
    """Refuse what SLURM or the script could not work with. Raises UserError, which names the flag."""
    for setting in SETTINGS:
        for flag in setting.flags:
            value = getattr(flags, flag)
            wanted = None if value is None else setting.must_be(value, flags)
            if wanted is not None:
                raise UserError(f"--{flag}={value}: must be {wanted}")
    extra_options(flags.sbatch)


def seconds(text: str) -> float:
    """A SLURM time in seconds: minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s; 'infinite' and 'UNLIMITED'.

    Raises ValueError for anything else.
    """
    if text.strip().lower() in ("infinite", "unlimited"):
        return float("inf")
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not match:
        raise ValueError(text)
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None:
        hours, minutes, secs = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, secs = parts
    else:
        hours, (minutes, secs) = 0, (*parts, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs


def ask(*command: str, within_s: float = 120) -> str:
    """What a SLURM command answers. Raises UserError: its complaint, or that it is not there."""
    # filters in the user's shell would hide partitions or jobs, and SBATCH_* wins over what a script says
    env = {k: v for k, v in os.environ.items() if not k.startswith(HIDING)}
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env=env, timeout=within_s
        )
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not on PATH: is this a login node of a SLURM cluster? launch/local.py runs the "
            "same sweep on this machine"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} does not answer; try again later") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"{shlex.join(command)}: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return done.stdout


def check_limits(flags: Any) -> None:
    """Refuse a partition that is not there and a time over its limit, naming those that fit."""
    limits, given, default = {}, {}, None
    for line in ask("sinfo", "-h", "-o", "%P|%l|%L").splitlines():
        name, limit, without = (*line.strip().split("|"), "")[:3]
        default = name[:-1] if name.endswith("*") else default
        try:
            limits[name.rstrip("*")] = limit, seconds(limit)
        except ValueError:
            limits[name.rstrip("*")] = limit, float("inf")  # "n/a": none that it could tell
        try:  # what a job gets that does not ask
            given[name.rstrip("*")] = without, seconds(without)
        except ValueError:
            given[name.rstrip("*")] = limits[name.rstrip("*")]
    wanted = seconds(flags.time) if flags.time else 0
    fit = ", ".join(f"{name} ({limit})" for name, (limit, most) in limits.items() if most >= wanted)
    every = ", ".join(f"{name} ({limit})" for name, (limit, _) in limits.items())
    there = f"those that fit: {fit}" if fit else f"none is that long: {every}"
    for name in (flags.partition or default or "").split(","):
        if name and name not in limits:
            raise UserError(f"--partition={name}: not on this cluster; {there}")
        if name and limits[name][1] < wanted:
            raise UserError(f"--time={flags.time}: over the limit of {name} ({limits[name][0]}); {there}")
        if name and not flags.time and given[name][1] < flags.signal_s + SPARE_S:
            asked = f"at least {flags.signal_s + SPARE_S} seconds (--signal_s={flags.signal_s})"
            raise UserError(f"--time: {name} gives {given[name][0]} to a job that does not ask; give {asked}")


def array_size() -> int:
    """How many tasks one array may have."""
    config = ask("scontrol", "show", "config")
    limits = [
        re.search(pattern, config) for pattern in (r"MaxArraySize\s*=\s*(\d+)", r"max_array_tasks=(\d+)")
    ]
    size = min((int(limit[1]) for limit in limits if limit), default=1001)  # 1001: SLURM's own default
    if size == 0:
        raise UserError("this cluster allows no job arrays (MaxArraySize=0)")
    return size


def workers(flags: Any) -> int:
    """Workers in one task: `runs_per_gpu` for each of its GPUs, or on its CPU cores where it has none."""
    return flags.runs_per_gpu * max(1, int((flags.gpus or "0").rpartition(":")[2]))


def split(n: int, size: int, throttle: int | None) -> list[str]:
    """--array of each sbatch call for `n` tasks, at most `size` in one array; the throttle is shared out."""
    chunks = [min(size, n - start) for start in range(0, n, size)]
    if throttle is None:
        return [f"0-{chunk - 1}" for chunk in chunks]
    share, left = divmod(throttle, len(chunks))
    arrays = []
    for i, chunk in enumerate(chunks):
        mine = share + 1 if i < left else share
        arrays.append(f"0-{chunk - 1}%{max(1, mine)}")
    return arrays


def extra_options(given: tuple[str, ...]) -> list[str]:
    """--sbatch key=value as #SBATCH options. Raises UserError for what the script sets itself."""
    options = []
    for option in given:
        key, equals, value = option.partition("=")
        key = key.strip().lstrip("-")
        if not re.fullmatch(r"[a-z][a-z-]*", key) or not value.isprintable():
            raise UserError(f"--sbatch={option}: written as key=value, as in --sbatch constraint=a100")
        ours = next((setting for setting in SETTINGS if setting.option == key), None)
        if ours is not None:
            names = " and ".join(f"--{flag}" for flag in ours.flags)
            instead = f"use {names}" if names else "the script depends on what it sets"
            raise UserError(f"--sbatch={option}: not set this way: {instead}")
        options.append(f"--{key}{equals}{quoted(value) if value else ''}")
    return options


def quoted(text: str) -> str:
    """A value as sbatch reads it in an #SBATCH line."""
    return text if re.fullmatch(r"[\w@%+=:,./\[\]&|*-]+", text) else '"' + text.replace('"', '\\"') + '"'


def script(flags: Any, folder: Path, program: str, logs: Path, array: str) -> str:
    """The batch script. folder: the sweep's, logs: this submission's; program: the training script, relative
    to the code; array: --array of its first sbatch call.
    """
    submission = Submission(flags, folder.absolute(), program, logs.absolute(), array)
    code = submission.folder / CODE
    setup = ["# ---- From --setup", *flags.setup, ""] if flags.setup else []
    values = {
        "submit_folder": Path.cwd(),
        "sweep": submission.folder,
        "code": code,
        "logs": submission.logs,
        "workers": workers(flags),
        "signal_s": flags.signal_s,
        "stagger_s": flags.stagger_s,
    }
    holes = {name: shlex.quote(str(value)) for name, value in values.items()}
    holes |= {
        "name": submission.folder.name,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "snapshot": str(code),
        "options": "\n".join(option_lines(submission)),
        "worker": "\n  ".join(shlex.quote(word) for word in worker_command(submission)),
        "setup": "\n".join(setup),
    }
    return filled(BATCH.read_text(encoding="utf-8"), holes)


def option_lines(submission: Submission) -> list[str]:
    """The #SBATCH lines, each below its comment."""
    lines = []
    for setting in SETTINGS:
        value = setting.value(submission)
        if value is None:
            continue
        if setting.comment:
            lines.append(f"# {setting.comment}")
        given = f"={quoted(str(value))}" if value != "" else ""
        lines.append(f"#SBATCH --{setting.option}{given}")
    return lines + [f"#SBATCH {option}" for option in extra_options(submission.flags.sbatch)]


def worker_command(submission: Submission) -> list[str]:
    """What each worker of a task is started with; the script adds --until and --parent."""
    flags = submission.flags
    online = flags.wandb == "online"
    program = begin.program_in(submission.folder, "agent.py" if online else "worker.py")
    command = [
        sys.executable,
        str(program),
        f"--sweep={submission.folder}",
        f"--program={submission.program}",
    ]
    if online:
        return [*command, f"--retry={flags.retry}"]
    extra = [
        f"--{name}={value}" for name in ("wandb", "project", "entity") if (value := getattr(flags, name))
    ]
    return [*command, f"--extra={' '.join(extra)}", f"--linger_s={LINGER_S}"]


def filled(template: str, holes: dict[str, str]) -> str:
    """`template` with each hole filled; what is filled in is not searched for holes."""
    named = set(HOLE.findall(template))
    assert named == holes.keys(), f"holes of the template: {sorted(named)}, filled: {sorted(holes)}"
    return HOLE.sub(lambda hole: holes[hole[1]], template)
