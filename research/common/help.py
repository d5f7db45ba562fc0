"""The page that --help prints: a command's flags under headings, instead of one list of sixty."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from dataclasses import field, make_dataclass
from typing import Annotated, Any

from research.common.flags import RunFlags, result_names

# (heading, what its flags are for), in this order; after MODEL come the headings of inherited classes
TRAINING = ("training", "how the model is trained; these flags and the model options make up the run's key")
MODEL = ("model", "what is studied: data, model and objective")
TASK = ("task", "what to do, and the flags of tasks other than train")
RUN = ("run", "folders, intervals, the machine, W&B; the run's numbers do not depend on these flags")
COMMAND = ("command", "")


def field_docs(config_class: type) -> dict[str, str]:
    """The text under each field of a dataclass and of those it inherits from, by the field's name."""
    docs = {}
    for cls in reversed(config_class.__mro__):
        if dataclasses.is_dataclass(cls):
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body  # the class, with its decorator
            for line, below in zip(tree.body, tree.body[1:]):
                is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                if isinstance(line, ast.AnnAssign) and is_text:
                    docs[line.target.id] = inspect.cleandoc(below.value.value)
    return docs


def headings(config_class: type) -> dict[tuple[str, str], list[str]]:
    """Names of flags under their headings.

    A class that others inherit from can have a `HEADING`. The flags of RunFlags come under two headings, one
    for those that a run's numbers depend on and one for the others; so do the flags that a script adds.
    """
    counts = set(result_names(config_class))
    common = {f.name for f in dataclasses.fields(RunFlags)}
    is_script = issubclass(config_class, RunFlags)
    mixins = [cls for cls in config_class.__mro__[1:] if "HEADING" in vars(cls)]
    inherited = [cls.HEADING for cls in mixins]
    order = [TRAINING, MODEL, *inherited, TASK, RUN] if is_script else [*inherited, COMMAND]
    groups: dict[tuple[str, str], list[str]] = {heading: [] for heading in order}
    for f in dataclasses.fields(config_class):
        owner = next((cls for cls in mixins if f.name in vars(cls)["__annotations__"]), None)
        if owner is not None:
            groups[owner.HEADING].append(f.name)
        elif not is_script:
            groups[COMMAND].append(f.name)
        elif f.name == "task":
            groups[TASK].append(f.name)
        elif f.name == "dataset":  # a run's numbers depend on its content, not on its name
            groups[MODEL].append(f.name)
        elif f.name in common:
            groups[TRAINING if f.name in counts else RUN].append(f.name)
        else:
            groups[MODEL if f.name in counts else TASK].append(f.name)
    return {heading: names for heading, names in groups.items() if names}


def grouped(config_class: type) -> type:
    """A class with the flags of `config_class`, and their help, in one nested class for each heading.

    tyro draws a box around each. A class whose flags have one heading only stays as it is.
    """
    if len(headings(config_class)) < 2:
        return config_class
    hints, docs = typing.get_type_hints(config_class, include_extras=True), field_docs(config_class)
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    import tyro

    def flag(name: str) -> tuple[str, Any, Any]:
        described = Annotated[hints[name], tyro.conf.arg(help=docs.get(name, ""))]
        default = fields[name].default
        return name, described, field() if default is dataclasses.MISSING else field(default=default)

    parts = []
    for (title, about), names in headings(config_class).items():
        part = make_dataclass(title, [flag(name) for name in names], kw_only=True)
        part.__doc__ = about
        parts.append((title, part))
    page = make_dataclass(config_class.__name__, parts, kw_only=True)
    page.__doc__ = config_class.__doc__
    return page
