"""Writes files so that they exist as a whole or not at all; says in words why one can't be
read or written.
"""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def becoming(path: Path, suffix: str = ".tmp") -> Iterator[Path]:
    """A `with` block that gets a new name beside `path`. The file that it writes under this name is synced
    and becomes `path`.

    If the block fails, nothing is left. Two processes may do this at once; the last one wins. suffix: the end
    of the name, by which some writers choose the format.
    """
    # not mkstemp, because other users of the folder could not read its files
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
    """Write a file by calling `write` on it, so that it exists as a whole or not at all; returns the result
    of `write`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with becoming(path) as temporary, open(temporary, "xb") as file:
        return write(file)


def reason(error: BaseException) -> str:
    """An error as one short line, without the path that the operating system adds."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return text.splitlines()[0][:120]
