"""What a run is: its key, and which code made it (a hash of the sources behind its numbers, commit, diff)."""

import ast
import functools
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from research.common.checkpoints import resolve
from research.common.flags import changed_flags
from research.common.folder import SNAPSHOT

ROOT = Path(__file__).resolve().parents[2]


def run_key(family: str, key_version: int, cfg: Any, data_hash: str) -> str:
    """A run's identity, 12 hex digits: family, key version, changed result flags, content of the data set."""
    flags = changed_flags(cfg)
    if cfg.checkpoint is not None:
        # the key depends on the weights, not on their place: the file's name has their digest
        flags["checkpoint"] = resolve(cfg.checkpoint, cfg.weights, Path(cfg.data_dir) / "artifacts").name
    parts = [family, key_version, flags, data_hash]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def source_files(family: str) -> list[Path]:
    """The files behind a family's numbers: its script and all of research/ and data/ that it imports.

    Imports inside functions count, too. The tasks do not: they are found by name and train nothing. For a
    script outside this repository: the files that start its runs.
    """
    begin_with = [ROOT / "research" / f"{family}.py", ROOT / "research" / "common" / "start.py"]
    files, left = set(), [path for path in begin_with if path.exists()]
    while left:
        path = left.pop()
        if path in files:
            continue
        files.add(path)
        for line in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(line, ast.ImportFrom) and (line.module or "").split(".")[0] in ("research", "data"):
                names = [line.module, *(f"{line.module}.{alias.name}" for alias in line.names)]
                at = [ROOT / name.replace(".", "/") for name in names]
                found = [*(p.with_suffix(".py") for p in at), *(p / "__init__.py" for p in at)]
                left += [p for p in found if p.exists()]
    return sorted(files)


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
        answer = subprocess.run(
            command, capture_output=True, timeout=30, encoding="utf-8", errors="surrogateescape"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


@functools.lru_cache
def git_state() -> dict[str, Any]:
    """{"commit": full hash or None, "diff": the uncommitted change}; for a snapshot, those of its
    original.
    """
    snapshot = ROOT / SNAPSHOT
    if snapshot.exists():
        return json.loads(snapshot.read_text(encoding="utf-8"))
    commit = _git("rev-parse", "HEAD").strip()
    return {"commit": commit or None, "diff": _git("diff", "HEAD", "--", ".") if commit else ""}
