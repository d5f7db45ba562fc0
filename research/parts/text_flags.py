"""How a text is read: the flags of every command that takes a text, and the text that these flags select."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from data import text
from research.common.flags import of_data, require


@dataclass(frozen=True, kw_only=True)
class TextFlags:
    """How a text is cut and what is changed in it before it is read."""

    HEADING = ("text", "how the text is read")

    cut: Literal["stream", "lines"] = "stream"
    """stream: windows anywhere in the text; lines: one sequence per line"""
    normalize: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = None
    """Unicode form to convert the text to; None: no conversion"""
    min_count: int = 1
    """characters that occur less often than this in the text are left out"""
    scripts: str | None = None
    """scripts whose letters are kept, separated by commas (latin,greek); None: all"""
    lower: bool = False
    """lower-case the text"""
    encoding: str | None = of_data(None)
    """encoding of the file of --dataset (evaluate: of --text), such as cp1251; None: UTF-8, or what its byte
    order mark says"""
    columns: str | None = of_data(None)
    """names of the columns of a CSV of lyrics: artist=Band,song=Titel,lyrics=Text; None: the usual names"""

    def __post_init__(self):
        require(self.min_count >= 1, self, "min_count", "at least 1")


TEXT_FLAGS = tuple(field.name for field in dataclasses.fields(TextFlags))


def load_text(cfg: Any) -> text.TextSplits:
    """The text of --dataset, read as the flags in `cfg` say. DataError: it is missing or unusable."""
    return text.load(cfg.dataset, cfg.data_dir, **{name: getattr(cfg, name) for name in TEXT_FLAGS})
