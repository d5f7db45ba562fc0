"""The keys of a W&B sweep file. They are read strictly: each is followed or refused in one line; none is
ignored.

For every key of the format, `KEYS` says how each launcher treats it. docs/sweeps.md shows it as a table
(`python docs/sweep_keys.py`).
"""

import functools
import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import yaml

from data.names import closest, did_you_mean
from research.common.messages import UserError

FOLLOWED = ""  # in place of a refusal, for a key that is followed
METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
IMPUTE = {
    "impute": ("latest", "best", "worst"),
    "impute_while_running": ("latest", "best", "worst", "false"),
}


@dataclass(frozen=True)
class Key:
    """A key of the format. here: the words with which launch/local.py and launch/slurm.py refuse it; online:
    the same with --wandb=online; agent: what it needs besides `wandb sweep` and `wandb agent`; note: what
    following it means, or which of its values are followed.
    """

    name: str
    here: str = FOLLOWED
    online: str = FOLLOWED
    agent: str = FOLLOWED
    note: str = ""

    def refusal(self, online: bool) -> str:
        return self.online if online else self.here


def _refused(name: str, words: str, agent: str = FOLLOWED, note: str = "") -> Key:
    """A key that the launchers refuse, even online."""
    return Key(name, words, words, agent, note)


LAUNCH, SCHEDULER = "needs W&B Launch", "needs `wandb sweep-scheduler`"
KEYS = {
    "sweep": (
        Key("program", note="a script of this repository; its path, absolute or from the repository's root"),
        Key("command", note="its literal flags go to every run; see below"),
        Key("method", note="grid, random, bayes; custom is refused"),
        Key("parameters"),
        Key("metric", note="tables and status lines show it; the final table and the report sort by it"),
        Key("early_terminate"),
        Key("run_cap", note="grid: its first points"),
        Key(
            "name",
            note="shown at W&B, also after an upload; the folder is named after the file, or by --name",
        ),
        Key("description", note="shown at W&B, also after an upload"),
        Key("project", note="--project wins"),
        Key("entity", note="--entity wins"),
        Key("apiVersion", note="has no effect on the runs"),
        Key("kind", note="must be sweep"),
        Key("controller", note="type: cloud; local is refused: it needs `wandb controller`"),
        _refused("metrics", "several metrics are not followed: give one of them as metric", SCHEDULER),
        _refused("scheduler", "schedulers are not followed: leave it out", SCHEDULER),
        _refused("job", "W&B Launch is not used here: give program, a script", LAUNCH),
        _refused("image_uri", "W&B Launch is not used here: give program, a script", LAUNCH),
    ),
    "parameter": (
        Key("value"),
        Key("values"),
        Key("distribution", note="all of W&B's"),
        Key("min"),
        Key("max"),
        Key(
            "q",
            note="draws are rounded to its multiples, which may lie just outside min and max: a note says so",
        ),
        Key("mu"),
        Key("sigma"),
        Key("a"),
        Key("b"),
        Key("probabilities", note="random only; their sum must be 1"),
        _refused(
            "parameters",
            "nested parameters are not followed: the scripts' flags are flat",
            note="`wandb agent` passes a dictionary, which the scripts refuse",
        ),
    ),
    "metric": (
        Key("name"),
        Key("goal", note="minimize where it is not given"),
        Key("target", "is not followed here: leave it out"),
        Key("impute", note="only worst for bayes, except online, where W&B also takes latest and best"),
        Key("impute_while_running"),
    ),
    "early_terminate": tuple(map(Key, ("type", "min_iter", "max_iter", "s", "eta", "strict"))),
}
# words that people write by mistake, and the key that they mean
MEANT = {
    "early_stopping": "early_terminate",
    "early_stop": "early_terminate",
    "params": "parameters",
    "hyperparameters": "parameters",
    "max_runs": "run_cap",
    "num_runs": "run_cap",
    "count": "run_cap",
    "script": "program",
    "objective": "metric",
    "search": "method",
    "strategy": "method",
    "bayesian": "bayes",
    "choices": "values",
    "options": "values",
    "default": "value",
    "dist": "distribution",
    "loguniform": "log_uniform_values",
    "qloguniform": "q_log_uniform_values",
    "quniform": "q_uniform",
    "randint": "int_uniform",
    "gaussian": "normal",
    "choice": "categorical",
    "prob": "probabilities",
    "probs": "probabilities",
    "weights": "probabilities",
    "mean": "mu",
    "std": "sigma",
    "low": "min",
    "high": "max",
    "step": "q",
    "max_iterations": "max_iter",
    "min_iterations": "min_iter",
}
# keys that a distribution must have, and keys that it may have
LIMITS = ({"min", "max"}, set())
QUANTISED_LIMITS = ({"min", "max"}, {"q"})
DISTRIBUTIONS = {
    "constant": ({"value"}, set()),
    "categorical": ({"values"}, set()),
    "categorical_w_probabilities": ({"values", "probabilities"}, set()),
    "int_uniform": LIMITS,
    "uniform": LIMITS,
    "q_uniform": QUANTISED_LIMITS,
    "log_uniform": LIMITS,
    "log_uniform_values": LIMITS,
    "inv_log_uniform": LIMITS,
    "inv_log_uniform_values": LIMITS,
    "q_log_uniform": QUANTISED_LIMITS,
    "q_log_uniform_values": QUANTISED_LIMITS,
    "normal": (set(), {"mu", "sigma"}),
    "log_normal": (set(), {"mu", "sigma"}),
    "q_normal": (set(), {"mu", "sigma", "q"}),
    "q_log_normal": (set(), {"mu", "sigma", "q"}),
    "beta": (set(), {"a", "b"}),
    "q_beta": (set(), {"a", "b", "q"}),
}
IN_A_GRID = ("constant", "categorical", "int_uniform", "q_uniform")
EXPONENTS = ("log_uniform", "inv_log_uniform", "q_log_uniform")  # their limits are exponents of e
MAX_EXPONENT = 700  # e to the power of this is still a float
NUMBERS = ("min", "max", "q", "mu", "sigma", "a", "b")


# ---- reading -------------------------------------------------------------------------------------------


class StrictLoader(yaml.SafeLoader):
    """YAML in which it is an error if a key appears twice in one mapping. A key may
    override one from `<<`.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, Hashable) and key in seen:
                raise UserError(f"{key} appears twice, in lines {seen[key]} and {line}: give it once")
            if isinstance(key, Hashable):
                seen[key] = line
        return super().construct_mapping(node, deep)


def load(text: str) -> dict[str, Any]:
    """The content of a sweep file. UserError, whose message does not name the file: it is
    not a sweep at all.
    """
    try:
        content = yaml.load(text, StrictLoader)
    except yaml.MarkedYAMLError as error:
        raise UserError(f"not readable as YAML ({_where(error, text)})") from None
    except yaml.YAMLError as error:
        raise UserError(f"not readable as YAML ({' '.join(str(error).split())})") from None
    except (ValueError, RecursionError) as error:  # a date that does not exist; brackets thousands deep
        raise UserError(f"not readable as YAML ({type(error).__name__}: {error})") from None
    if not isinstance(content, dict):
        raise UserError("not a W&B sweep; it needs program, method and parameters")
    return content


def _where(error: yaml.MarkedYAMLError, text: str) -> str:
    """The line of an error in a YAML, what is wrong there, and the likely reason."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return error.problem or "damaged"
    begin = error.context_mark.line if error.context_mark else mark.line
    lines = text.split("\n")[begin : mark.line + 1]
    said = f"line {mark.line + 1}: {error.problem}"
    if any("\t" in line for line in lines):
        return f"{said}; YAML allows no tabs: use spaces"
    if any(re.search(r"[\[,]\s*\$\{", line) for line in lines):
        return f'{said}; inside [ ] write "${{args}}" with quotes'
    if any(":" not in line and re.fullmatch(r"\s*\w+ +\S.*", line) for line in lines):
        return f"{said}; a key is followed by a colon"
    return said


# ---- what is refused -----------------------------------------------------------------------------------


def refusal(content: dict[str, Any], online: bool) -> str | None:
    """Why a sweep's keys can't be followed, in words that begin with the key; None if they can.

    online: W&B directs the sweep. Questions that only the script can answer, such as which flags there are,
    are left out.
    """
    if why := _keys_refusal("sweep", content, online):
        return why
    for name in ("name", "description", "project", "entity", "apiVersion"):
        if name in content and not (isinstance(content[name], str) and content[name].strip()):
            return f"{name}: {content[name]}: must be text{_in_quotes(content[name])}"
    if content.get("kind", "sweep") != "sweep":
        return f"kind: {content['kind']}: must be sweep"
    if "controller" in content and content["controller"] != {"type": "cloud"}:
        return f"controller: {content['controller']}: must be {{type: cloud}}, or left out"
    method = content.get("method")
    if method is None:
        return f"method is missing: write method: {', or '.join(METHODS)}"
    if method not in METHODS:
        return f"method: {method} is not run here; allowed: {', '.join(METHODS)}{_meant(METHODS, method)}"
    if "run_cap" in content and (why := _run_cap_refusal(content["run_cap"])):
        return why
    if method != "grid" and "run_cap" not in content:
        return f"a {method} sweep needs run_cap, the number of its trials"
    if "metric" in content and (why := _metric_refusal(content, online)):
        return why
    if "early_terminate" in content:
        rule = content["early_terminate"]
        if not isinstance(rule, dict):
            return f"early_terminate: {rule}: written as early_terminate: {{type: hyperband, min_iter: 3}}"
        if why := _keys_refusal("early_terminate", rule, online):
            return why
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        return "parameters: must hold at least one flag, as in parameters: {beta: {values: [1, 4]}}"
    for name, given in parameters.items():
        if why := parameter_refusal(name, given, method, online):
            return f"parameter {name}{why}"
    return None


def _keys_refusal(where: str, given: dict[str, Any], online: bool) -> str | None:
    """A sentence about the first key of this part of the format that is unknown or not
    followed; else None.
    """
    known = {key.name: key for key in KEYS[where]}
    before = "" if where in ("sweep", "parameter") else f"{where}: "
    for name in given:
        if name not in known:
            part = f"a {where}" if where in ("sweep", "parameter") else where
            said = f"{before}{'null' if name is None else name}: not a key of {part}"
            if where == "parameter" and isinstance(name, (int, float)):
                return f"{said}; a list is written in [ ], as in values: [0, 1]"
            others = [other for other, keys in KEYS.items() if any(key.name == name for key in keys)]
            place = (
                f"; it is one of {'a parameter' if others[0] == 'parameter' else others[0]}" if others else ""
            )
            return said + (place or _meant(known, name))
        if words := known[name].refusal(online):
            return f"{before}{name}: {words}" if where != "metric" else f"{before}{name} {words}"
    return None


def _meant(known: Any, name: Any) -> str:
    meant = MEANT.get(str(name).lower())
    return did_you_mean(meant if meant in known else closest(known, str(name), str(name).lower()))


def _in_quotes(value: Any) -> str:
    """A hint to put quotes around a value that YAML does not read as text; '' if it is text."""
    if value is None or isinstance(value, (str, list, dict)):
        return ""
    return f': write "{str(value).lower() if isinstance(value, bool) else value}" in quotes'


def as_number(text: Any) -> float | None:
    """The number that somebody means by text such as 1e-5, which YAML does not read as a
    number; else None.
    """
    if not isinstance(text, str) or not re.fullmatch(
        r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?", text.strip()
    ):
        return None
    return float(text)


def _written(number: float) -> str:
    """A number written so that YAML reads it as one: its mantissa has a point, its exponent has a sign."""
    if number.is_integer() and abs(number) < 1e15:
        return str(int(number))
    mantissa, e, exponent = repr(number).partition("e")
    return repr(number) if not e else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"


def _number_refusal(value: Any) -> str | None:
    """Why a value is not a finite number, in words that follow it; None if it is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        meant = as_number(value)
        hint = "" if meant is None else f" (YAML reads {value} as text: write {_written(meant)})"
        return f"must be a number{hint}"
    try:
        return None if math.isfinite(value) else "must be a finite number"
    except OverflowError:  # an integer of hundreds of digits
        return "must be a number below 1e308"


def _run_cap_refusal(cap: Any) -> str | None:
    if isinstance(cap, int) and not isinstance(cap, bool) and cap >= 1:
        return None
    meant = cap if isinstance(cap, float) else as_number(cap)
    if meant is not None and float(meant).is_integer() and meant >= 1:
        return f"run_cap: {cap}: must be a whole number: write {int(meant)}"
    return f"run_cap: {cap}: must be a whole number of at least 1"


def _metric_refusal(content: dict[str, Any], online: bool) -> str | None:
    metric = content["metric"]
    written = "metric: {name: val/mse_best, goal: minimize}"
    if isinstance(metric, str):
        return f"metric: {metric}: written as metric: {{name: {metric}, goal: minimize}}"
    if not isinstance(metric, dict):
        return f"metric: {metric}: written as {written}"
    if why := _keys_refusal("metric", metric, online):
        return why
    if not (isinstance(metric.get("name"), str) and metric["name"].strip()):
        return f"metric: name: {metric.get('name')}: must be the name of a figure, as in {written}"
    if "goal" in metric and metric["goal"] not in GOALS:
        return f"metric: goal: {metric['goal']}: must be {' or '.join(GOALS)}{_meant(GOALS, metric['goal'])}"
    for name, allowed in IMPUTE.items():
        if name in metric and metric[name] not in allowed:
            quotes = _in_quotes(metric[name])
            return f"metric: {name}: {metric[name]}: must be one of {', '.join(allowed)}{quotes}"
    if content["method"] == "bayes" and not online and metric.get("impute", "worst") != "worst":
        return f"metric: impute: {metric['impute']}: must be worst here, or left out"
    return None


def parameter_refusal(name: Any, given: Any, method: str, online: bool = False) -> str | None:
    """Why a parameter's keys can't be followed, in words that follow its name; None if they can."""
    if not isinstance(name, str):
        return f": a flag's name must be text{_in_quotes(name)}"
    if not isinstance(given, dict):
        kind = "values" if isinstance(given, list) else "value"
        return f": {given}: written as {name}: {{{kind}: {'...' if given is None else given}}}"
    if why := _keys_refusal("parameter", given, online):
        return f": {why}"
    if "value" in given and "values" in given:
        return ": value and values: give one of the two"
    distribution = given.get("distribution")
    if distribution is not None and (not isinstance(distribution, str) or distribution not in DISTRIBUTIONS):
        names = ", ".join(DISTRIBUTIONS)
        return f": distribution: {distribution}{_meant(DISTRIBUTIONS, distribution) or f'; allowed: {names}'}"
    found = distribution or _implied(given)
    if found is None:
        return (
            f": {', '.join(given) or 'nothing is given'}: give value, values, min and max, or a distribution"
        )
    required, optional = DISTRIBUTIONS[found]
    if missing := [key for key in sorted(required, reverse=True) if key not in given]:
        return f": {found} needs {' and '.join(sorted(required))}; {missing[-1]} is missing"
    if more := [key for key in given if key not in required | optional | {"distribution"}]:
        takes = " and ".join(sorted(required | optional)) or "nothing"
        return f": {more[0]}: {found} takes {takes}"
    if why := _values_refusal(given) or _numbers_refusal(found, given):
        return f": {why}"
    if method == "grid" and found not in IN_A_GRID:
        drawn = "probabilities" if "probabilities" in given else found
        if distribution is None and found == "uniform":
            drawn = "min and max are a range of real numbers"
        return f": {drawn}: a grid needs values, or int_uniform or q_uniform; or write method: random"
    return None


def _implied(given: dict[str, Any]) -> str | None:
    """The distribution of a parameter that names none, as in W&B's schema; None if it can't be told."""
    if "value" in given:
        return "constant"
    if "values" in given or "probabilities" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if "min" in given or "max" in given:
        whole = all(
            isinstance(given.get(k), int) and not isinstance(given.get(k), bool) for k in ("min", "max")
        )
        return "int_uniform" if whole else "uniform"
    return None


def distribution_of(given: dict[str, Any]) -> str:
    """The distribution of a valid parameter."""
    return given.get("distribution") or _implied(given)


def _values_refusal(given: dict[str, Any]) -> str | None:
    if "values" in given and not (isinstance(given["values"], list) and given["values"]):
        instead = "" if isinstance(given["values"], (list, type(None))) else f": write [{given['values']}]"
        return f"values: {given['values']}: must be a list of at least one value{instead}"
    for value in given.get("values", [given["value"]] if "value" in given else ()):
        if isinstance(value, float) and not math.isfinite(value):
            return f'{value}: write "{value}" in quotes'
        if value is not None and not isinstance(value, (str, bool, int, float)):
            what = "must be one value" if isinstance(value, (list, dict)) else "YAML does not read it as text"
            if isinstance(value, list) and "value" in given:
                what += f"; for several write values: {value}"
            return f"{value}: {what}{_in_quotes(value)}"
    if "probabilities" not in given:
        return None
    chances, values = given["probabilities"], given["values"]
    if not isinstance(chances, list) or len(chances) != len(values):
        n = len(chances) if isinstance(chances, list) else 0
        return f"probabilities: {n} for {len(values)} values: must be one for each"
    for chance in chances:
        if why := _number_refusal(chance):
            return f"probabilities: {chance}: {why}"
        if chance < 0:
            return f"probabilities: {chance}: must be at least 0"
    if not math.isclose(sum(chances), 1.0, rel_tol=1e-5, abs_tol=1e-8):  # the tolerance of W&B's own check
        return f"probabilities: {chances}: their sum is {sum(chances):.6g}, and must be 1"
    return None


def _numbers_refusal(found: str, given: dict[str, Any]) -> str | None:
    for key in NUMBERS:
        if key not in given:
            continue
        value = given[key]
        if why := _number_refusal(value):
            return f"{key}: {value}: {why}"
        if found == "int_uniform" and not isinstance(value, int):
            return f"{key}: {value}: int_uniform needs a whole number"
        if found == "int_uniform" and abs(value) >= 2**62:
            return f"{key}: {value}: must lie within 2**62"
        if key == "q" and value <= 0:
            return f"q: {value}: must be above 0"
        if key in ("sigma", "a", "b") and value <= 0:
            return f"{key}: {value}: must be above 0"
        if key == "min" and found.endswith("log_uniform_values") and value <= 0:
            return f"min: {value}: {found} needs a number above 0"
        if found in EXPONENTS and key in ("min", "max") and abs(value) > MAX_EXPONENT:
            instead = f"limits that are values are written with {found}_values"
            return f"{key}: {value}: an exponent of e, at most {MAX_EXPONENT}; {instead}"
    if "min" in given and given["min"] >= given["max"]:
        return f"min {given['min']} is not less than max {given['max']}"
    return None


# ---- what is said --------------------------------------------------------------------------------------


def searched(parameters: dict[str, Any]) -> list[str]:
    """The parameters that have more than one value."""

    def is_fixed(given: dict[str, Any]) -> bool:
        return "value" in given or ("values" in given and len(given["values"]) == 1)

    return [name for name, given in parameters.items() if not is_fixed(given)]


def notes(parameters: dict[str, Any], method: str) -> list[str]:
    """Lines about parameters to which W&B's rules give a meaning that people often don't expect."""
    found = []
    for name, given in parameters.items():
        kind = distribution_of(given)
        if kind in EXPONENTS:
            ends = sorted(math.exp(-given[k] if kind.startswith("inv") else given[k]) for k in ("min", "max"))
            drawn = f"it draws {ends[0]:.6g} to {ends[1]:.6g}"
            instead = f"limits that are values are written with {kind}_values"
            found.append(f"parameter {name}: the limits of {kind} are exponents of e: {drawn}; {instead}")
        if "q" in DISTRIBUTIONS[kind][1] and "min" in given and method != "grid":
            q = given.get("q", 1.0)
            limits = (given["min"], given["max"])
            if kind == "q_log_uniform":
                limits = tuple(map(math.exp, limits))
            ends = tuple(round(limit / q) * q for limit in limits)
            if ends[0] < limits[0] or ends[1] > limits[1]:
                drawn = f"it draws {ends[0]:.6g} to {ends[1]:.6g}"
                found.append(f"parameter {name}: {kind} rounds to multiples of {q:g}: {drawn}")
    return found


@functools.cache
def table() -> str:
    """KEYS as a table in Markdown: for each key, what launch/local.py, launch/slurm.py, both with
    --wandb=online, and `wandb sweep` with `wandb agent` do with it.
    """
    lines = ["| key | local | SLURM | `--wandb=online` | `wandb agent` | |", "|---|---|---|---|---|---|"]
    for where, keys in KEYS.items():
        before = {"sweep": "", "parameter": "parameters: …: "}.get(where, f"{where}: ")
        for key in keys:
            cells = [
                f'refused: "{words}"' if words else "followed" for words in (key.here, key.here, key.online)
            ]
            cells.append(key.agent or "followed")
            lines.append(f"| `{before}{key.name}` | {' | '.join(cells)} | {key.note} |")
    return "\n".join(lines)
