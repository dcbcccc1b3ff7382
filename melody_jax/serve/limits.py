"""How much may be asked for. Imports no jax."""

import dataclasses

from melody_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request, a client and all clients together may want.

    Attributes:
      seconds: longest piece, made or uploaded.
      text: letters of a sentence.
      candidates: per prompt.
      steps: of the diffusion.
      upload_mib: of an uploaded file.
      waiting: jobs in the queue.
      waiting_each: of them of one client.
      streams: that play at once.
      stream_seconds: length of a stream.
      jobs: ended ones that are remembered, a few KiB each; those go first whose end a client has heard of.
      kept_mib: memory for finished takes; the one that nobody has asked for longest makes room for a new one.
      batch: most pieces that are made together.
      programs: compiled programs that are kept, about 14 MiB each; beyond that all are dropped, and come back from disk when
        they are needed.
      connections: open at once.

    Raises:
      UserError: one of them is not above 0.
    """

    seconds: float = 60.0
    text: int = 500
    candidates: int = 4
    steps: int = 100
    upload_mib: int = 24
    waiting: int = 64
    waiting_each: int = 8
    streams: int = 4
    stream_seconds: float = 600.0
    jobs: int = 2000
    kept_mib: int = 256
    batch: int = 4
    programs: int = 64
    connections: int = 512

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(f"the limit {field.name} must be more than 0, got {getattr(self, field.name)}")
