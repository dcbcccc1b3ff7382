"""MuLan: one space for music and text. A music tower (AST), a text tower (BERT), a contrastive loss between them."""

from melody_jax.mulan.config import MuLanConfig, MusicTowerConfig, PretrainedText, TextTowerConfig
from melody_jax.mulan.network import MuLan

__all__ = ["MuLan", "MuLanConfig", "MusicTowerConfig", "PretrainedText", "TextTowerConfig"]
