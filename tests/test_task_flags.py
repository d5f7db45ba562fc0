"""A task has the flags of the model from the run that made its checkpoint; the rest are its own."""

import dataclasses
import importlib

import pytest

from research.common.flags import RunFlags, result_names
from research.common.messages import UserError
from research.common.task import flags_of_run

# every flag of a family that a task takes from the run, at another value than its default
OF_THE_MODEL = {
    "bvae_faces": {
        "width": 8,
        "depth": 2,
        "latent_dim": 5,
        "hidden_dim": 16,
        "image_size": 32,
        "arch": "broadcast",
        "patch": 8,
        "beta": 2.0,
    },
    "charlm": {
        "model": "tcn",
        "n_layers": 2,
        "n_heads": 2,
        "embed_dim": 32,
        "hidden_dim": 64,
        "parameters": 5000,
        "kernel_size": 2,
        "norm": "none",
        "pos": "learned",
        "seq_len": 16,
        "cut": "lines",
        "normalize": "NFC",
        "min_count": 2,
        "scripts": "latin",
        "lower": True,
    },
    "gan_faces": {
        "width": 8,
        "depth": 2,
        "latent_dim": 5,
        "image_size": 32,
        "arch": "dcgan",
        "spectral_norm": True,
    },
    "seq2seq_arith": {
        "mode": "image_to_text",
        "digits": 1,
        "ops": "+",
        "train_fraction": 0.25,
        "model": "lstm",
        "encoder_layers": 2,
        "decoder_layers": 3,
        "hidden_dim": 32,
        "n_heads": 2,
        "attention": True,
        "bidirectional": True,
        "columns": True,
        "reverse": True,
    },
    "text_vae": {
        "level": "word",
        "unit": "sentences",
        "clean": False,
        "lower": True,
        "min_count": 3,
        "vocab_size": 300,
        "min_length": 3,
        "max_length": 9,
        "latent_dim": 5,
        "embed_dim": 8,
        "encoder_dim": 12,
        "hidden_dim": 16,
        "parameters": 5000,
        "batch_norm": 0.5,
    },
    "vae_mnist": {
        "arch": "conv",
        "width": 32,
        "depth": 2,
        "latent_dim": 3,
        "beta": 2.0,
        "binarize": "dynamic",
    },
}
OF_TRAINING = {  # they count for the run's numbers, but say nothing of the model that came of it
    "bvae_faces": {"objective", "beta_start", "beta_steps", "capacity", "capacity_steps", "tc_sampling"}
    | {"optimizer"},
    "charlm": {"dropout", "optimizer", "weight_decay", "clip"},
    "gan_faces": {"loss", "r1", "r2", "gp", "penalty_every", "ema", "augment", "beta1", "beta2", "d_rate"},
    "seq2seq_arith": {"vary", "teacher_forcing", "weight_decay", "dropout", "clip"},
    "text_vae": {"beta", "anneal", "anneal_share", "cycles", "free_bits", "free_bits_per_latent"}
    | {"word_dropout", "pretrain", "dropout", "clip"},
    "vae_mnist": {"input_dropout"},
}
OF_THE_TASK = {"vae_mnist": {"iw_samples": 7}}  # they count for numbers, and a task has its own
TASK = {
    "bvae_faces": {"task": "rotate", "index": 3},
    "charlm": {"task": "generate", "start": "To be", "top_k": 3},
    "gan_faces": {"task": "interpolate"},
    "seq2seq_arith": {"task": "ask", "query": "1+2"},
    "text_vae": {"task": "generate", "start": "What", "samples": 3},
    "vae_mnist": {"task": "interpolate", "index": 3},
}
COMMON = {field.name for field in dataclasses.fields(RunFlags)}
FAMILIES = sorted(OF_THE_MODEL)


def config_class(family: str) -> type:
    return importlib.import_module(f"research.{family}").Config


def run_of(family: str, **flags) -> dict:
    """The config.json of a run with these flags."""
    return {"flags": dataclasses.asdict(config_class(family)(**OF_THE_MODEL[family] | flags))}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_result_flag_has_its_place_here(family):
    """A new flag of a family belongs to its model, to training or to the task: somebody has
    to say to which.
    """
    own = set(result_names(config_class(family))) - COMMON
    assert own == {*OF_THE_MODEL[family], *OF_TRAINING[family], *OF_THE_TASK.get(family, ())}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_task_has_the_flags_of_the_model_from_the_run(family):
    own = TASK[family] | OF_THE_TASK.get(family, {}) | {"seed": 5, "batch_size": 3, "device": "cpu"}
    cfg = config_class(family)(checkpoint="runs/some", **own)
    merged = flags_of_run(cfg, run_of(family, seed=1, batch_size=99, name="trained"))
    for name, value in OF_THE_MODEL[family].items():
        if (family, name) != ("seq2seq_arith", "model"):  # whose other model has no attention flag
            assert getattr(cfg, name) != value, f"--{name}={value} is the default: the test would see nothing"
        assert getattr(merged, name) == value
    for name, value in own.items():
        assert getattr(merged, name) == value
    assert merged.checkpoint == "runs/some" and merged.name is None


def test_the_other_model_of_arithmetic_comes_from_the_run():
    cfg = config_class("seq2seq_arith")(checkpoint="runs/some", **TASK["seq2seq_arith"])
    other = {"model": "transformer", "attention": False, "bidirectional": False}
    assert flags_of_run(cfg, run_of("seq2seq_arith", **other)).model == "transformer"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_data_come_from_the_run_unless_they_are_given(family):
    run_config = run_of(family, dataset="runs/data", data_dir="runs/store")
    cfg = config_class(family)(checkpoint="runs/some", **TASK[family])
    merged = flags_of_run(cfg, run_config)
    assert (merged.dataset, merged.data_dir) == ("runs/data", "runs/store")
    given = dataclasses.replace(cfg, dataset="mine", data_dir="here")
    merged = flags_of_run(given, run_config)
    assert (merged.dataset, merged.data_dir) == ("mine", "here")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_that_is_older_than_a_flag_has_its_default(family, capsys):
    """A line says so; as for a run's key, some flags at their defaults do not count."""
    cfg = config_class(family)(checkpoint="runs/some", **TASK[family])
    for name in (*OF_THE_MODEL[family], *OF_TRAINING[family]):
        run_config = run_of(family)
        del run_config["flags"][name]
        assert getattr(flags_of_run(cfg, run_config), name) == getattr(config_class(family), name)
        assert f"this run is older than the flag --{name}: the default" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--checkpoint=runs/some: must be of a run whose config\.json lists"):
        flags_of_run(cfg, {})
