"""The flags that make a run's key. Adding, renaming or removing one changes what existing runs mean."""

from typing import Any

from research.common.flags import result_flags

# the result flags of RunFlags, which every script has
RUN_RESULT_FLAGS = {"checkpoint", "weights", "seed", "steps", "epochs", "batch_size", "learning_rate"}
RUN_RESULT_FLAGS |= {"eval_every", "precision", "compile", "deterministic"}


def flags_in_key(config_class: Any) -> set[str]:
    """Names of all flags that can enter the key of a run of this script."""
    return set(result_flags(config_class(checkpoint="x"))) | set(result_flags(config_class(epochs=2)))
