"""What a SLURM cluster allows, and the batch script of a sweep on it. For launch/slurm.py.

The signals that SLURM sends, and what the script does then:
- USR1, `--signal_s` before the time limit, only to the batch shell (`B:`): the workers save, then the task
  requeues itself.
- TERM on preemption, requeueing, `scancel` and at the time limit, then KILL after the cluster's KillWait
  (30 s by default): the workers save, and the script requeues nothing. After a preemption SLURM itself
  requeues the task. (A GraceTime before that is announced only to steps of srun, unless the cluster has
  send_user_signal: then USR1 is sent.)
- `scancel --signal=TERM` reaches only steps that srun started, of which there are none here; with --full it
  reaches the batch shell, which passes it on.
For SLURM, a task that ends with 75 has failed: only `scontrol requeue` puts it back into the queue.

The script is batch.sh beside this file. In it, `@name@` is a placeholder. A placeholder for whole lines is
the comment `# @name@`, so that the file is a valid shell script even before anything is filled in.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from launch.sweep import begin, plan
from launch.sweep.options import SPARE_S, Submission, n_gpus, option_lines, seconds
from research.common.folder import CODE
from research.common.messages import UserError, console, escape

HIDING = ("SQUEUE_", "SINFO_", "SCANCEL_", "SBATCH_")
LINGER_S = 900  # a worker without a free trial waits so long in case another one dies, then frees its GPU
BATCH = Path(__file__).with_name("batch.sh")
HOLE = re.compile(r"(?:(?<=\n)# )?@(\w+)@")
MOST_LINES = 15  # of an error message by a SLURM command that are shown, at most


def complaint(name: str, *outputs: str) -> str:
    """What a SLURM command wrote, on one line; "" if it wrote nothing.

    All lines are kept, since a site's plugin gives its reason first, and SLURM a general one after it. Only
    the first line keeps the command's name; lines without letters or digits are left out. Of many lines, the
    first ones and the last one are shown.
    """
    lines: list[str] = []
    for line in "\n".join(outputs).splitlines():
        text = re.sub(rf"^{re.escape(name)}: (error: )?", "", line.strip()).strip()
        if any(map(str.isalnum, text)):
            lines.append(text if lines else line.strip())
    if len(lines) > MOST_LINES:
        lines[MOST_LINES - 1 : -1] = [f"({len(lines) - MOST_LINES} more lines)"]
    return "; ".join(lines)


def ask(*command: str, within_s: float = 120) -> str:
    """The output of a SLURM command. Raises UserError with its error message, or if there is no such command.

    If sbatch accepts a job with a remark, the remark is printed.
    """
    # filters in the user's shell would hide partitions or jobs, and SBATCH_* would override the script
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
    except subprocess.TimeoutExpired as error:
        said = error.stderr or b""  # bytes, whatever `encoding` says
        why = complaint(command[0], said if isinstance(said, str) else said.decode("utf-8", "replace"))
        said_so_far = f" ({why})" if why else ""
        raise UserError(f"{command[0]} does not answer{said_so_far}; try again later") from None
    if done.returncode:
        why = complaint(command[0], done.stderr, done.stdout) or f"exit code {done.returncode}"
        raise UserError(f"{shlex.join(command)}: {why}")
    if command[0] == "sbatch" and (remark := complaint("sbatch", done.stderr)):
        console.print(escape(remark))
    return done.stdout


def job_id(answer: str) -> str:
    """The job's id in the output of `sbatch --parsable`: `id` or `id;cluster`, perhaps among lines of the
    site's own. Raises UserError if there is none.
    """
    for line in answer.splitlines():
        if match := re.fullmatch(r"\s*(\d+)(;\S+)?\s*", line):
            return match[1]
    said = " ".join(answer.split()) or "nothing"
    raise UserError(f"sbatch gave no job id, but {said}: see `squeue --me` whether there is a job")


def check_limits(flags: Any) -> None:
    """Raise UserError for a partition that does not exist, and for a time that is over its limit or too
    short; the message names the partitions that fit.
    """
    limits, given, default = {}, {}, None
    for line in ask("sinfo", "-h", "-o", "%P|%l|%L").splitlines():
        name, limit, without = (*line.strip().split("|"), "")[:3]
        default = name[:-1] if name.endswith("*") else default
        try:
            limits[name.rstrip("*")] = limit, seconds(limit)
        except ValueError:
            limits[name.rstrip("*")] = limit, float("inf")  # "n/a": the limit is unknown
        try:  # the time of a job that does not request one
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
            raise UserError(f"--time: {name} gives {given[name][0]} to a job that sets none; give {asked}")


def array_size() -> int:
    """How many tasks one array may have. Raises UserError if the cluster allows no arrays."""
    config = ask("scontrol", "show", "config")
    limits = [
        re.search(pattern, config) for pattern in (r"MaxArraySize\s*=\s*(\d+)", r"max_array_tasks=(\d+)")
    ]
    size = min((int(limit[1]) for limit in limits if limit), default=1001)  # 1001: SLURM's own default
    if size == 0:
        raise UserError("this cluster allows no job arrays (MaxArraySize=0)")
    return size


def workers(flags: Any) -> int:
    """The number of workers in one task: `runs_per_gpu` for each of its GPUs, or on its CPU cores if it has
    none.

    All shards of a task are parts of one GPU.
    """
    return flags.runs_per_gpu * (1 if flags.gpu_option == "shard" else max(1, n_gpus(flags)))


def split(n: int, size: int, throttle: int | None) -> list[str]:
    """--array of each sbatch call for `n` tasks, with at most `size` tasks in one array. The throttle is
    divided among the arrays.
    """
    chunks = [min(size, n - start) for start in range(0, n, size)]
    if throttle is None:
        return [f"0-{chunk - 1}" for chunk in chunks]
    share, left = divmod(throttle, len(chunks))
    arrays = []
    for i, chunk in enumerate(chunks):
        mine = share + 1 if i < left else share
        arrays.append(f"0-{chunk - 1}%{max(1, mine)}")
    return arrays


def script(flags: Any, folder: Path, program: str, logs: Path, array: str) -> str:
    """The batch script. folder: the sweep's; logs: the folder of this submission's logs; program: the
    training script, relative to the code; array: --array of the first sbatch call.
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


def worker_command(submission: Submission) -> list[str]:
    """The command that starts each worker of a task; the script adds --until and --parent."""
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
    return [*command, f"--extra={shlex.join(plan.extra_flags(flags))}", f"--linger_s={LINGER_S}"]


def filled(template: str, holes: dict[str, str]) -> str:
    """`template` with each hole filled; the filled-in text is not searched for holes."""
    named = set(HOLE.findall(template))
    assert named == holes.keys(), f"holes of the template: {sorted(named)}, filled: {sorted(holes)}"
    return HOLE.sub(lambda hole: holes[hole[1]], template)
