"""Which split a tune belongs to. With many tunes its name alone decides, so that adding music moves no tune."""

import hashlib
from collections.abc import Iterable

SPLITS = ("train", "validation", "test")


def split_of(tune: str, validation: float = 0.05, test: float = 0.05) -> str:
    """The split of everything taken from `tune`.

    Args:
        tune: name of the tune or file.
        validation: share of the tunes that are held out for validation.
        test: share of the tunes that are held out for the last test.
    """
    place = _place(tune)
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def splits_of(tunes: Iterable[str], validation: float = 0.05, test: float = 0.05) -> dict[str, str]:
    """The split of every one of `tunes`: `split_of`, but none that has a share stays empty where there are tunes enough.

    With few tunes a split may by chance get none. It then gets the tune nearest to its border, the first one that a
    larger share would include. Train comes first, then validation, then test.
    """
    ordered = sorted(set(tunes), key=lambda tune: (_place(tune), tune))
    result = {tune: split_of(tune, validation, test) for tune in ordered}
    shares = {"train": 1.0, "validation": validation, "test": test}
    wanted = [split for split in SPLITS if shares[split] > 0][: len(ordered)]
    for split in wanted:
        counts = {name: sum(given == name for given in result.values()) for name in SPLITS}
        if counts[split]:
            continue
        # The tunes lie in the order test, validation, train.
        spare = [tune for tune in ordered if counts[result[tune]] > (result[tune] in wanted)]
        result[spare[-1] if split == "train" else spare[0]] = split
    return result


def _place(tune: str) -> float:
    digest = hashlib.sha256(tune.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
