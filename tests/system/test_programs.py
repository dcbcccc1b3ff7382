"""Compiled arrows that a folder keeps: found again without tracing, and never where anything about them is another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax import storage
from melody_jax.system import programs
from melody_jax.system.programs import Programs

ONE = jax.devices()[:1]


class Arrow:
    """A jitted function of arrays and a fixed value, and how often it was traced."""

    def __init__(self):
        self.traced = 0
        self.program = jax.jit(self._scaled, static_argnames="by")

    def _scaled(self, weights, x, *, by):
        self.traced += 1
        return weights["w"] * x * by

    def run(self, kept, x=(1.0, 2.0), dtype="float32", by=3.0, name="scaled"):
        arguments = {"w": jnp.ones((), dtype)}, jnp.asarray(x, dtype)
        return np.asarray(kept.executable(name, self.program, arguments, {"by": by})(*arguments))


@pytest.fixture
def folder(tmp_path):
    return storage.path(tmp_path / "kept")


def _kept(folder, made_of="a system"):
    return Programs(folder, made_of, ONE)


def _traced_again(folder, made_of="a system", **how):
    arrow = Arrow()
    arrow.run(_kept(folder, made_of), **how)
    return arrow.traced == 1


def test_a_later_process_runs_it_without_tracing_it(folder):
    first, second = Arrow(), Arrow()
    made = first.run(_kept(folder))
    np.testing.assert_array_equal(made, [3.0, 6.0])
    np.testing.assert_array_equal(second.run(_kept(folder)), made)
    assert (first.traced, second.traced) == (1, 0)


def test_anything_else_is_another_program(folder, monkeypatch):
    assert _traced_again(folder) and not _traced_again(folder)
    others = {"x": (1.0, 2.0, 3.0)}, {"dtype": "bfloat16"}, {"by": 4.0}, {"name": "other"}, {"made_of": "another"}
    assert [_traced_again(folder, **other) for other in others] == [True] * len(others)
    with monkeypatch.context() as changed:
        changed.setattr(programs, "_source", lambda: "an edited package")
        assert _traced_again(folder)
    with monkeypatch.context() as changed:
        changed.setattr(programs, "_processor", lambda: "flags : other instructions")
        assert _traced_again(folder)
    with monkeypatch.context() as changed:
        changed.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
        assert _traced_again(folder)
    with jax.default_matmul_precision("highest"):
        assert _traced_again(folder)
    assert not _traced_again(folder)


def test_an_edited_source_file_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    file = tmp_path / "package" / "__init__.py"
    file.write_text("a = 1\n")
    monkeypatch.setattr(programs.melody_jax, "__file__", str(file))
    before = programs._source.__wrapped__()
    assert programs._source.__wrapped__() == before
    file.write_text("a = 2\n")
    assert programs._source.__wrapped__() != before


def test_a_damaged_file_costs_a_warning(folder, caplog):
    assert _traced_again(folder)
    (file,) = folder.glob("*.xla")
    file.write_bytes(file.read_bytes()[:100])
    assert _traced_again(folder)
    assert "cannot be loaded" in caplog.text
    assert not _traced_again(folder)


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "kept").write_text("a file")
    assert _traced_again(storage.path(tmp_path / "kept"))
    assert "is not kept" in caplog.text
