"""Which split a tune belongs to: decided by its name alone, so that adding music never moves a tune elsewhere."""

import hashlib

SPLITS = ("train", "validation", "test")


def split_of(tune: str, validation: float = 0.05, test: float = 0.05) -> str:
    """The split of everything taken from `tune`.

    Args:
        tune: name of the tune or file.
        validation: share of the tunes that are held out for validation.
        test: share of the tunes that are held out for the last test.
    """
    digest = hashlib.sha256(tune.encode("utf-8", "surrogateescape")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"
