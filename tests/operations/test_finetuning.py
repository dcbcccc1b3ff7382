"""Finetuning the shipped bundle for two steps: all weights of one part, an adapter of another; what is refused."""

import dataclasses
import errno
import os
import pathlib

import numpy as np
import pytest

from melody_jax.bundle import part
from melody_jax.bundle.bundle import Bundle
from melody_jax.bundle.part import flatten, load_part
from melody_jax.errors import UserError
from melody_jax.operations import opening
from melody_jax.operations.finetuning import Finetuning, _copy, finetune
from melody_jax.train.arrays import ArrayBatches
from melody_jax.train.stage import Data

BUNDLE = "bundles/tiny"


@pytest.fixture
def on_arrays(monkeypatch):
    """Random tokens and latents in place of a data set."""

    def opened(stage, run, data_dir, tokenizer=None, make_tokens=True):
        rng = np.random.default_rng(0)
        arrays = {
            name: rng.normal(size=shape.shape).astype(np.float32)
            if np.issubdtype(shape.dtype, np.floating)
            else rng.integers(0, 8, shape.shape).astype(np.int32)
            for name, shape in stage.batch_shapes().items()
        }
        stage, mesh = opening.with_parents(stage, run.model_dir), opening.make_mesh(run.mesh)
        made = opening.Opened(stage, run, mesh, {pathlib.Path(run.model_dir): 1})
        data = Data(ArrayBatches(arrays, stage.batch_size), ArrayBatches(arrays, stage.batch_size, shuffle=False))
        monkeypatch.setattr(opening.Opened, "data", lambda _: data)
        return made

    monkeypatch.setattr(opening, "open_run", opened)


def asked(out, *stages, rank=0):
    small = ("TOTAL_STEPS = 2", "BATCH_SIZE = 8", "loop.Run.eval_steps = 1")
    return Finetuning(BUNDLE, "mine", str(out), stages=stages, rank=rank, bindings=small)


@pytest.mark.slow
def test_all_weights_of_the_diffusion_model(on_arrays, tmp_path):
    """They move, what the part measured stays as the network knows it, and the bundle says where it comes from."""
    made = finetune(asked(tmp_path, "dpd"))
    begun = Bundle.load(BUNDLE)
    before, after = (flatten(bundle.parts["dpd"].params) for bundle in (begun, made))
    for name, value in before.items():
        same = np.array_equal(after[name], value)
        assert same if name.startswith("linear/") else not same, name
    assert made.ids["lm"] == begun.ids["lm"] and made.ids["dpd"] != begun.ids["dpd"]
    assert made.parts["dpd"].training["init_from"][0]["id"] == begun.ids["dpd"] and made.sampling == begun.sampling
    assert finetune(asked(tmp_path, "dpd")).ids == made.ids  # finished before
    with pytest.raises(UserError, match="another finetuning"):
        finetune(asked(tmp_path, "dpd", rank=4))


def test_an_adapter_of_the_language_model(on_arrays, tmp_path):
    """The bundle has it merged; loaded beside the old bundle it gives the same weights."""
    made = finetune(asked(tmp_path, "lm", rank=4))
    adapter = load_part(tmp_path / "lm")
    assert adapter.name == "adapter" and adapter.parameters < 0.1 * made.parts["lm"].parameters
    again = Bundle.load(BUNDLE, adapters={str(tmp_path): 1.0})
    assert again.ids == made.ids != Bundle.load(BUNDLE).ids
    for name, value in flatten(made.parts["lm"].params).items():
        np.testing.assert_allclose(flatten(again.parts["lm"].params)[name], value, atol=2e-3, err_msg=name)  # float16


def test_a_part_that_a_full_disk_cut_is_copied_again(tmp_path, monkeypatch):
    bundle = Bundle.load(BUNDLE)

    def cut(tensors, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(part, "save_file", cut)
        with pytest.raises(OSError, match="No space"):
            _copy(bundle, "codes", tmp_path)
    assert not list(tmp_path.iterdir())
    _copy(bundle, "codes", tmp_path)
    copied, given = load_part(tmp_path / "codes"), bundle.parts["codes"]
    assert (copied.id, copied.config, copied.parents) == (given.id, given.config, given.parents)
    for name, value in flatten(given.params).items():
        np.testing.assert_array_equal(flatten(copied.params)[name], value, strict=True)


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match="can be finetuned, not mulan"):
        finetune(asked(tmp_path, "mulan"))
    with pytest.raises(UserError, match="is not a bundle"):
        finetune(dataclasses.replace(asked(tmp_path, "lm"), bundle=str(tmp_path)))
    with pytest.raises(UserError, match="did you mean"):
        finetune(dataclasses.replace(asked(tmp_path, "lm"), bindings=("lm.LMConfig.widht = 3",)))
