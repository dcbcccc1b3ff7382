"""Do these parts belong together? Every part names the ids of the parts it was trained with."""

from collections.abc import Mapping

from melody_jax.bundle.part import Part
from melody_jax.errors import UserError


def check_lineage(parts: Mapping[str, Part]) -> None:
    """Checks that each part's parents are the ones here and that all parts share one geometry.

    Parents that are not among `parts` are not checked.

    Raises:
      UserError: one sentence that names two parts which were not trained together, with their ids.
    """
    for name, part in parts.items():
        for parent, expected in part.parents.items():
            if parent in parts and parts[parent].id != expected:
                raise UserError(
                    f"the parts {name} ({short(part.id)}) and {parent} ({short(parts[parent].id)}) were not trained "
                    f"together: {name} was trained with {parent} {short(expected)}"
                )
    first = next(iter(parts.values()), None)
    for part in parts.values():
        if first is not None and part.geometry != first.geometry:
            raise UserError(
                f"the parts {part.name} ({short(part.id)}) and {first.name} ({short(first.id)}) were not trained "
                f"together: their geometries differ"
            )


def short(part_id: str) -> str:
    """The first twelve digits of an id: enough to tell parts apart in a message."""
    return part_id[:12]
