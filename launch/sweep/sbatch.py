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
"""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from research.common.folder import CODE
from research.common.messages import UserError

HIDING = ("SQUEUE_", "SINFO_", "SCANCEL_", "SBATCH_")
SPARE_S = 120  # of a time limit at least so much is for training: --signal_s is taken off, and comes early
LINGER_S = 900  # a worker without a free trial waits so long for others to die, then gives its GPU back
OURS = {  # options that the script depends on, or that have a flag of their own
    "array": "--tasks and --throttle",
    "job-name": "--name",
    "output": "",
    "open-mode": "",
    "requeue": "",
    "no-requeue": "",
    "signal": "--signal_s",
    "nodes": "",
    "ntasks": "",
    "partition": "--partition",
    "account": "--account",
    "qos": "--qos",
    "gres": "--gpus",
    "gpus": "--gpus",
    "cpus-per-task": "--cpus",
    "mem": "--mem",
    "time": "--time",
    "chdir": "",
    "wrap": "",
    "parsable": "",
}

BODY = r"""
# ---- Signals. First of all, since a signal without a trap would end this script.
children=()  # process ids of the workers
stop=        # the signal that ends this task: USR1 (time is nearly up) or TERM (cancelled or preempted)
heard=       # set by every signal, so that a `wait` which a signal cut short is told from a child's end
pass() { for child in "${children[@]}"; do kill -s "$1" "$child" 2>/dev/null; done; }
trap 'heard=1; stop=${stop:-USR1}; pass USR1; pass TERM' USR1
trap 'heard=1; stop=TERM; pass TERM' TERM
unset "${!SQUEUE_@}"  # the user's filters would hide this task from it
task=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}
say() { echo "$(date +%FT%T) $task on ${SLURMD_NODENAME:-$HOSTNAME}: $*"; }
say "start ${SLURM_RESTART_COUNT:-0}"  # 0 at first, counted up by every requeue

cd "$submit_folder" || exit 1  # relative paths in the YAML mean what they meant at submission
export PYTHONPATH=$code${PYTHONPATH:+:$PYTHONPATH}  # the snapshot wins over an editable install
cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
threads=$((cpus / workers > 1 ? cpus / workers : 1))  # else each worker starts a thread per core of the node
export OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads

# ---- W&B's five folders, off $HOME and its quota, unless they are set already. Offline runs wait in the
# sweep's folder for launch/upload.py, and so does what they want to upload; caches die with this task.
scratch=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/wandb-$USER-$task
mkdir -p "$scratch" 2>/dev/null || scratch=$sweep/slurm/wandb/scratch-$task
home_config=$HOME/.config/wandb/settings
if [ -z "$WANDB_CONFIG_DIR" ] && [ -f "$home_config" ]; then  # it names the server of `wandb login --host`
  mkdir -p "$scratch/config" && cp "$home_config" "$scratch/config/settings"
fi
export WANDB_DIR=${WANDB_DIR:-$sweep/slurm/wandb}
export WANDB_DATA_DIR=${WANDB_DATA_DIR:-$sweep/slurm/wandb/data}
export WANDB_ARTIFACT_DIR=${WANDB_ARTIFACT_DIR:-$sweep/slurm/wandb/artifacts}
export WANDB_CACHE_DIR=${WANDB_CACHE_DIR:-$scratch/cache}
export WANDB_CONFIG_DIR=${WANDB_CONFIG_DIR:-$scratch/config}
mkdir -p "$WANDB_DIR" "$WANDB_DATA_DIR" "$WANDB_ARTIFACT_DIR" "$WANDB_CACHE_DIR" "$WANDB_CONFIG_DIR"
export WANDB__SERVICE_WAIT=${WANDB__SERVICE_WAIT:-300}  # its service starts slowly from a shared file system

# ---- When this task has to end: newer SLURMs say it, else squeue does. No limit, no answer: 0.
end=$SLURM_JOB_END_TIME
if [ -z "$end" ]; then
  end=$(SLURM_TIME_FORMAT=standard squeue -h -j "$task" -o %e 2>/dev/null)
  end=$([ -z "$end" ] || date -d "$end" +%s 2>/dev/null)
fi
latest=$((${end:-0} > signal_s ? end - signal_s : 0))
if [ "$latest" -gt 0 ] && [ "$(date +%s)" -ge "$latest" ]; then  # it would be requeued for ever
  say "the time limit leaves nothing to train in: a longer --time, or less than --signal_s=$signal_s"
  exit 1
fi

# First starts are spread over some seconds, so that not all tasks read the file system at one moment.
[ "$stagger_s" -eq 0 ] || [ "${SLURM_RESTART_COUNT:-0}" -ne 0 ] || sleep $((SLURM_ARRAY_TASK_ID % stagger_s))

# ---- The workers. They write on after a requeue: every log is only ever appended to.
IFS=, read -ra gpus <<< "$CUDA_VISIBLE_DEVICES"
for ((i = 0; i < workers; i++)); do
  [ -z "$stop" ] || break
  # one GPU each; where workers outnumber the GPUs they share
  ((${#gpus[@]} == 0)) || export CUDA_VISIBLE_DEVICES=${gpus[i % ${#gpus[@]}]}
  "${worker[@]}" --until="$latest" --parent=$$ >> "$logs/$task.worker-$i.out" 2>&1 &
  children+=($!)
  [ -z "$stop" ] || pass TERM  # the signal came between the two lines above
done

# ---- Wait until every worker is gone. Exit codes: 0 nothing is left to do; 75 trials are open still.
open=
failed=0
[ -z "$stop" ] || open=1
for i in "${!children[@]}"; do
  code=127
  while true; do
    heard=
    wait "${children[i]}"
    this=$?
    [ "$this" -eq 127 ] || code=$this  # 127: bash has told this child's code already
    [ -n "$heard" ] || break  # else it was a signal that ended `wait`, not the worker
  done
  say "worker $i ended with $code"
  if [ "$code" -eq 75 ] || { [ -n "$stop" ] && [ "$code" -gt 128 ]; }; then
    open=1
  elif [ "$code" -ne 0 ]; then
    failed=$code
    tail -n 5 "$logs/$task.worker-$i.out"
  fi
done
rm -rf "$scratch"

# ---- Back into the queue if trials are open, unless that is decided: after TERM this task was cancelled, or
# SLURM requeues it. It is no longer RUNNING then, even where the signal reached only the workers.
if [ -n "$open" ]; then
  for pause in 0 5 15 30; do  # slurmctld may be restarting
    sleep $pause
    [ "$stop" != TERM ] || break
    state=$(squeue -h -j "$task" -o %T 2>/dev/null)
    [ "${state:-RUNNING}" = RUNNING ] || break
    say "saved; back into the queue"
    scontrol requeue "$task" && exit 0
  done
  say "saved; not requeued from here"
  [ "$failed" -ne 0 ] || failed=75
fi
exit "$failed"
"""


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
        told = subprocess.run(command, capture_output=True, text=True, env=env, timeout=within_s)
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not on PATH: is this a login node of a SLURM cluster? launch/local.py runs the "
            "same sweep on this machine"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} does not answer; try again later") from None
    if told.returncode:
        lines = [line.strip() for line in told.stderr.splitlines() if line.strip()]
        raise UserError(f"{shlex.join(command)}: {lines[-1] if lines else f'exit code {told.returncode}'}")
    return told.stdout


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
    told = ask("scontrol", "show", "config")
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", told)
    lower = re.search(r"max_array_tasks=(\d+)", told)
    size = min(int(m[1]) for m in (found, lower) if m) if found or lower else 1001
    if size == 0:
        raise UserError("this cluster allows no job arrays (MaxArraySize=0)")
    return size


def workers(flags: Any) -> int:
    """Workers in one task: `runs_per_gpu` for each of its GPUs, or on its CPU cores where it has none."""
    return flags.runs_per_gpu * max(1, int((flags.gpus or "0").rpartition(":")[2]))


def split(n: int, size: int, throttle: int | None) -> list[str]:
    """--array of each sbatch call for `n` tasks, at most `size` in one array; the throttle is shared out."""
    chunks = [min(size, n - start) for start in range(0, n, size)]
    shares = [
        (throttle or 0) // len(chunks) + (i < (throttle or 0) % len(chunks)) for i in range(len(chunks))
    ]
    return [f"0-{k - 1}" + (f"%{max(1, share)}" if throttle else "") for k, share in zip(chunks, shares)]


def extra_options(given: tuple[str, ...]) -> list[str]:
    """--sbatch key=value as #SBATCH options. Raises UserError for what the script sets itself."""
    options = []
    for option in given:
        key, equals, value = option.partition("=")
        key = key.strip().lstrip("-")
        if not re.fullmatch(r"[a-z][a-z-]*", key) or not value.isprintable():
            raise UserError(f"--sbatch={option}: written as key=value, as in --sbatch constraint=a100")
        if key in OURS:
            use = f"use {OURS[key]}" if OURS[key] else "the script depends on what it sets"
            raise UserError(f"--sbatch={option}: not set this way: {use}")
        options.append(f"--{key}{equals}{quoted(value) if value else ''}")
    return options


def quoted(text: str) -> str:
    """A value as sbatch reads it in an #SBATCH line."""
    return text if re.fullmatch(r"[\w@%+=:,./\[\]&|*-]+", text) else '"' + text.replace('"', '\\"') + '"'


def script(flags: Any, folder: Path, program: str, logs: Path, array: str) -> str:
    """The batch script. folder: the sweep's, logs: this submission's; program: the training script, relative
    to the code; array: --array of its first sbatch call.
    """
    folder, logs = folder.absolute(), logs.absolute()
    code, online = folder / CODE, flags.wandb == "online"
    options = [
        ("the sweep's name; one task is one worker, or as many as share its GPU", "job-name", folder.name),
        ("any number of tasks serves any number of trials", "array", array),
        (
            "one file a task (%A: the array's id, %a: the task's), written on after a requeue",
            "output",
            f"{str(logs).replace('%', '%%')}/%A_%a.out",
        ),
        (None, "open-mode", "append"),
        (
            "SLURM may put this back into the queue: preemption, node failure, `scontrol requeue` below",
            "requeue",
            None,
        ),
        (
            "time to save: so many seconds before the limit, to this shell (B:); SLURM may be a minute early",
            "signal",
            f"B:USR1@{flags.signal_s}",
        ),
        (None, "nodes", "1"),
        (None, "ntasks", "1"),
        (None, "partition", flags.partition),
        (None, "account", flags.account),
        (None, "qos", flags.qos),
        (None, "gres", f"gpu:{flags.gpus}" if flags.gpus not in (None, "0") else None),
        (None, "cpus-per-task", flags.cpus),
        (None, "mem", flags.mem),
        (None, "time", flags.time),
    ]
    lines = [
        "#!/bin/bash",
        f"# A task of the sweep {folder.name}: takes one open trial after the other until none is left.",
        f"# Written by launch/slurm.py on {time.strftime('%Y-%m-%d %H:%M')}; runs the code kept in {code}.",
    ]
    for why, name, value in options:
        if value is not None or name == "requeue":
            lines += [f"# {why}"] * bool(why)
            lines.append(f"#SBATCH --{name}" + (f"={quoted(str(value))}" if value is not None else ""))
    lines += [f"#SBATCH {option}" for option in extra_options(flags.sbatch)]
    command = [sys.executable, str(code / "launch" / "sweep" / ("agent.py" if online else "worker.py"))]
    command += [f"--sweep={folder}", f"--program={program}"]
    extra = " ".join(f"--{k}={v}" for k in ("wandb", "project", "entity") if (v := getattr(flags, k)))
    command += [f"--retry={flags.retry}"] if online else [f"--extra={extra}", f"--linger_s={LINGER_S}"]
    values = {"submit_folder": Path.cwd(), "sweep": folder, "code": code, "logs": logs}
    values |= {"workers": workers(flags), "signal_s": flags.signal_s, "stagger_s": flags.stagger_s}
    lines += ["", *(f"{name}={shlex.quote(str(value))}" for name, value in values.items())]
    lines += ["worker=(", *(f"  {shlex.quote(word)}" for word in command), ")"]
    signals, rest = BODY.split("\ncd ", 1)
    setup = ["\n# ---- From --setup", *flags.setup] if flags.setup else []
    return "\n".join([*lines, signals, *setup, f"\ncd {rest}"])
