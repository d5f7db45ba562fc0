"""What a person reads while a command runs: the console, and the one line that reports a mistake."""

from rich.console import Console
from rich.markup import escape as rich_escape

from data import waiting
from data.terminal import readable as readable

console = Console(stderr=True, highlight=False, soft_wrap=True)  # warnings, errors, requested output
news = Console(stderr=True, highlight=False, soft_wrap=True)  # progress, which --quiet silences


def hush(quiet: bool) -> None:
    """Switch progress messages off, or on again."""
    news.quiet = waiting.quiet = quiet


def escape(text: str) -> str:
    """Text that rich prints as it is."""
    return rich_escape(text)


def counted(n: int, what: str) -> str:
    """A number and its noun: 1 trial, 2 trials."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


class UserError(Exception):  # not a ValueError: tyro would hide the message of one from __post_init__
    """The user's mistake. Its message is one line that names the flag or file and what is allowed."""

    def __str__(self) -> str:
        """On one line whatever the user typed: line breaks and stray bytes are shown as escapes."""
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())
