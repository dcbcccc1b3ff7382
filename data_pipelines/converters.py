"""seqio feature converters: from the features of a Task to exactly the arrays that a stage's batch has.

They work on single examples, before the batch: audio stays int16 and latents float16 until they are on the devices.
"""

from collections.abc import Collection, Mapping
from typing import Any

import seqio
import tensorflow as tf

from melody_jax.errors import UserError
from melody_jax.graph import READ_AUDIO

_Spec = seqio.FeatureConverter.FeatureSpec


class StageConverter(seqio.FeatureConverter):
    """Passes the features on as they are: a Task's lengths are those of the model, so nothing is packed or padded.

    Subclasses name the features; the base class checks names, types and ranks. OPTIONAL_FEATURES are those that some
    models of a stage have: seqio's `passthrough_features`.

    Args:
        pack: False; there is nothing to pack.
        options: further ones of seqio's converters, as T5X gives them.

    Raises:
        UserError: `pack` is True.
    """

    OPTIONAL_FEATURES: Mapping[str, _Spec] = {}

    def __init__(self, pack: bool = False, **options: Any):
        if pack:
            raise UserError("sequences here have one length and are not packed; set DatasetConfig.pack = False")
        # the preprocessors fix every shape statically, so that a check of each example would find nothing
        super().__init__(pack=False, apply_length_check=False, **options)

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        del task_feature_lengths
        names = (*self.MODEL_FEATURES, *self._passthrough_features)
        return ds.map(lambda example: {name: example[name] for name in names})

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        return dict(task_feature_lengths)


class AudioConverter(StageConverter):
    """autoencoder, semantic, codes: {"audio" [T]}."""

    TASK_FEATURES = {"audio": _Spec(dtype=tf.int16)}
    MODEL_FEATURES = TASK_FEATURES


class MuLanConverter(StageConverter):
    """mulan: {"audio" [T], "text_tokens" [W]}."""

    TASK_FEATURES = {"audio": _Spec(dtype=tf.int16), "text_tokens": _Spec(dtype=tf.int32)}
    MODEL_FEATURES = TASK_FEATURES


class LMConverter(StageConverter):
    """lm: {"mulan" [Q], "text" [Q], "semantic" [N]}, and "controls" [controls] for a model that has them."""

    TASK_FEATURES = {name: _Spec(dtype=tf.int32) for name in ("mulan", "text", "semantic")}
    MODEL_FEATURES = TASK_FEATURES
    OPTIONAL_FEATURES = {"controls": _Spec(dtype=tf.int32)}


class DPDConverter(StageConverter):
    """dpd: {"semantic" [N], "latents" [L, D]}, and "mulan" [Q], "text" [Q], "controls" [controls] for a model with a prompt."""

    TASK_FEATURES = {"semantic": _Spec(dtype=tf.int32), "latents": _Spec(dtype=tf.float16, rank=2)}
    MODEL_FEATURES = TASK_FEATURES
    OPTIONAL_FEATURES = {name: _Spec(dtype=tf.int32) for name in ("mulan", "text", "controls")}


CONVERTERS: dict[str, type[StageConverter]] = {
    **dict.fromkeys(READ_AUDIO, AudioConverter),
    "mulan": MuLanConverter,
    "lm": LMConverter,
    "dpd": DPDConverter,
}


def converter_of(names: Collection[str]) -> StageConverter:
    """The converter of the stage that trains on exactly these features."""
    for converter in CONVERTERS.values():
        more = {name: spec for name, spec in converter.OPTIONAL_FEATURES.items() if name in names}
        if set(names) == {*converter.TASK_FEATURES, *more}:
            return converter(passthrough_features=more)
    raise ValueError(f"no stage trains on {', '.join(names)}")
