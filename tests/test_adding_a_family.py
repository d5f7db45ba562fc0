"""The family that docs/adding_a_family.md shows is a real one: it trains, resumes, and its task runs."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import research
from research.common.folder import METRICS
from research.common.help import headings
from research.common.messages import UserError
from tests.conftest import killed

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adding_a_family.md"


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The page's script and its tasks, imported under the names that it gives them."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    modules = []
    for name, code in zip(("research.linear_vae", "research.tasks.linear_vae"), blocks, strict=True):
        path = tmp_path / f"{name}/linear_vae.py"
        path.parent.mkdir()
        path.write_text(code)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        if name == "research.linear_vae":
            monkeypatch.setattr(research, "linear_vae", module, raising=False)
        spec.loader.exec_module(module)
        modules.append(module)
    return tuple(modules)


@pytest.fixture
def flags(tmp_path: Path) -> dict[str, object]:
    out = str(tmp_path / "runs")
    every = {"log_every": 3, "eval_every": 10, "save_every": 7, "sample_every": 20}
    return {"steps": 40, "out": out, "wandb": "disabled", "threads": 1, "device": "cpu"} | every


def test_it_learns_and_its_task_tells_the_same(family, flags):
    script, tasks = family
    metrics = script.train(script.Config(**flags, name="run", learning_rate=0.01, latent_dim=3))
    assert -300 < metrics["test/elbo_nats"] < -150  # a model that has learned nothing is near -543
    run = Path(flags["out"]) / "run"
    results = tasks.run(script.Config(task="reconstruct", checkpoint=str(run), wandb="disabled", n_shown=4))
    assert float(results["test/elbo_nats"]) == pytest.approx(metrics["test/elbo_nats"])
    assert {path.name for path in (run / "reconstruct").iterdir()} == {"reconstructions.png", "results.json"}


def test_it_resumes_bit_for_bit(family, flags):
    script, _ = family
    script.train(script.Config(**flags, name="straight"))
    with killed("log", 17):
        script.train(script.Config(**flags, name="killed"))
    script.train(script.Config(**flags, name="killed"))
    rows = [(Path(flags["out"]) / name / METRICS).read_bytes() for name in ("straight", "killed")]
    assert rows[0] == rows[1] and rows[0].count(b"\n") == 19


def test_its_flags_are_refused_and_have_their_headings(family):
    script, _ = family
    with pytest.raises(UserError, match=r"--latent_dim=0: must be at least 1"):
        script.Config(latent_dim=0)
    names = {title: names for (title, _), names in headings(script.Config).items()}
    assert names["model"] == ["dataset", "latent_dim", "beta"] and names["task"] == ["task", "n_shown"]
