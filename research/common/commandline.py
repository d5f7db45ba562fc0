"""The command line: flags read by tyro into a script's dataclass, refused in one line, exit codes.

A flag is `--name=value`; booleans take True, False, true, false or nothing (a bare `--flag` is True); `None`
is accepted where the type allows it.
"""

import contextlib
import errno
import importlib
import io
import json
import os
import re
import stat
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from data import DataError
from data.names import closest, did_you_mean
from data.terminal import replace_unwritable
from research.common.flags import GIVEN, refuse_idle
from research.common.help import grouped
from research.common.messages import UserError, console, escape, hush

EXIT_USER_ERROR, EXIT_PREEMPTED = 2, 75
# with these a shell reports a program that ended on Ctrl-C or a closed pipe
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 128 + 2, 128 + 13
NO_FOLDER, NOT_THERE = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP), (errno.ENOENT, errno.EEXIST)
NO_SPACE, NO_RIGHT = (errno.ENOSPC, errno.EDQUOT), (errno.EACCES, errno.EPERM, errno.EROFS)
AT_CRASH: list[Callable[[BaseException], None]] = []  # called when the process crashes
SEVERAL = "\0"  # separates a flag and its values; no argument of a command can contain it
BOOLEANS = {"true": "True", "false": "False"}
C = TypeVar("C")


def _kinds(tp: Any) -> tuple[Any, ...]:
    """The alternatives of a type: int | None → (int, NoneType)."""
    return typing.get_args(tp) if typing.get_origin(tp) in (typing.Union, types.UnionType) else (tp,)


def _allowed(tp: Any) -> str:
    words = []
    for kind in _kinds(tp):
        if typing.get_origin(kind) is tuple:  # a flag that may be given more than once
            words.append(_allowed(typing.get_args(kind)[0]))
        elif typing.get_origin(kind) is Literal:
            words.append("one of " + ", ".join(map(str, typing.get_args(kind))))
        else:
            words.append(
                {
                    int: "a whole number",
                    float: "a number",
                    bool: "True or False",
                    str: "text",
                    type(None): "None",
                    Path: "a path",
                }.get(kind, str(kind))
            )
    return " or ".join(words)


def _choices(tp: Any) -> list[str]:
    """The words that a type lists: those of a Literal, True and False."""
    literals = [kind for kind in _kinds(tp) if typing.get_origin(kind) is Literal]
    words = [str(word) for kind in literals for word in typing.get_args(kind)]
    return [*words, "True", "False"] if bool in _kinds(tp) else words


def tokens(args: Sequence[str], hints: dict[str, Any], prog: str, positional: str | None = None) -> list[str]:
    """Normalise to one `--name=value` token per flag; refuse unknown names, with a suggestion.

    hints: the type of each flag; positional: the flag that takes the word without --; if it is a tuple,
    it takes all such words. Raises UserError.
    """
    out, i = [], 0
    several = positional and typing.get_origin(hints[positional]) is tuple
    while i < len(args):
        arg, i = args[i], i + 1
        if arg in ("-h", "--help"):
            out.append("--help")
            continue
        if not arg.startswith("--"):
            if positional and (several or not any(t.startswith(f"--{positional}=") for t in out)):
                out.append(f"--{positional}={arg}")
                continue
            raise UserError(f"{arg!r} is not a flag; flags are written --name=value (see {prog} --help)")
        name, equals, value = arg[2:].partition("=")
        name = name.replace("-", "_")
        if name.startswith("_wandb"):  # a requeued run of a W&B agent can carry one of these
            continue
        if name not in hints:
            near = closest(hints, name)
            hint = did_you_mean(f"--{near}") if near else f" (see {prog} --help)"
            raise UserError(f"unknown flag --{name}{hint}")
        if not equals:
            boolean = bool in _kinds(hints[name])
            if i < len(args) and (args[i].lower() in BOOLEANS if boolean else not args[i].startswith("--")):
                value, i = args[i], i + 1
            elif boolean:
                value = "True"
            else:
                takes_text = {str, tuple[str, ...]} & set(_kinds(hints[name])) or hints[name] == tuple[
                    str, ...
                ]
                after = f"; as in --{name}={args[i]}" if i < len(args) and takes_text else ""
                raise UserError(f"--{name} needs a value: {_allowed(hints[name])}{after}")
        if bool in _kinds(hints[name]):
            value = BOOLEANS.get(value.lower(), value)
        if int in _kinds(hints[name]):  # W&B's engine writes whole numbers of a quantised range as 4.0
            value = re.sub(r"(?<=\d)\.0+\Z", "", value)
        out.append(f"--{name}={value}")
    return out


def _further(words: list[str], hints: dict[str, Any]) -> list[str]:
    """In a script that compares models, further values of --checkpoint become its flag --checkpoints."""
    given = [word for word in words if re.match("--checkpoints?=", word)]
    if "checkpoints" not in hints or len(given) < 2:
        return words
    first, *more = [word.partition("=")[2] for word in given]
    others = [word for word in words if word not in given]
    return [*others, f"--checkpoint={first}", SEVERAL.join(["--checkpoints", *more])]


def _spread(words: list[str]) -> list[str]:
    """The words as tyro wants them: each value of a flag with several values is a separate word."""
    spread = []
    for word in words:
        name, several, values = word.partition(SEVERAL)
        spread += [name, *values.split(SEVERAL)] if several and "=" not in name else [word]
    return spread


def parse(config_class: type[C], args: Sequence[str] | None = None, positional: str | None = None) -> C:
    """Read `args` (default: sys.argv) into `config_class`. Raises UserError, one line, for what is not
    allowed.
    """
    import tyro

    of_process = args is None
    args = list(sys.argv[1:] if of_process else args)
    prog = Path(sys.argv[0]).name
    hints = typing.get_type_hints(config_class)
    words = _further(tokens(args, hints, prog, positional), hints)
    given = {
        t[2:].partition("=")[0].partition(SEVERAL)[0]: t.partition("=")[2] for t in words if t != "--help"
    }
    if "epochs" in given and "steps" in given and given["epochs"] != "None":
        raise UserError("--epochs replaces --steps: give only one of the two")
    if given.get("config") not in (None, "None"):
        in_part = getattr(config_class, "takes_config_in_part", False)
        words = _tokens_of_file(given["config"], given, hints, in_part) + words
    style = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands, tyro.conf.OmitArgPrefixes)
    if "--help" in words:
        tyro.cli(grouped(config_class), args=["--help"], prog=prog, use_underscores=True, config=style)
    printed = io.StringIO()
    if of_process:
        GIVEN.update(given)
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(config_class, args=_spread(words), prog=prog, use_underscores=True, config=style)
    except SystemExit as stop:
        if stop.code in (None, 0):  # --help
            raise
        flag = re.search(r"--(\w+)", printed.getvalue())
        if not flag or flag[1] not in hints:
            raise UserError(" ".join(re.sub(r"[─│╭╮╰╯]", " ", printed.getvalue()).split())) from None
        value = next((t.partition("=")[2] for t in reversed(words) if t.startswith(f"--{flag[1]}=")), "")
        if not any(t.startswith(f"--{flag[1]}=") for t in words):
            raise UserError(f"--{flag[1]} is required (see {prog} --help)") from None
        hint = did_you_mean(closest(_choices(hints[flag[1]]), value))
        raise UserError(f"--{flag[1]}={value}: must be {_allowed(hints[flag[1]])}{hint}") from None


def _tokens_of_file(
    path: str, given: dict[str, str], hints: dict[str, Any], in_part: bool = False
) -> list[str]:
    """The flags in a run's config.json as tokens, without those given on the command line and those that name
    a place.

    in_part: flags that the command does not have are ignored instead of refused.
    """
    try:
        flags = dict(json.loads(Path(path).read_text(encoding="utf-8"))["flags"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--config={path}: not a run's config.json ({error})") from None
    skip = {*given, "out", "name", "config", "fresh", "reuse", "task", "checkpoints"} | (
        {"steps"} if "epochs" in given else set()
    )
    if "steps" in given:
        skip.add("epochs")
    unknown = sorted(set(flags) - set(hints))
    if unknown and not in_part:
        raise UserError(f"--config={path}: this script has no flag --{unknown[0]}")
    if flags.get("epochs") is not None and "epochs" not in skip:
        skip.add("steps")
    return [f"--{k}={v}" for k, v in flags.items() if k in hints and k not in skip]


def main(
    config_class: type[C],
    run: Callable[[C], Any],
    positional: str | None = None,
    tasks: str | None = None,
) -> None:
    """A command's entry point: read the flags and run; a user's mistake is one line and exit code 2.

    positional: the flag to which a word without -- belongs. tasks: the module whose `run` does every --task
    except the default one; it is imported only then.
    """
    replace_unwritable()
    cfg = None
    try:
        cfg = parse(config_class, positional=positional)
        hush(getattr(cfg, "quiet", False))
        if tasks is not None:
            refuse_idle(cfg)
        if tasks is not None and cfg.task != config_class.task:
            importlib.import_module(tasks).run(cfg)
        else:
            run(cfg)
    except (UserError, DataError) as error:
        _crash(error)
        console.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError as error:  # the program that reads our output, such as `head`, has closed it
        _crash(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the last flush would fail, too
        sys.exit(EXIT_BROKEN_PIPE)
    except OSError as error:
        begun = bool(AT_CRASH)  # a run has checkpoints; launchers and tasks have none
        _crash(error)
        if (remedy := _remedy(error, begun, getattr(cfg, "out", None))) is None:
            raise
        what, code = remedy
        console.print(f"[bold red]error:[/] {escape(what)}")
        sys.exit(code)
    except KeyboardInterrupt:  # the run is left as if it had been killed; it can continue from its checkpoint
        console.print("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:  # not handled, only recorded in the run's folder and in W&B
        _crash(error)
        raise
    finally:
        GIVEN.clear()


def _remedy(error: OSError, begun: bool, out: Any) -> tuple[str, int] | None:
    """What is wrong with a file that could not be written or read, how to mend it, and the exit code; None if
    the cause is neither space nor permissions.

    begun: a run had begun, which can continue from its checkpoint; out: the value of --out, None without one.
    An error that trying again does not mend has the exit code of a wrong flag, so that no sweep tries it
    again.
    """
    path = None if error.filename is None or isinstance(error.filename, int) else os.fsdecode(error.filename)
    what = os.strerror(error.errno) if error.errno else ""
    what += f" ({path})" if path else ""
    elsewhere = _is_below(path, out)
    if error.errno in NO_SPACE:
        what += ": free some space, then run the same command again"
        if begun:
            what += "; it goes on from the last checkpoint"
        return what + (", or starts from the beginning with another --out" if begun and elsewhere else ""), 1
    choose = "choose another --out" if elsewhere else "choose another place"
    is_out = path is not None and _is_below(None if out is None else str(out), path)  # or lies above it
    if (is_out and error.errno in NOT_THERE) or ((is_out or elsewhere) and error.errno in NO_FOLDER):
        return f"{what}: no folder can be made there: choose another --out or --name", EXIT_USER_ERROR
    if error.errno == errno.EROFS:
        return f"{what}: nothing can be written there: {choose}", EXIT_USER_ERROR
    if error.errno in NO_RIGHT and path:
        if (whose := _whose(Path(path))) is None:
            return f"{what}: nothing can be written there: {choose}", EXIT_USER_ERROR
        mend = "change its owner or its permissions and run the same command again"
        return f"{what}: {whose}: {mend}, or {choose}", EXIT_USER_ERROR
    return None


def _is_below(path: str | None, out: Any) -> bool:
    """Whether a file lies where --out says."""
    if path is None or not isinstance(out, (str, Path)):
        return False
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(out))


def _whose(path: Path) -> str | None:
    """In words: who owns the file that we may not use, or its folder if that is closed to us, and who we are.

    None if the file is our own and its permissions allow the access: then the file system has another reason.
    """
    import pwd

    def name(uid: int) -> str:
        with contextlib.suppress(KeyError):  # in a container, the user may have no name
            return pwd.getpwuid(uid).pw_name
        return f"user {uid}"

    there = []  # the file, if it is there, and the folders above it, each with its status
    for at in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            there.append((at, at.stat()))
    rights = {True: os.R_OK | os.W_OK | os.X_OK, False: os.R_OK | os.W_OK}
    closed = [
        (at, found) for at, found in there[:2] if not os.access(at, rights[stat.S_ISDIR(found.st_mode)])
    ]
    at, found = (closed or there)[0]
    if found.st_uid == os.geteuid() and found.st_mode & stat.S_IWUSR:
        return None
    it = "it" if at == path else str(at)
    owner, me = name(found.st_uid), name(os.geteuid())
    return f"{it} belongs to {owner} ({stat.filemode(found.st_mode)}), and you are {me}"


def _crash(error: BaseException) -> None:
    for hook in list(AT_CRASH):
        hook(error)
