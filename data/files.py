"""Files that exist whole or not at all, and the reason why one could not be read or written."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def becoming(path: Path, suffix: str = ".tmp") -> Iterator[Path]:
    """A name beside `path`, not there yet; the file that the block writes to it is synced and becomes `path`.

    Whatever fails, nothing is left of it. Two processes at once do no harm, the last one wins. suffix: of the
    name, for writers that tell the format by it.
    """
    # not mkstemp: its files are closed to others who share the folder
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[IO[bytes]], T]) -> T:
    """Have `write` fill a file that is there whole or not at all; returns what it returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with becoming(path) as temporary, open(temporary, "xb") as file:
        return write(file)


def reason(error: BaseException) -> str:
    """An error as one short line, without the path that the system puts into it."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return text.splitlines()[0][:120]
