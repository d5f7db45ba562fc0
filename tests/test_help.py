"""--help lists every flag of a command once, under a heading, with its docstring from the code."""

import dataclasses
import importlib
import re
from dataclasses import dataclass

import pytest

from research.common.commandline import parse
from research.common.flags import RunFlags, aside
from research.common.help import MODEL, RUN, TASK, TRAINING, field_docs, headings
from research.common.identity import ROOT

COMMANDS = [
    f"{folder}.{path.stem}"
    for folder in ("research", "launch")
    for path in sorted((ROOT / folder).glob("[a-z]*.py"))
]


def flags_of(name: str) -> type:
    module = importlib.import_module(name)
    return module.Config if hasattr(module, "Config") else module.Flags


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_once_with_its_text(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    config_class = flags_of(name)
    names = [f.name for f in dataclasses.fields(config_class)]
    under = headings(config_class)
    assert sorted(name for group in under.values() for name in group) == sorted(names)
    with pytest.raises(SystemExit) as stop:
        parse(config_class, ["--help"])
    page = re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out)
    assert stop.value.code in (None, 0)
    assert sorted(re.findall(r"^ {1,2}--(\w+)", page, re.M)) == sorted(names)
    words = " ".join(page.split())
    docs = field_docs(config_class)
    assert set(docs) == set(names)
    for flag in names:
        assert " ".join(docs[flag].split()) in words, flag
    titles = re.findall(r"^ {1,2}(\w+) options +$", page, re.M)
    assert titles == ([title for title, _ in under] if len(under) > 1 else [])


def test_the_headings_of_a_script():
    @dataclass(frozen=True, kw_only=True)
    class Sampling:
        HEADING = ("sampling", "how the next character is chosen")

        top_k: int = 3
        """how many"""

    @dataclass(frozen=True, kw_only=True)
    class Config(Sampling, RunFlags):
        """A command."""

        steps: int = 7
        """how long here"""
        width: int = 2
        """how wide"""
        index: int = aside(0)
        """which"""

    found = headings(Config)
    assert list(found) == [TRAINING, MODEL, Sampling.HEADING, TASK, RUN]
    assert found[MODEL] == ["dataset", "width"] and found[Sampling.HEADING] == ["top_k"]
    assert found[TASK] == ["task", "index"]
    assert {"steps", "seed", "eval_every"} <= set(found[TRAINING])
    assert {"out", "sample_every", "wandb"} <= set(found[RUN])
    assert field_docs(Config)["steps"] == "how long here"  # of its own, not what it inherits
