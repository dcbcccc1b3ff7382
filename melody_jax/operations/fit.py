"""Whether trainings fit the chips they are meant for, found out without these chips."""

from collections.abc import Mapping

from jax.sharding import AbstractMesh

from melody_jax import graph
from melody_jax.errors import UserError
from melody_jax.operations.configuration import RunConfig
from melody_jax.parallel import batch, init, mesh


def check_fit(configs: Mapping[str, RunConfig], chips: int, slices: int) -> None:
    """Lays the mesh, the batch and the parameters of every stage over `chips` chips, those of all `slices` together.

    Raises:
      UserError: a mesh that these chips cannot form, or a batch or parameters that do not divide over it.
    """
    for name, config in configs.items():
        sizes = mesh.parse_mesh(config.run.mesh, chips)
        mesh.axis_between_slices(config.run.mesh, sizes, slices)
        grid = AbstractMesh(tuple(sizes.values()), tuple(sizes))
        try:
            batch.check_batch_size(config.stage.batch_size, grid)
            if name in graph.NETWORKS:  # those of the codes have the shapes of their parents, which are not here
                init.abstract_state(config.stage.init, grid)
        except UserError as error:
            raise UserError(f"{name} on {chips} chips: {error}") from None
