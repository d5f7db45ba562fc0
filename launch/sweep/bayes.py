"""Bayesian search: W&B's own engine proposes each point from the results of the trials before it.

A proposal depends only on the sweep, the trial's index, the number of the attempt, and what was `seen` of the
trials before it. The trial file stores the last two, so that `recompute` can compute the proposal again.
"""

import warnings
from typing import Any

from launch.sweep.history import Histories
from launch.sweep.points import plain, seed_engine
from launch.sweep.queue import Queue, Trial
from research.common.folder import ENDED, read_json

ENGINE_TRIES = 10  # attempts to get a new point; with discrete parameters the engine often repeats one
RANDOM_TRIES = 300  # attempts after that, with points drawn at random
# Distributions that stay within their min and max; quantised ones may leave them, because the engine rounds.
WITHIN_LIMITS = ("param_uniform", "param_int_uniform", "param_loguniform_v2", "param_inv_loguniform_v2")
AS_ENGINE = {"stopped": "finished", "diverged": "finished"}  # other states have the same name in the engine
Seen = list[tuple[dict[str, Any], str, float | None]]  # flags, state and value of each trial, by index


def refusal(content: dict[str, Any]) -> str | None:
    """Why W&B's engine can't search this sweep, in words; None if it can."""
    for name, values in content["parameters"].items():
        if isinstance(values, dict) and "probabilities" in values:
            return f"parameter {name}: probabilities: W&B's engine can't learn from such a parameter"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine is written for an older pydantic, and says so
        from sweeps.params import HyperParameter

        from sweeps import schema_violations_from_proposed_config

        try:
            for name, given in content["parameters"].items():
                HyperParameter(name, given)  # its error names the parameter; that of the schema does not
            config = {k: content[k] for k in ("method", "metric", "parameters", "run_cap")}
            wrong = schema_violations_from_proposed_config(config)
            if not wrong:  # even if the schema accepts it, the engine may not be able to learn from it
                first, second = propose(content, 0, 0, []), propose(content, 1, 0, [])
                propose(content, 2, 0, [(first, "finished", 0.0), (second, "failed", 1.0)])
        except Exception as error:  # of many types, depending on what the user wrote into the YAML
            wrong = [f"{type(error).__name__}: {error}"]
    return f"refused by W&B's engine: {' '.join(wrong[0].split())}" if wrong else None


def probes(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Points that the script must accept: each searched flag at each of its values, or at both ends of its
    range and in between.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sweeps.params import HyperParameter

        fixed, tried = {}, []
        for name, given in parameters.items():
            if "value" in given or len(given.get("values", ())) == 1:
                fixed[name] = given["value"] if "value" in given else given["values"][0]
            elif "values" in given:
                tried += [(name, value) for value in given["values"]]
            else:
                parameter = HyperParameter(name, given)
                if parameter.type in WITHIN_LIMITS:
                    least, most = given["min"], given["max"]
                else:
                    margin = 1e-9 if parameter.type.startswith("param_q") else 1e-3
                    least, most = parameter.ppf(margin), parameter.ppf(1 - margin)
                tried += [(name, plain(value)) for value in (least, most, parameter.ppf(0.382))]
    return [fixed | {name: value} for name, value in tried]


def propose(spec: dict[str, Any], index: int, attempt: int, seen: Seen) -> dict[str, Any]:
    """The flags that are proposed for trial `index`, at this attempt to find a new point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sweeps import RunState, SweepRun, next_run

        metric = spec["metric"]["name"]
        values = [value for _, state, value in seen if state in ENDED and value is not None]
        worst = (min if spec["metric"].get("goal") == "maximize" else max)(values, default=None)
        runs = []
        for flags, state, value in seen:
            if state in ENDED and value is None:
                value = worst
            if state in ENDED and value is None:
                continue  # the engine would assume 0.0, which may be better than any real value
            runs.append(
                SweepRun(
                    config={name: {"value": v} for name, v in flags.items()},
                    state=RunState(AS_ENGINE.get(state, state)),
                    summary_metrics={} if value is None else {metric: value},
                )
            )
        config = {name: spec[name] for name in ("method", "metric", "parameters")}
        if attempt >= ENGINE_TRIES:
            config["method"], runs = "random", []
        seed_engine(spec["parameters"], index, attempt)
        point = next_run(config, runs)
    return {name: plain(entry["value"]) for name, entry in point.config.items()}


def look(queue: Queue, histories: Histories, spec: dict[str, Any]) -> list[tuple[Trial, str, float | None]]:
    """The trials made so far with their states and values, as a proposal uses them."""
    found = []
    while_running = spec["metric"].get("impute_while_running") not in (None, "false", False)
    for trial in queue.chosen():
        status = queue.status(trial)
        state = {"open": "pending", "preempted": "running"}.get(status["status"], status["status"])
        counts = state in ENDED or (state == "running" and while_running)
        found.append((trial, state, histories.value(trial, status) if counts else None))
    return found


def recompute(queue: Queue, spec: dict[str, Any], trial: Trial) -> dict[str, Any]:
    """The point of `trial`, proposed once more from what was seen then, according to its file."""
    kept = read_json(queue.trial_file(trial)) or {}
    flags = {other.key: other.flags for other in queue.trials()}
    seen = [(flags[key], state, value) for key, state, value in kept["seen"]]
    return propose(spec, trial.index, kept["attempt"], seen)
