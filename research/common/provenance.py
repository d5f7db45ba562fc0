"""Which code made a run: a hash of the source files behind its numbers, the git commit and the diff."""

import ast
import functools
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOT = (
    "snapshot.json"  # beside a copy of the code made for a sweep: commit, diff and time of the original
)


def source_files(family: str) -> list[Path]:
    """The files behind a family's numbers: its script and what of research/ that imports at its top, all of
    research/common and data.
    """
    research = ROOT / "research"
    files, found = set(), set(research.glob(f"{family}.py"))  # a script from elsewhere: none
    while found:
        path = found.pop()
        files.add(path)
        names = set()  # of modules; what a function imports is for a task, which trains nothing
        for line in ast.parse(path.read_text()).body:
            if isinstance(line, ast.ImportFrom) and (line.module or "").split(".")[0] == "research":
                names |= {line.module, *(f"{line.module}.{alias.name}" for alias in line.names)}
        found |= {p for n in names if (p := ROOT / f"{n.replace('.', '/')}.py").exists()} - files
    files |= {p for p in (research / "common").glob("*.py") if p.name != "task.py"}
    return sorted({*files, *(ROOT / "data").glob("*.py")})


@functools.lru_cache
def source_hash(family: str) -> str:
    """16 hex digits over the names and contents of `source_files`."""
    digest = hashlib.sha256()
    for path in source_files(family):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _git(*args: str) -> str:
    try:
        command = ["git", "-C", str(ROOT), *args]
        told = subprocess.run(command, capture_output=True, timeout=30, encoding="utf-8",
                              errors="surrogateescape")  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout if told.returncode == 0 else ""


@functools.lru_cache
def git_state() -> dict[str, Any]:
    """{"commit": full hash or None, "diff": the uncommitted change}; a snapshot tells its original's."""
    snapshot = ROOT / SNAPSHOT
    if snapshot.exists():
        return json.loads(snapshot.read_text())
    commit = _git("rev-parse", "HEAD").strip()
    return {"commit": commit or None, "diff": _git("diff", "HEAD", "--", ".") if commit else ""}
