"""A MuLan small enough for tests: the same code, toy widths."""

import dataclasses

from melody_jax.geometry import Geometry
from melody_jax.mulan.config import MuLanConfig, MusicTowerConfig, TextTowerConfig

GEOMETRY = Geometry(sample_rate=4000, hop=40, token_samples=160, clip_seconds=0.4)
MUSIC = MusicTowerConfig(
    mels=16,
    fft=128,
    hop=40,
    patch_frequency=8,
    patch_time=6,
    stride_frequency=4,
    stride_time=5,
    width=16,
    layers=2,
    heads=2,
    mlp=32,
)
TEXT = TextTowerConfig(vocabulary=64, positions=16, width=16, layers=2, heads=2, mlp=32)
CONFIG = MuLanConfig(music=MUSIC, text=TEXT, text_length=12, joint=8)


def with_dtype(dtype: str) -> MuLanConfig:
    """CONFIG computing in `dtype`."""
    return dataclasses.replace(CONFIG, dtype=dtype)
