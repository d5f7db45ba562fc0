"""The start and end of the W&B client: online if possible, else offline. Its end is bounded in time."""

import atexit
import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from data.terminal import readable
from research.common.messages import console, escape

# Variables of W&B's environment that concern one run; they are never meant for every run of a sweep.
PER_RUN = [
    f"WANDB_{name}"
    for name in ("RUN_ID", "SWEEP_ID", "SWEEP_PARAM_PATH", "RESUME", "NAME", "TAGS", "NOTES", "JOB_TYPE")
]
FINISH_S = "120"  # how long W&B may take at the end to send the rest; WANDB_FINISH_TIMEOUT overrides it


def under_agent() -> bool:
    """Whether a W&B agent started this process; id, project and entity are then those of the sweep."""
    return "WANDB_SWEEP_ID" in os.environ


def connect(cfg: Any, init: Callable[[Any, str], Any]) -> Any:
    """The W&B run that `init(wandb, mode)` starts, offline when W&B can't be reached; None when disabled.

    `init` only calls wandb.init. The mode is that of --wandb, else of WANDB_MODE, else online when logged in,
    else offline.
    """
    mode = cfg.wandb or os.environ.get("WANDB_MODE", "").replace("dryrun", "offline") or None
    if mode == "disabled":
        return None
    os.environ.setdefault("WANDB__SERVICE_WAIT", "300")  # starting on a slow shared file system
    sys.argv[1:] = map(readable, sys.argv[1:])  # the client keeps them, and takes UTF-8 only
    # the client writes a log in the locale's encoding, which may lack a character
    logging.raiseExceptions = False
    import wandb

    said = os.environ.pop("WANDB_MODE", None)  # otherwise the client would let this variable override --wandb
    try:
        if mode != "offline":
            logged_in = wandb.login(prompt=False)  # reports within seconds that the server is not there
            if not logged_in and mode == "online":
                raise RuntimeError("not logged in: wandb login")
            if logged_in:
                run = init(wandb, "online")
                _bound_exit()
                return run
    except Exception as error:  # of many kinds, when a server is down or slow, or refuses
        console.print(
            f"[yellow]W&B does not take this run now[/] ({first_line(error)}): it is kept offline; "
            "python launch/upload.py brings it to W&B later"
        )
        with _bounded(20), contextlib.suppress(Exception):
            wandb.teardown()  # otherwise the client keeps the run's id for the failed attempt
    finally:
        if said is not None:
            os.environ["WANDB_MODE"] = said
    run = init(wandb, "offline")
    _bound_exit()
    return run


def texts(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with texts that the client accepts: a flag may hold a file name that is not valid text."""
    return {k: readable(v) if isinstance(v, str) else v for k, v in values.items()}


def settings(mode: str, **more: Any) -> Any:
    """The client's settings: little output, and an end even when the server does not answer."""
    import wandb

    timeout = float(os.environ.get("WANDB_FINISH_TIMEOUT", FINISH_S))
    limits = {"finish_timeout": timeout, "finish_timeout_raises": True}
    return wandb.Settings(quiet=True, silent=mode == "offline", **limits, **more)


def _core() -> subprocess.Popen | None:
    """The client's service process, if this process has one. This is private to the client, so wandb is
    pinned.
    """
    from wandb.sdk import wandb_setup

    with contextlib.suppress(AttributeError):
        return wandb_setup._singleton._connection._proc._process
    return None


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """The client waits for its service process without a limit, which can hang when a server is silent."""
    timer = threading.Timer(seconds, core.kill) if (core := _core()) else None
    if timer:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer:
            timer.cancel()


def _bound_exit() -> None:
    """Limit how long the client waits for its service process at the end of this process."""

    def begin(core: subprocess.Popen) -> None:  # called before the client's own handler, which waits
        timer = threading.Timer(float(os.environ.get("WANDB_FINISH_TIMEOUT", FINISH_S)) + 30, core.kill)
        timer.daemon = True
        timer.start()

    if core := _core():
        atexit.register(begin, core)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, escaped for rich."""
    return escape((str(error) or repr(error)).split("\n")[0][:200])
