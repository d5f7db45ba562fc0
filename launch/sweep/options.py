"""The options of sbatch in a sweep's batch script: which flag sets which, and what --sbatch may add.

SETTINGS are the lines that the script can have. RULES are the options that --sbatch may not give, because
they contradict one of those lines or something the script depends on; other options are passed on unchanged.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.names import closest, did_you_mean
from research.common.messages import UserError

SPARE_S = 120  # at least this much of a time limit must be left for training, after --signal_s is subtracted
GPU_OPTIONS = {  # --gpu_option: the option of sbatch that requests --gpus, and the form of its value
    "gres": ("gres", "gpu:{}"),
    "gpus": ("gpus", "{}"),
    "gpus-per-node": ("gpus-per-node", "{}"),
    "gpus-per-task": ("gpus-per-task", "{}"),
    "shard": ("gres", "shard:{}"),
}
GPUS = r"([\w.-]+:)?\d+"  # a number, or a type and a number
GPU_SHARES = ("shard", "mps")  # generic resources that are parts of one GPU


@dataclass(frozen=True)
class Submission:
    """What a batch script is made from. flags: those of the command; folder: the sweep's; program: the
    training script, relative to the code; logs: the folder of this submission's logs; array: --array of its
    first call of sbatch.
    """

    flags: Any
    folder: Path
    program: str
    logs: Path
    array: str


Check = Callable[[Any, Any], str | None]  # (a value, all flags): what is wrong with it, in words


def no_line(submission: Submission) -> None:
    """For an option that the script never gives."""


def anything(value: Any, flags: Any) -> None:
    """For an option that may have any value."""


def at_least(least: int) -> Check:
    def must_be(value: int, flags: Any) -> str | None:
        return f"at least {least}" if value < least else None

    return must_be


def must_be_text(value: str, flags: Any) -> str | None:
    return None if value.strip() and value.isprintable() else "text on one line, and not empty"


def must_be_gpus(value: str, flags: Any) -> str | None:
    if flags.gpu_option == "shard":  # GPUs have types in SLURM, shards don't
        return None if re.fullmatch(r"\d+", value) else "a number alone with --gpu_option=shard"
    if re.fullmatch(GPUS, value):
        return None
    return "a number, or a type and a number as in a100:1"


def must_be_gpu_option(value: str, flags: Any) -> str | None:
    if value in GPU_OPTIONS:
        return None
    return f"one of {', '.join(GPU_OPTIONS)}{did_you_mean(closest(GPU_OPTIONS, value))}"


def must_be_time(value: str, flags: Any) -> str | None:
    least = flags.signal_s + SPARE_S
    try:
        enough = seconds(value) >= least
    except ValueError:
        return "minutes, hours:minutes:seconds or days-hours, as in 90, 4:00:00 or 1-12"
    return None if enough else f"at least {least} seconds (--signal_s={flags.signal_s})"


def n_gpus(flags: Any) -> int:
    """How many GPUs (or shards, with --gpu_option=shard) a task requests with --gpus."""
    return int((flags.gpus or "0").rpartition(":")[2])


def gpus_in(option: str) -> Callable[[Submission], str | None]:
    """A function that returns the value of this option of sbatch if it requests --gpus;
    else it returns None.
    """

    def value(submission: Submission) -> str | None:
        flags = submission.flags
        asks, form = GPU_OPTIONS[flags.gpu_option or "gres"]
        return form.format(flags.gpus) if asks == option and n_gpus(flags) else None

    return value


def gres(submission: Submission) -> str | None:
    """One list of generic resources: --gpus, if they are requested as such, and those of --sbatch gres=…"""
    lists = (gpus_in("gres")(submission), further_options(submission.flags).get("gres"))
    return ",".join(names for names in lists if names) or None


@dataclass(frozen=True)
class Setting:
    """Something that a submission sets: an option of sbatch, or ("") something that only the script uses.

    flags: the flags of launch/slurm.py that set it; none if the script depends on its own value.
    in_file: the type of these flags in the user's TOML file; None if they may not be there.
    must_be: what a flag's value must be, in words; None if the value is right.
    comment: the comment above the option's line in the script.
    value: the value in that line; "" if the option has no value, None for no line.
    """

    option: str
    flags: tuple[str, ...] = ()
    in_file: type | None = None
    must_be: Check = anything
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
        comment="one file per task (%A: the array's id, %a: the task's), continued after a requeue",
        value=lambda submission: f"{str(submission.logs).replace('%', '%%')}/%A_%a.out",
    ),
    Setting("open-mode", value=lambda _: "append"),
    Setting(
        "requeue",
        comment="SLURM may put this back into the queue: preemption, node failure, `scontrol requeue` below",
        value=lambda _: "",
    ),
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
    Setting(
        "partition",
        ("partition",),
        in_file=str,
        must_be=must_be_text,
        value=lambda submission: submission.flags.partition,
    ),
    Setting(
        "account",
        ("account",),
        in_file=str,
        must_be=must_be_text,
        value=lambda submission: submission.flags.account,
    ),
    Setting(
        "qos",
        ("qos",),
        in_file=str,
        must_be=must_be_text,
        value=lambda submission: submission.flags.qos,
    ),
    Setting("gres", ("gpus",), in_file=str, must_be=must_be_gpus, value=gres),
    Setting("gpus", value=gpus_in("gpus")),
    Setting("gpus-per-node", value=gpus_in("gpus-per-node")),
    Setting("gpus-per-task", value=gpus_in("gpus-per-task")),
    Setting("", ("gpu_option",), in_file=str, must_be=must_be_gpu_option),
    Setting(
        "cpus-per-task",
        ("cpus",),
        in_file=int,
        must_be=at_least(1),
        value=lambda submission: submission.flags.cpus,
    ),
    Setting(
        "mem",
        ("mem",),
        in_file=str,
        must_be=must_be_text,
        value=lambda submission: submission.flags.mem,
    ),
    Setting(
        "time",
        ("time",),
        in_file=str,
        must_be=must_be_time,
        value=lambda submission: submission.flags.time,
    ),
    Setting("", ("runs_per_gpu",), must_be=at_least(1)),
    Setting("", ("stagger_s",), must_be=at_least(0)),
    Setting("", ("setup",), in_file=tuple),
    Setting("", ("sbatch",), in_file=tuple),  # see further_options
)
IN_FILE = {flag: setting.in_file for setting in SETTINGS if setting.in_file for flag in setting.flags}


def never(why: str) -> Check:
    return lambda value, flags: why


def only(allowed: str, why: str) -> Check:
    return lambda value, flags: None if value == allowed else why


def use(flags: tuple[str, ...]) -> Check:
    return never(f"use {' and '.join(f'--{flag}' for flag in flags)}")


def gpus_through(gpu_option: str) -> Check:
    """Refuses a request for GPUs that is not made with --gpus: the script starts a worker
    for each of those.
    """

    def why(value: str, flags: Any) -> str:
        gpus = value if value.rpartition(":")[2].isdigit() else f"{value}:1"  # a type alone means one
        given = f"--gpus={gpus}" if re.fullmatch(GPUS, gpus) else "--gpus"
        return f"use {given} with --gpu_option={gpu_option}: a worker is started for each GPU"

    return why


def gres_without_gpus(value: str, flags: Any) -> str | None:
    for resource in value.split(","):
        name, _, count = re.sub(r"^gres[:/]", "", resource).partition(":")
        if name == "gpu":
            return gpus_through("gres")(count or "1", flags)
        if name in GPU_SHARES and n_gpus(flags):
            return f"not with --gpus={flags.gpus}: a {name} is a part of a GPU, asked for in place of one"
    return None


def tres_without_gpus(value: str, flags: Any) -> str | None:
    return gpus_through("gpus-per-task")(value, flags) if "gpu" in value else None


def export_with_path(value: str, flags: Any) -> str | None:
    first, *more = value.split(",")
    whole = value.upper() == "NONE" or first.upper() == "ALL"
    if whole and not any(name.partition("=")[0] == "PATH" for name in more):
        return None
    why = "without its PATH the script would not find squeue and scontrol"
    return f"must be NONE, or begin with ALL and leave PATH as it is: {why}"


ONE_TASK = "a task is one script on one node, which starts its workers itself: see --gpus and --runs_per_gpu"
ANSWER = "launch/slurm.py calls sbatch, and reads the array's id from its answer; --dry_run shows the script"
RULES: dict[str, Check] = {  # option → why --sbatch may not give it; other options are passed on
    **{setting.option: use(setting.flags) for setting in SETTINGS if setting.option and setting.flags},
    "output": never("the logs are in the sweep's folder, and --status says where"),
    "open-mode": only("append", "a task continues its log after a requeue"),
    "requeue": only("", "takes no value"),
    "no-requeue": never("a task has to come back after its time limit and after a preemption"),
    "nodes": only("1", ONE_TASK),
    "ntasks": only("1", ONE_TASK),
    "ntasks-per-node": only("1", ONE_TASK),
    "ntasks-per-gpu": only("1", ONE_TASK),
    "gres": gres_without_gpus,
    "gpus": gpus_through("gpus"),
    "gpus-per-node": gpus_through("gpus-per-node"),
    "gpus-per-task": gpus_through("gpus-per-task"),
    "gpus-per-socket": gpus_through("gpus-per-node"),
    "tres-per-task": tres_without_gpus,
    "mem-per-cpu": anything,
    "mem-per-gpu": anything,
    "cpus-per-gpu": anything,
    "chdir": never("the script goes to the folder where it was submitted, which relative paths start from"),
    "export": export_with_path,
    "export-file": never("use --setup 'source FILE'"),
    "clusters": never("--status and --cancel only ask this cluster: submit on a login node of the other"),
    "quiet": never("sbatch would not tell the job's id"),
    "input": never("the script reads nothing"),
    "uid": never("a sweep's files are yours"),
    "het-group": never(ONE_TASK),
    "wait": never("sbatch would only answer when the last task has ended"),
    **dict.fromkeys(("wrap", "parsable", "test-only", "help", "usage", "version"), never(ANSWER)),
}
ONE_OF = (  # SLURM takes one option of each group: it refuses a second one, or the last one wins
    ("mem", "mem-per-cpu", "mem-per-gpu"),
    ("cpus-per-task", "cpus-per-gpu"),
    ("exclusive", "oversubscribe"),
)
LETTERS = (  # the short forms of sbatch's options
    "a=array A=account b=begin B=extra-node-info c=cpus-per-task C=constraint d=dependency D=chdir e=error "
    "F=nodefile G=gpus h=help H=hold i=input J=job-name k=no-kill L=licenses m=distribution M=clusters "
    "n=ntasks N=nodes o=output O=overcommit p=partition q=qos Q=quiet s=oversubscribe S=core-spec t=time "
    "v=verbose V=version w=nodelist W=wait x=exclude"
)
SHORT = dict(re.findall(r"(\w)=(\S+)", LETTERS))


def check_flags(flags: Any) -> None:
    """Refuse values with which SLURM or the script can't work. Raises UserError, which names the flag."""
    for setting in SETTINGS:
        for flag in setting.flags:
            value = getattr(flags, flag)
            wanted = None if value is None else setting.must_be(value, flags)
            if wanted is not None:
                raise UserError(f"--{flag}={value}: must be {wanted}")
    further_options(flags)


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


def further_options(flags: Any) -> dict[str, str]:
    """The options in --sbatch, each with its value ("" if it has none).

    Raises UserError for an option that contradicts what the script writes or depends on, and for several
    options of which SLURM would use only the last.
    """
    found: dict[str, str] = {}
    said: dict[str, str] = {}  # option → how the command line gives it
    for setting in SETTINGS:
        for flag in setting.flags:
            value = getattr(flags, flag)
            if setting.option and value is not None:
                said[setting.option] = f"--{flag}={value}"
    for text in flags.sbatch:
        name, value = name_and_value(text, flags)
        if name in found:
            raise UserError(f"--sbatch={text}: {name} is given twice")
        why = RULES.get(name, anything)(value, flags)
        if why is not None:
            raise UserError(f"--sbatch={text}: {why}")
        found[name] = value
        said[name] = f"--sbatch={text}"
    for group in ONE_OF:
        both = [said[option] for option in group if option in said]
        if len(both) > 1:
            raise UserError(f"{both[1]}: not with {both[0]}: SLURM takes one of {', '.join(group)}")
    return found


def name_and_value(text: str, flags: Any) -> tuple[str, str]:
    """The name and the value in --sbatch key=value; the value is "" if there is none. Raises UserError.

    Abbreviated names and single letters are refused: sbatch would accept them, and RULES would not apply.
    """
    short = re.fullmatch(r"-([a-zA-Z])[ =]?(.*)|([a-zA-Z])(?:[ =](.*))?", text.strip())
    if short and (long := SHORT.get(short[1] or short[3])):
        value = short[2] or short[4] or ""
        whole = f"--sbatch {long}={shlex.quote(value)}" if value else f"--sbatch {long}"
        why = RULES.get(long, anything)(value, flags)
        raise UserError(f"--sbatch={text}: {why or f'write the long name, {whole}'}")
    key, equals, value = text.partition("=")
    name = key.strip().removeprefix("--").replace("_", "-")
    if not re.fullmatch(r"[a-z]+(-[a-z]+)*", name) or not value.isprintable():
        raise UserError(f"--sbatch={text}: written as key=value, as in --sbatch constraint=a100")
    if equals and not value.strip():
        raise UserError(f"--sbatch={text}: nothing follows the =")
    if value == "help":
        raise UserError(f"--sbatch={text}: sbatch would show its help and submit nothing")
    meant = [known for known in RULES if known.startswith(name)]
    if meant and name not in RULES:
        raise UserError(f"--sbatch={text}: write the whole name: {' or '.join(meant)}")
    return name, value


def quoted(text: str) -> str:
    """A value as it must be written in an #SBATCH line."""
    plain = re.fullmatch(r"[\w@%+=:,./\[\]&|*-]+", text)
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def option_lines(submission: Submission) -> list[str]:
    """The #SBATCH lines, each below its comment."""
    lines = []
    for setting in SETTINGS:
        value = setting.value(submission)
        if value is None:
            continue
        if setting.comment:
            lines.append(f"# {setting.comment}")
        lines.append(option_line(setting.option, str(value)))
    written = {setting.option for setting in SETTINGS}
    for option, value in further_options(submission.flags).items():
        if option not in written:
            lines.append(option_line(option, value))
    return lines


def option_line(option: str, value: str) -> str:
    return f"#SBATCH --{option}={quoted(value)}" if value else f"#SBATCH --{option}"
