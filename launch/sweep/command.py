"""The `command:` of a sweep file: the words with which a trial's script is started, as by `wandb agent`.

The launchers start the script themselves, from the sweep's snapshot and with their own Python. So a command
has to amount to `python SCRIPT`, followed by literal flags and one macro that stands for a point's flags.
"""

import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.names import closest, did_you_mean
from launch.sweep.points import as_args
from launch.sweep.program import Program
from research.common.commandline import tokens
from research.common.folder import read_json, write_json
from research.common.messages import UserError

KEPT = "command.json"  # in the sweep folder, if its YAML has a command: the command when the sweep began
VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")  # the same as in W&B's client


def without_false(flags: dict[str, Any]) -> list[str]:
    """`${args_no_boolean_flags}`: True becomes a flag without a value; with False there is no flag."""
    words = []
    for name, value in flags.items():
        if value is not False:
            words.append(f"--{name}" if value is True else f"--{name}={value}")
    return words


def without_equals(flags: dict[str, Any]) -> list[str]:
    """`${args_no_equals}`: each value is a word of its own."""
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


# the macros that give a point's flags as words of a command; OTHERS: what W&B's other macros give instead
STYLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "args": as_args,
    "args_no_boolean_flags": without_false,
    "args_no_equals": without_equals,
}
OTHERS = {
    "args_no_hyphens": "name=value",
    "args_append_hydra": "+name=value",
    "args_override_hydra": "++name=value",
    "args_json": "one text in JSON",
    "args_json_file": "the name of a file in JSON",
    "args_dict": "a dictionary",
}


class Command:
    """What follows the script. words: literal words and the macro; literals: the flags in
    the literal words.
    """

    def __init__(self, words: list[str], literals: dict[str, str]):
        self.words, self.literals = words, literals

    def args(self, flags: dict[str, Any]) -> list[str]:
        """A trial's words after the script. flags: all flags of the trial, including the literal ones.

        If a trial has another value than the command (a confirming trial has another seed), it comes last and
        therefore wins.
        """
        point = {name: value for name, value in flags.items() if name not in self.literals}
        words = []
        for word in self.words:
            words += STYLES[_macro(word)](point) if _macro(word) else [word]
        changed = {k: v for k, v in flags.items() if k in self.literals and str(v) != self.literals[k]}
        return words + as_args(changed)

    def keep(self, folder: Path) -> None:
        """Write the command into a sweep folder, for the workers, unless it is there."""
        if read_json(folder / KEPT) is None:
            write_json(folder / KEPT, {"words": self.words, "literals": self.literals})

    def refuse_other(self, folder: Path) -> None:
        """Raise UserError if the trials of a sweep folder were begun with other words."""
        kept = of_folder(folder)
        if kept.words == self.words:
            return
        if not (folder / KEPT).exists() and not self.literals:
            return  # begun without a command, or by code that had none yet: the trials are the same
        was, now = shlex.join(kept.words), shlex.join(self.words)
        raise UserError(
            f"{folder} was begun with the command ... {was}, and now it is ... {now}: "
            "choose another --name, or --fresh"
        )


PLAIN = Command(["${args}"], {})


def of_folder(folder: Path) -> Command:
    """The command of a sweep folder, as its workers run it."""
    kept = read_json(folder / KEPT)
    return PLAIN if kept is None else Command(kept["words"], kept["literals"])


def of_sweep(content: dict[str, Any], script: Program) -> Command:
    """The command of a sweep file. Raises UserError, whose message begins with the key."""
    if "command" not in content:
        return PLAIN
    given = content["command"]
    try:
        words = _after_script([str(word) for word in _checked(given)], script)
        return Command(words, _literals(words, script, content["parameters"]))
    except UserError as error:
        raise UserError(f"command: {error}") from None


def as_written(content: dict[str, Any], script: Program) -> list[str]:
    """What follows the script, with `${envvar:...}` unchanged, because each of W&B's agents fills it in."""
    if "command" not in content:
        return ["${args}"]
    n = len(of_sweep(content, script).words)
    return [str(word) for word in content["command"]][-n:]


def _macro(word: str) -> str | None:
    """The name of a macro; None if the word is not one. Like W&B's client, it only looks at both ends."""
    return word[2:-1] if word.startswith("${") and word.endswith("}") else None


def _checked(given: Any) -> list[Any]:
    """The command as a list of words. Raises UserError."""
    usual = '["${env}", "${interpreter}", "${program}", --flag=value, "${args}"]'
    if not isinstance(given, list) or not given:
        raise UserError(f"{given}: must be a list of words, as in {usual}")
    for word in given:
        if isinstance(word, bool) or not isinstance(word, (str, int, float)):
            raise UserError(f"{word}: each word must be text; put it in quotes")
        if isinstance(word, str) and not word.strip():
            raise UserError(f"{word!r}: an empty word")
    return given


def _filled(word: str) -> str:
    """A word with its environment variables filled in. Raises UserError if one of them is not set."""
    for name in VARIABLE.findall(word):
        if name not in os.environ:
            raise UserError(f"{word}: {name} is not set here (W&B's agents would write {name} itself)")
    return VARIABLE.sub(lambda match: os.environ[match[1]], word)


def _after_script(given: list[str], script: Program) -> list[str]:
    """The words after the script, with environment variables filled in. Raises UserError."""
    words = list(map(_filled, given))
    for word in words:
        name = _macro(word)
        if "${" in word and name is None:
            raise UserError(f"{word}: a macro must be a word of its own")
        if name in OTHERS:
            raise UserError(
                f"{word}: it gives {OTHERS[name]}, and {script.path} takes --name=value: write ${{args}}"
            )
        if name is not None and name not in ("env", "interpreter", "program", *STYLES):
            known = {*STYLES, *OTHERS, "env", "interpreter", "program", "envvar:NAME"}
            near = closest(known, name)
            raise UserError(f"{word}: not a macro of W&B{did_you_mean(f'${{{near}}}' if near else None)}")
    usual = "${env}, ${interpreter}, ${program}, then flags and ${args}"
    left = list(words)
    if left and left[0] in ("${env}", "env", "/usr/bin/env"):
        del left[0]
        if left and re.match(r"\w+=", left[0]):
            raise UserError(f"{left[0]}: set it in the shell that starts the launcher")
    if not left or not _is_our_python(left[0]):
        started = left[0] if left else "nothing"
        raise UserError(
            f"it starts {started}, but here the script is started by {sys.executable}: write {usual}"
        )
    del left[0]
    while left and left[0] == "-u":  # unbuffered output, which we use in any case
        del left[0]
    if left[:1] == ["-m"] and left[1:2] == [script.module_name]:
        del left[:2]
    elif left and (left[0] == "${program}" or Program.found(left[0]) == script):
        del left[0]
    else:
        raise UserError(
            f"{left[0] if left else 'no script'}: expected ${{program}}, {script.path}; write {usual}"
        )
    macros = [word for word in left if _macro(word)]
    if wrong := [word for word in macros if _macro(word) not in STYLES]:
        raise UserError(f"{wrong[0]}: not behind the script")
    if len(macros) != 1:
        many = " and ".join(macros) or "none"
        raise UserError(
            f"one macro has to give the flags of a point, and there is {many}: write ${{args}} once"
        )
    return left


def _is_our_python(word: str) -> bool:
    """Whether a word starts the Python that runs the launcher, judged by its name or path."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if word in ("${interpreter}", "python", "python3", f"python{version}"):
        return True
    return (
        "/" in word
        and Path(word).name.startswith("python")
        and os.path.realpath(word) == os.path.realpath(sys.executable)
    )


def _literals(words: list[str], script: Program, parameters: dict[str, Any]) -> dict[str, str]:
    """The literal flags and their values, read by the script's own rules. Raises UserError."""
    at = next(i for i, word in enumerate(words) if _macro(word))
    found: dict[str, str] = {}
    for part in (words[:at], words[at + 1 :]):
        if wrong := [word for word in part if word.startswith("--_wandb")]:
            raise UserError(f"{wrong[0]}: W&B's own, not a flag of {script.path}")
        for token in tokens(part, script.flags, script.path):
            if token == "--help":
                raise UserError("--help: trains nothing")
            name, _, value = token[2:].partition("=")
            if name in parameters or name in found:
                other = "the parameters" if name in parameters else f"--{name}={found[name]}"
                raise UserError(f"--{name}={value}: is given there and in {other}: give one of the two")
            found[name] = value
    if _macro(words[at]) == "args_no_boolean_flags":
        for name, given in parameters.items():
            values = given.get("values") or [given.get("value")]
            if script.default(name) is True and any(value is False for value in values):
                raise UserError(
                    f"{words[at]}: it leaves out --{name}=False, and then {name} is True: write ${{args}}"
                )
    return found
