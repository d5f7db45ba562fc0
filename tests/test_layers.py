"""Who may import whom. Every import counts, even one inside a function or only for type checkers."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# what stands further down may import what stands above it and its own layer; a command only the former
LAYERS = [
    ["data"],
    ["research.draw", "research.measure"],
    ["research.common"],
    ["research.parts"],
    ["research"],  # commands: one script per family, and the study of a text
    ["research.tasks"],
]
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for folder in ("data", "research", "launch")
    for path in (ROOT / folder).rglob("*.py")
    if "store" not in path.parts
}
COMMANDS = {
    name
    for name, path in MODULES.items()
    if path.parent in (ROOT / "research", ROOT / "launch") and path.stem != "__init__"
}


def imports(name: str) -> Iterator[str]:
    """The modules of ours that a module imports anywhere in its code."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [module for module in inner if module in MODULES]
            yield from found or ([node.module] if node.module in MODULES else [])


@functools.cache
def graph() -> dict[str, set[str]]:
    """The modules of ours that each imports. Not made on import: every worker of pytest imports this file."""
    return {name: set(imports(name)) - {name} for name in MODULES}


def layer_of(name: str) -> str:
    return name.rpartition(".")[0] or name


def allowed(name: str) -> set[str]:
    """The layers that a module may import from."""
    layer = layer_of(name)
    if layer == "launch":
        return {"data", "research.common", "launch.sweep", "launch.results"}
    if layer == "launch.sweep":
        return {"data", "research.common", "launch.sweep", "launch.results"}
    if layer == "launch.results":
        return {"research.common", "launch.results"}
    at = next(i for i, row in enumerate(LAYERS) if layer in row)
    below = {layer for row in LAYERS[:at] for layer in row}
    return below if name in COMMANDS else below | {layer}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_arrows(name: str) -> None:
    """data ← draw, measure ← common ← parts ← <family>.py ← tasks; commands never import one another."""
    wrong = {target for target in graph()[name] if layer_of(target) not in allowed(name)}
    assert not wrong, f"{name} may import from {sorted(allowed(name))}, not {sorted(wrong)}"


def circles() -> list[list[str]]:
    """Every set of modules that reach one another (strongly connected components of more than one)."""

    def reached(name: str) -> set[str]:
        found, left = set(), [name]
        while left:
            for target in graph()[left.pop()] - found:
                found.add(target)
                left.append(target)
        return found

    reach = {name: reached(name) for name in graph()}
    knots = {frozenset(b for b in reach[a] if a in reach[b]) for a in graph() if a in reach[a]}
    return [sorted(knot) for knot in knots]


def test_no_circle() -> None:
    assert circles() == []


if __name__ == "__main__":
    n_imports = sum(map(len, graph().values()))
    print(f"{len(MODULES)} modules, {n_imports} imports, circles: {circles() or 'none'}")
