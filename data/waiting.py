"""Prints a line when something takes long: reading, decoding and rendering data."""

import functools
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable)
AFTER_S = 1.0
quiet = False  # set by --quiet


def announced(what: str) -> Callable[[F], F]:
    """A decorator: if a call takes more than a second, it prints a line then, and another at its end. {} in
    `what` is the call's first argument.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args, **kwargs):
            text = what.format(next(iter([*args, *kwargs.values()]), ""))
            timer = threading.Timer(AFTER_S, say, [f"{text} …"])
            timer.daemon = True
            began = time.perf_counter()
            timer.start()
            try:
                result = function(*args, **kwargs)
            finally:
                timer.cancel()
            if (took := time.perf_counter() - began) > AFTER_S:
                say(f"{text}: {took:.0f} s")
            return result

        return call

    return decorate


def say(text: str) -> None:
    if not quiet:
        print(text, file=sys.stderr, flush=True)
