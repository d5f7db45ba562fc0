"""Networks that judge pictures: trained once on a data set, stored, frozen, identified by their digest."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from research.common.checkpoints import Checkpoints, is_whole, load_file
from research.common.messages import console, escape


def trained_once(
    what: str, source: str, data: Any, data_dir: str | Path, model: Any, train: Callable[[], Any]
) -> tuple[Any, str]:
    """A network that judges pictures, loaded from <data_dir>/readers or made by `train()`; and the digest of
    its weights.

    what: its name in messages; source: the file that defines it, `__file__`; model: a new network, into which
    stored weights are loaded. Stored weights are used only if `source` and data.content_hash are the same as
    when they were made. If they can't be stored, a line says so, and the network is trained anew each time.
    """
    made_of = f"{hashlib.sha256(Path(source).read_bytes()).hexdigest()}/{data.content_hash}"
    place = f"{data.train.shape[1]}_{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    kept = Checkpoints(Path(data_dir) / "readers" / place)
    file = next(kept.folder.glob("best_*.pt"), None)
    if file is not None and is_whole(file):
        model.load_state_dict(load_file(file)["states"][0])
        return model.eval(), digest_in_name(file)

    model = train().eval()
    state = {"states": [model.state_dict()]}
    try:
        if file is not None:  # damaged
            file.unlink()
        kept.folder.parent.mkdir(parents=True, exist_ok=True)
        file = kept.save(state, "best")
        console.print(f"{what} is trained: {escape(str(file))}")
    except OSError as error:  # a data folder that others own
        console.print(f"[yellow]{what} is not kept[/] ({escape(str(error))}): trained anew each time")
        with tempfile.TemporaryDirectory() as elsewhere:  # for the digest in its name
            file = Checkpoints(Path(elsewhere)).save(state, "best")
    return model, digest_in_name(file)


def digest_in_name(file: Path) -> str:
    """The digest of the weights in a file that `Checkpoints` has named."""
    return file.stem.removeprefix("best_")
