"""How workers of pytest-xdist share the tests: which of them form a group, and which groups come first.

A group goes to one worker as a whole. xdist's own groups (its mark `xdist_group`) are without effect beside
pytest 9.2, which no longer reads the node ids that xdist 3.8 writes them into; so the scheduler is our own.
"""

from typing import Any

import pytest

# A file is one group, because its tests share what its fixtures made; but here each test is long, needs
# little of that, and may go to any worker:
EACH_ALONE = {"test_wandb_faults.py", "test_wandb_sweeps.py", "test_search_storm.py"}
# each of these tests, too, is a group of its own; its file's others stay with the one that makes their runs
ALONE_TOO = {"test_a_notebook_executes_on_short_runs_and_concludes_from_them"}
WITH_THEIR_FILE = {"test_a_notebook_executes_on_short_runs_and_concludes_from_them[lyrics]"}
# there is one SLURM cluster on a machine
GROUPS = {"test_slurm_sweeps.py": "slurm", "test_slurm_cluster.py": "slurm"}
# The longest groups come first, so that no worker is left with one at the end. Those that mostly wait for a
# cluster, an agent or a server stand between those that compute, so that they overlap.
FIRST = (
    "slurm",
    "test_local.py",
    "test_notebooks.py",
    "test_core_and_agent_killed",
    "test_bvae_faces_tasks.py",
    "test_preempted_agents_hand_the_run_on",
    "test_docs.py",
    "test_stop_of_an_agents_run",
    "test_upload.py",
    "test_local_directs_a_wandb_sweep",
    "test_a_search_that_is_killed_and_continued",
    "test_wandb_faults.py",
    "test_faults.py",
    "test_wandb_sweeps.py",
    "test_run.py",
    "test_search_storm.py",
)


def group_of(nodeid: str) -> str:
    """The group of the test tests/FILE::NAME, or tests/FILE::NAME[PARAMETERS]."""
    path, _, name = nodeid.partition("::")
    file, function = path.rpartition("/")[2], name.partition("[")[0]
    alone = file in EACH_ALONE or (function in ALONE_TOO and name not in WITH_THEIR_FILE)
    return name if alone else GROUPS.get(file, file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test its place; within a file the order stays."""

    def place(item: pytest.Item) -> int:
        keys = (item.name.partition("[")[0], GROUPS.get(item.path.name), item.path.name)
        return min((FIRST.index(key) for key in keys if key in FIRST), default=len(FIRST))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With --dist loadgroup: whole groups, the next one to the worker that has nothing left."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log) if config.getvalue("dist") == "loadgroup" else None
