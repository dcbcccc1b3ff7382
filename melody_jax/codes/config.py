"""How the codebooks are learnt. Their sizes are the geometry's."""

import dataclasses

from melody_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class CodesConfig:
    """k-means on semantic features and residual VQ on MuLan embeddings, both over a memory of the last ones seen.

    A batch alone is too small a sample: it holds one MuLan embedding per clip, and its frames are much alike. The
    memory bounds what is stored and is part of the checkpoint.

    Attributes:
      frames_per_clip: feature frames that a clip adds to the memory, drawn at random.
      frame_memory: feature frames remembered; rounded up to whole batches.
      clip_memory: MuLan embeddings remembered; rounded up to whole batches.
      seed_step: the step at which both are seeded from the memory with k-means++; before it, the memory fills.
      updates: k-means and RVQ updates over the memory at each step after that.
      decay: of the moving averages of counts and sums; 0 is Lloyd's algorithm over the memory.
      dead_below: fraction of the mean count under which an entry is dead and moves to a random point.
    """

    frames_per_clip: int = 64
    frame_memory: int = 65_536
    clip_memory: int = 65_536
    seed_step: int = 32
    updates: int = 1
    decay: float = 0.9
    dead_below: float = 0.02

    def __post_init__(self):
        if min(self.frames_per_clip, self.frame_memory, self.clip_memory, self.updates) < 1 or self.seed_step < 0:
            raise UserError("codes: frames_per_clip, frame_memory, clip_memory and updates must be at least 1")
        if not 0 <= self.decay < 1:
            raise UserError(f"codes: decay {self.decay} is not in [0, 1)")
