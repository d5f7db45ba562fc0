"""Execute notebooks and write the .ipynb beside each .py, with outputs that change only where results do.

    python notebooks/execute.py                  # all of them, from the runs in runs/
    python notebooks/execute.py lyrics           # one
    NOTEBOOK_RUNS=other/runs python notebooks/execute.py lyrics

The .py is what is edited; jupytext reads its cells. What differs from one execution to the next without a
reason in the results is left out: times, random cell ids, the Python that ran. The folder of the repository
is cut from paths. A notebook whose runs are missing is not written; one line says how to make them.
"""

import argparse
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path != Path(__file__).resolve())
CELL_TIMEOUT_S = 1800
ONE_LINE = ("Missing", "UserError", "DataError")  # errors whose message says all that a user needs


def load(path: Path) -> nbformat.NotebookNode:
    """The notebook of a .py in percent format, not executed, with cell ids that tell their place."""
    notebook = jupytext.read(path)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        cell.metadata = nbformat.NotebookNode()
    jupytext_of = {"formats": "ipynb,py:percent"}
    notebook.metadata = nbformat.from_dict(
        {"jupytext": jupytext_of, "kernelspec": notebook.metadata["kernelspec"]}
        | {"language_info": {"name": "python"}}
    )
    return notebook


def client_of(notebook: nbformat.NotebookNode) -> NotebookClient:
    """What executes a notebook, in this folder, with this Python, whatever kernels are installed."""
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.create_kernel_manager()
    client.km.transport_encryption = "auto"  # else kernels warn that others on this machine could listen
    client.km.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    return client


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same with this machine's folders cut from what the cells printed; changed in place."""
    for cell in notebook.cells:
        cell.metadata = nbformat.NotebookNode()
        for output in cell.get("outputs", []):
            texts = output.get("data", {})
            for kind in [kind for kind in texts if kind.startswith("text/")]:
                texts[kind] = without_place(texts[kind])
            if "text" in output:
                output["text"] = without_place(output["text"])
    notebook.metadata["language_info"] = nbformat.from_dict({"name": "python"})
    return notebook


def without_place(text: str) -> str:
    """A text in which the repository's folder is not told."""
    return text.replace(f"{ROOT}/", "").replace(str(ROOT), ".")


def why(error: CellExecutionError | CellTimeoutError | DeadKernelError) -> str:
    """What to say of a notebook that stopped: of missing runs or data one line, else all that Python says."""
    if isinstance(error, CellTimeoutError):
        return f" a cell took more than {CELL_TIMEOUT_S / 60:.0f} minutes"
    if isinstance(error, DeadKernelError):
        return " its kernel died, perhaps for want of memory"
    return f" {error.evalue}" if error.ename in ONE_LINE else f"\n{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(NAMES)}")
    given = parser.parse_args().names or NAMES
    if wrong := [name for name in given if name not in NAMES]:
        parser.error(f"{wrong[0]}: no notebook here; there are {', '.join(NAMES)}")
    failed = 0
    for name in given:
        notebook = load(FOLDER / f"{name}.py")
        try:
            client_of(notebook).execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"notebooks/{name}.py:{why(error)}", file=sys.stderr)
            failed += 1
            continue
        nbformat.write(tidy(notebook), FOLDER / f"{name}.ipynb")
        size = (FOLDER / f"{name}.ipynb").stat().st_size
        print(f"notebooks/{name}.ipynb: {size / 1e6:.2f} MB")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
