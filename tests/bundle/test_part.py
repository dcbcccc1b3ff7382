"""Parts: bit-exact round trips, refusal of whatever is damaged or foreign."""

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest

from melody_jax.bundle.part import flatten, load_part, read_info, save_part, seal, unflatten
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.lm.config import LMConfig

PARAMS = {
    "a": {
        "kernel": np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32),
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "brain": np.arange(6).astype(ml_dtypes.bfloat16),
        "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    },
    "scalar": np.float32(0.25),
    "ids": np.arange(4, dtype=np.int32),
}


def save(directory, params=PARAMS, config=None, parents=None, **options):
    return save_part(directory, "lm", params, config or LMConfig(), Geometry(), parents or {}, {"steps": 3}, **options)


def assert_same(found, expected):
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    for key, leaf in expected.items():
        assert found[key].dtype == leaf.dtype and found[key].shape == leaf.shape
        np.testing.assert_array_equal(found[key], leaf)


def test_round_trip_is_bit_exact(tmp_path):
    saved = save(tmp_path / "lm", parents={"codes": "c0de"})
    part = load_part(tmp_path / "lm")
    assert_same(part.params, PARAMS)
    assert (part.name, part.id, part.parents, part.training) == ("lm", saved.id, {"codes": "c0de"}, {"steps": 3})
    assert part.geometry == Geometry() and part.config["layers"] == 24
    assert part.dtype == "mixed" and part.parameters == 1200 + 6 + 6 + 12 + 1 + 4
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["lm", "part.json", "weights.safetensors"]


def test_flatten_round_trip():
    assert unflatten(flatten({"b": {"c": 1, "a": {"x": 2}}, "a": 3})) == {"a": 3, "b": {"a": {"x": 2}, "c": 1}}


def test_id_depends_on_everything_that_makes_the_model(tmp_path):
    other = {**PARAMS, "scalar": np.float32(0.5)}
    ids = [
        save(tmp_path / "0").id,
        save(tmp_path / "1", params=other).id,
        save(tmp_path / "2", config=LMConfig(dropout=0.1)).id,
        save(tmp_path / "3", parents={"codes": "x"}).id,
    ]
    assert len(set(ids)) == 4
    assert save(tmp_path / "4").id == ids[0]


def test_cast_keeps_the_id_and_the_integers(tmp_path):
    original = save(tmp_path / "a")
    for dtype in ("float16", "bfloat16", "float32"):
        part = save_part(
            tmp_path / dtype, "lm", PARAMS, LMConfig(), Geometry(), {}, {}, dtype=dtype, part_id=original.id
        )
        again = load_part(tmp_path / dtype)
        assert part.id == again.id == original.id and again.dtype == dtype
        assert again.params["ids"].dtype == np.int32
        np.testing.assert_allclose(again.params["a"]["kernel"].astype(np.float32), PARAMS["a"]["kernel"], rtol=0.01)


def test_cast_that_overflows_is_refused(tmp_path):
    with pytest.raises(UserError, match="not finite as float16"):
        save(tmp_path / "x", params={"big": np.array([1e6], np.float32)}, dtype="float16")
    with pytest.raises(UserError, match="unknown dtype"):
        save(tmp_path / "x", dtype="int8")
    assert not (tmp_path / "x").exists()


def test_shards(tmp_path):
    params = {f"w{i}": np.full((100, 100), i, np.float32) for i in range(5)}
    limit = 65_536 + 90_000
    save(tmp_path / "s", params=params, max_file_bytes=limit)
    files = sorted((tmp_path / "s").glob("*.safetensors"))
    assert len(files) == 3 and all(path.stat().st_size <= limit for path in files)
    assert_same(load_part(tmp_path / "s").params, params)
    with pytest.raises(UserError, match="tensor w0 alone takes"):
        save(tmp_path / "t", params=params, max_file_bytes=65_536 + 10_000)


def test_a_part_in_a_run_folder_is_found_from_the_stage(tmp_path):
    save(tmp_path / "lm" / "part")
    assert load_part(tmp_path / "lm").id == read_info(tmp_path / "lm" / "part")["id"]


def test_truncated_weights_are_refused(tmp_path):
    save(tmp_path / "lm")
    file = tmp_path / "lm" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match="weights.safetensors is damaged"):
        load_part(tmp_path / "lm")
    file.unlink()
    with pytest.raises(UserError, match="is missing"):
        load_part(tmp_path / "lm")


def test_wrong_hash_is_refused(tmp_path):
    save(tmp_path / "lm")
    path = tmp_path / "lm" / "part.json"
    info = json.loads(path.read_text())
    info["files"]["weights.safetensors"] = "0" * 64
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match="sha256"):
        load_part(tmp_path / "lm")


@pytest.mark.parametrize("text", ["", "{", "{}", '{"format": 99}', "[]"])
def test_broken_information_is_refused(tmp_path, text):
    (tmp_path / "part.json").write_text(text)
    with pytest.raises(UserError):
        load_part(tmp_path)


def test_no_part(tmp_path):
    with pytest.raises(UserError, match="not a part"):
        load_part(tmp_path / "nothing")


def test_overwrites_a_part_but_nothing_else(tmp_path):
    save(tmp_path / "lm")
    changed = save(tmp_path / "lm", params={"w": np.zeros(3, np.float32)})
    assert load_part(tmp_path / "lm").id == changed.id
    (tmp_path / "lm" / "checkpoint").mkdir()
    with pytest.raises(UserError, match="other things"):
        save(tmp_path / "lm")
    assert load_part(tmp_path / "lm").id == changed.id


def rewrite(path, change, sealed=False):
    """Edits part.json; with a seal of what it then says, if wanted."""
    info = json.loads(path.read_text())
    change(info)
    if sealed:
        info["seal"] = seal(info)
    path.write_text(json.dumps(info))


@pytest.mark.parametrize("field, value", [("layers", 3), ("dropout", 0.9), ("width", 512)])
def test_an_edited_config_is_refused(tmp_path, field, value):
    """Also where the weights were cast, so that the id cannot be computed from them."""
    for name, options in (("a", {}), ("b", {"dtype": "float16"})):
        save(tmp_path / name, **options)
        rewrite(tmp_path / name / "part.json", lambda info: info["config"].update({field: value}))
        with pytest.raises(UserError, match="was edited"):
            load_part(tmp_path / name)


def test_a_part_of_before_the_seal_is_verified_by_its_id(tmp_path):
    saved = save(tmp_path / "lm", params={"w": np.ones(3, np.float32)})

    def older(info):
        del info["seal"]
        info["format"] = 1

    rewrite(tmp_path / "lm" / "part.json", older)
    assert load_part(tmp_path / "lm").id == saved.id
    rewrite(tmp_path / "lm" / "part.json", lambda info: info["geometry"].update(hop=480))
    with pytest.raises(UserError, match="was edited"):
        load_part(tmp_path / "lm")


JUNK = [None, [], {}, 3, -1.5, "x", True, [1], {"a": 1}]


@pytest.mark.parametrize("field", ["format", "name", "config", "geometry", "id", "parents", "dtype", "files"])
def test_every_malformed_field_is_one_line(tmp_path, field):
    """With a seal that fits, so that the field itself is what is found."""
    save(tmp_path / "lm", params={"w": np.ones(3, np.float32)})
    path = tmp_path / "lm" / "part.json"
    original = json.loads(path.read_text())
    refused = 0
    for junk in JUNK:
        path.write_text(json.dumps(original))
        rewrite(path, lambda info: info.update({field: junk}), sealed=True)  # noqa: B023
        try:
            load_part(tmp_path / "lm")
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused >= len(JUNK) - 3  # some are another value of the right type


def test_weights_that_are_no_weights(tmp_path):
    save(tmp_path / "lm")
    (tmp_path / "lm" / "weights.safetensors").write_bytes(b"junk")
    digest = hashlib.sha256(b"junk").hexdigest()
    rewrite(tmp_path / "lm" / "part.json", lambda info: info["files"].update({"weights.safetensors": digest}), True)
    with pytest.raises(UserError, match="no safetensors file"):
        load_part(tmp_path / "lm")
    outside = {"../weights.safetensors": digest}
    rewrite(tmp_path / "lm" / "part.json", lambda info: info.update(files=outside), True)
    with pytest.raises(UserError, match="not in its folder"):
        load_part(tmp_path / "lm")
