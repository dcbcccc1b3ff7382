"""The shape of all-MiniLM-L6-v2."""

from melody_jax.mulan.config import TextTowerConfig

TOWER = TextTowerConfig(width=384, layers=6, heads=12, mlp=1536, pooling="mean")
