"""Hugging Face folders in and out: every bit, every name, every refusal."""

import json

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import load_file, save_file

from melody_jax import config as config_lib
from melody_jax.bundle import load_part, save_part
from melody_jax.bundle.part import flatten
from melody_jax.cli import main
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.interop import huggingface
from melody_jax.interop.counterparts import COUNTERPARTS
from melody_jax.lm.config import LMConfig
from melody_jax.mulan.config import MuLanConfig, MusicTowerConfig, PretrainedText, TextTowerConfig
from melody_jax.semantic.config import SemanticConfig
from tests.interop import folders

MODELS = sorted(folders.CONFIGS)


def refusal(folder, tmp_path, **options) -> str:
    with pytest.raises(UserError) as caught:
        huggingface.import_folder(folder, tmp_path / "refused", **options)
    assert not (tmp_path / "refused").exists()
    return str(caught.value)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", [np.float32, folders.BFLOAT16], ids=["float32", "bfloat16"])
def test_round_trip_is_exact(model, dtype, tmp_path):
    folder = folders.write(tmp_path / "theirs", model, dtype)
    part, _ = huggingface.import_folder(folder, tmp_path / "part", model)
    assert part.name == model
    left = huggingface.export_folder(load_part(tmp_path / "part"), COUNTERPARTS[model], tmp_path / "back")
    assert left == []
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype, name
        assert before[name].tobytes() == after[name].tobytes() and before[name].shape == after[name].shape, name
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == folders.CONFIGS[model]


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_of_ours_is_filled(model, tmp_path):
    part, _ = huggingface.import_folder(folders.write(tmp_path / "theirs", model), tmp_path / "part")
    counterpart = COUNTERPARTS[model]
    wanted = counterpart.shapes(config_lib.from_dict(counterpart.config, part.config))
    found = flatten({name: tree for name, tree in part.params.items() if name != "unused"})
    assert {name: leaf.shape for name, leaf in wanted.items()} == {name: x.shape for name, x in found.items()}


@pytest.mark.parametrize("model", MODELS)
def test_our_own_model_has_their_names_and_shapes(model, tmp_path):
    """A part of ours written as theirs: what `save_pretrained` writes but for the tensors that theirs never reads."""
    part, _ = huggingface.import_folder(folders.write(tmp_path / "theirs", model), tmp_path / "part")
    counterpart = COUNTERPARTS[model]
    config = config_lib.from_dict(counterpart.config, part.config)
    settings = counterpart.write(config)
    again = config_lib.from_dict(counterpart.config, counterpart.read({**settings, "model_type": model}))
    assert again == config
    for name, value in folders.CONFIGS[model].items():
        if name in settings:
            assert settings[name] == value, name


@pytest.mark.parametrize("model", ["bert", "ast", "wav2vec2-conformer"])
def test_activations_keep_their_names(model):
    counterpart = COUNTERPARTS[model]
    for theirs, written in {"gelu": "gelu", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new"}.items():
        settings = folders.CONFIGS[model] | {"hidden_act": theirs}
        config = config_lib.from_dict(counterpart.config, counterpart.read(settings))
        assert counterpart.write(config)["hidden_act"] == written


def test_a_trained_lm_goes_out_as_llama(tmp_path):
    geometry = Geometry(mulan_tokens=2, mulan_codes=8, semantic_codes=20)
    config = LMConfig(layers=2, width=16, heads=2, hidden=24, norm_eps=1e-5, rope=5000.0)
    counterpart = COUNTERPARTS["llama"]
    shape = counterpart.config(config, 40)
    params = {name: np.full(leaf.shape, 0.5, np.float32) for name, leaf in counterpart.shapes(shape).items()}
    save_part(tmp_path / "models" / "lm" / "part", "lm", params, config, geometry, {}, {})
    assert main.main(["export", "hf", "--model_dir", f"{tmp_path}/models", "--out", f"{tmp_path}/hf"]) == 0
    found = load_file(tmp_path / "hf" / "llama" / "model.safetensors")
    assert {name: list(x.shape) for name, x in found.items()} == folders.NAMES["llama"]
    settings = json.loads((tmp_path / "hf" / "llama" / "config.json").read_text())
    assert settings["vocab_size"] == 40 and settings["model_type"] == "llama"


def test_what_has_no_counterpart_says_why(tmp_path, capsys):
    towers = MuLanConfig(
        music=MusicTowerConfig(mels=16, patch_frequency=8, patch_time=6, width=8, layers=1, heads=1, mlp=8),
        text=TextTowerConfig(width=8, layers=1, heads=1, mlp=8),
        pretrained_text=PretrainedText("a_package"),
        train_text_tower=False,
    )
    save_part(tmp_path / "mulan" / "part", "mulan", {"log_scale": np.zeros(())}, towers, Geometry(), {}, {})
    semantic = SemanticConfig(stem="mel")
    save_part(tmp_path / "semantic" / "part", "semantic", {"x": np.zeros(())}, semantic, Geometry(), {}, {})
    save_part(tmp_path / "dpd" / "part", "dpd", {"x": np.zeros(())}, {}, Geometry(), {}, {})
    code = main.main(["export", "hf", "--model_dir", str(tmp_path), "--out", str(tmp_path / "hf")])
    said = capsys.readouterr()
    assert code == 2 and "has a counterpart" in said.err
    assert "no ast: its patches are 8 x 6, theirs are square" in said.out
    assert "no bert: its text tower is that of the Python package a_package" in said.out
    assert "no wav2vec2-conformer: its stem is 'mel', theirs 'wave'" in said.out
    assert "dpd: no counterpart" in said.out


@pytest.mark.parametrize("model", MODELS)
def test_missing_extra_and_wrongly_shaped_tensors_are_named(model, tmp_path):
    names = [name for name in folders.NAMES[model] if "norm" not in name.lower() and name.endswith("weight")]
    gone, other = names[0], names[1]
    changes = {gone: None, other: np.zeros((3, 5), np.float32), "odd.weight": np.zeros(2, np.float32)}
    message = refusal(folders.write(tmp_path / "theirs", model, **changes), tmp_path)
    assert f"missing: {gone};" in message
    assert "odd.weight;" in message.partition("extra: ")[2]
    assert f"wrongly shaped: {other} [3, 5] instead of" in message


def test_a_head_may_be_left_out(tmp_path):
    with_head = {f"bert.{name}": x for name, x in folders.tensors("bert").items()}
    with_head |= {"cls.predictions.bias": np.zeros(50, np.float32)}
    without = dict.fromkeys(folders.NAMES["bert"])
    folder = folders.write(tmp_path / "theirs", "bert", **with_head, **without)
    assert "extra: cls.predictions.bias" in refusal(folder, tmp_path)
    part, _ = huggingface.import_folder(folder, tmp_path / "part", drop=[r"cls\..*"])
    huggingface.export_folder(part, COUNTERPARTS["bert"], tmp_path / "back")
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == with_head.keys() - {"cls.predictions.bias"}
    assert "no tensor of that name" in refusal(folder, tmp_path, drop=["nothing"])
    assert "no regular expression" in refusal(folder, tmp_path, drop=["("])


def test_shards_are_read(tmp_path):
    folder = folders.write(tmp_path / "theirs", "llama")
    whole = load_file(folder / "model.safetensors")
    halves = {"a.safetensors": sorted(whole)[::2], "b.safetensors": sorted(whole)[1::2]}
    for file, names in halves.items():
        save_file({name: whole[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in halves.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    part, _ = huggingface.import_folder(folder, tmp_path / "part")
    np.testing.assert_array_equal(part.params["embed"]["embedding"], whole["model.embed_tokens.weight"])
    (folder / "b.safetensors").unlink()
    assert "holds no b.safetensors" in refusal(folder, tmp_path)


@pytest.mark.parametrize(
    ("model", "change", "said"),
    [
        ("llama", {"num_key_value_heads": 1}, "num_key_value_heads is 1; only 2"),
        ("llama", {"rope_scaling": {"rope_type": "llama3"}}, "rope_type is 'llama3'"),
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"vocab_size": 41}, "embed_tokens.weight [40, 16] instead of [41, 16]"),
        ("bert", {"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu'"),
        ("ast", {"hidden_act": "mish"}, "hidden_act 'mish'"),
        ("bert", {"num_hidden_layers": 1}, "extra: encoder.layer.1."),
        ("ast", {"qkv_bias": False}, "qkv_bias"),
        ("wav2vec2-conformer", {"add_adapter": True}, "add_adapter"),
        ("wav2vec2-conformer", {"conv_dim": [12, 8, 12]}, "conv_dim"),
        ("wav2vec2-conformer", {"feat_extract_activation": "mish"}, "feat_extract_activation 'mish'"),
        ("hifigan", {"normalize_before": True}, "normalize_before"),
        ("hifigan", {"upsample_kernel_sizes": [9, 4]}, "kernel 9 - stride 4 is odd"),
        ("hifigan", {"model_type": "vits"}, "model_type 'vits'"),
    ],
)
def test_what_our_models_are_not_is_refused(model, change, said, tmp_path):
    folder = folders.write(tmp_path / "theirs", model)
    (folder / "config.json").write_text(json.dumps(folders.CONFIGS[model] | change))
    assert said in refusal(folder, tmp_path)


def test_bad_folders(tmp_path):
    assert "no Hugging Face folder" in refusal(tmp_path / "nowhere", tmp_path)
    folder = folders.write(tmp_path / "theirs", "bert")
    assert "unknown model 'gpt'" in refusal(folder, tmp_path, model="gpt")
    assert "is of model_type 'bert', not llama" in refusal(folder, tmp_path, model="llama")
    (folder / "model.safetensors").write_bytes(b"no tensors")
    assert "cannot be read" in refusal(folder, tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").touch()
    assert "convert pytorch_model.bin to safetensors" in refusal(folder, tmp_path)
    for index in ("[]", "{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": "../model.safetensors"}}', "{"):
        (folder / "model.safetensors.index.json").write_text(index)
        assert "model.safetensors.index.json" in refusal(folder, tmp_path)
    for config in ("{", "[" * 200_000, "[1]"):
        (folder / "config.json").write_text(config)
        assert "config.json cannot be read" in refusal(folder, tmp_path)


@pytest.mark.parametrize("model", MODELS)
def test_bindings_give_the_same_shape(model, tmp_path):
    """config.gin, read by gin, makes the config that the part has."""
    folder = folders.write(tmp_path / "theirs", model)
    assert main.main(["import", "hf", str(folder), "--model", model, "--out", str(tmp_path / "out")]) == 0
    counterpart, part = COUNTERPARTS[model], load_part(tmp_path / "out")
    wanted = config_lib.from_dict(counterpart.config, part.config)
    gin.clear_config()
    gin.parse_config_file(str(tmp_path / "out" / "config.gin"))
    for config in (
        wanted,
        *(getattr(wanted, name) for name in ("lm", "music", "hifigan", "wave", "conformer") if hasattr(wanted, name)),
    ):
        cls = type(config)
        if cls.__module__.endswith("counterparts"):
            continue
        bound = gin.get_bindings(cls)
        assert bound
        assert {name: getattr(config, name) for name in bound} == bound
    gin.clear_config()


def test_the_text_tower_computes_with_imported_weights(tmp_path):
    """Imported numbers are used as they are: a tower of them and the same tower filled by hand agree."""
    part, _ = huggingface.import_folder(folders.write(tmp_path / "theirs", "bert"), tmp_path / "part")
    counterpart = COUNTERPARTS["bert"]
    module, inputs, _ = counterpart.module(config_lib.from_dict(TextTowerConfig, part.config))
    params = jax.tree.map(jnp.asarray, {name: tree for name, tree in part.params.items() if name != "unused"})
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.PRNGKey(0), *inputs))["params"]
    assert jax.tree.structure(shapes) == jax.tree.structure(params)
    state = module.apply({"params": params}, jnp.asarray([[3, 4, 5, 0]], jnp.int32))
    padded = module.apply({"params": params}, jnp.asarray([[3, 4, 5, 0, 0, 0]], jnp.int32))
    np.testing.assert_allclose(state, padded, atol=1e-5)
