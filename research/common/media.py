"""What a script may pass to `run.log` besides numbers: pictures, videos and HTML, made in the background."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.common.folder import write_bytes
from research.draw import pictures


@dataclass(frozen=True)
class File:
    """A file to be logged: its suffix and a function that writes it. It must not touch the device."""

    suffix: str
    write: Callable[[Path], None]


def picture(make: Callable[..., Any], *args: Any, **kwargs: Any) -> File:
    """A PNG of `make(*args, **kwargs)`, a function that returns uint8 (H, W, 3)."""
    return File(".png", lambda path: pictures.write_png(path, make(*args, **kwargs)))


def video(frames: Sequence[Any], fps: int, **kwargs: Any) -> File:
    """An MP4 of `frames`, uint8 (T, H, W, 3)."""
    return File(".mp4", lambda path: pictures.write_mp4(path, frames, fps, **kwargs))


def html(text: str) -> File:
    """A page of HTML."""
    return File(".html", lambda path: write_bytes(path, text.encode()))
