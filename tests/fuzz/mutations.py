"""Valid inputs made wrong at random: bytes that are flipped, cut, doubled or replaced, JSON whose values become others."""

import copy
import json
import random
import struct
from typing import Any

_NUMBERS = (
    0,
    1,
    2,
    3,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_TOKENS = (
    b"", b" ", b"\n", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xa8", b"\xed\xa0\x80", b'"', b"'", b",",
    b":", b"{", b"}", b"[", b"]", b"(", b")", b"[" * 5_000, b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"1" * 400, b"1" * 5_000,
    b"null", b"true", b"\\ud83c", b"\\u0000", b"%", b"@", b"#", b"=", b"/", b"..", b"../..", b"/dev/zero", b"None", b"()", b"1j",
    b"a\xcc\x81", b"\xe2\x80\x8b", b"x" * 20_000,
)  # fmt: skip
JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e-300, 1.7e308, 2**31, 2**63, 10**400, float("nan"), float("inf"), "", " ", "x",
    "3", "\ud83c", "\0", "a\nb", "/dev/zero", "../x", "x" * 20_000, [], [None], [1, 2], ["x"], [[[]]], {}, {"x": 1}, {"": None},
)  # fmt: skip


def of_bytes(rng: random.Random, valid: bytes) -> bytes:
    """`valid` with one to four places changed."""
    data = bytearray(valid)
    for _ in range(rng.randint(1, 4)):
        # Headers decide more than sound does.
        place = rng.randint(0, len(data) if rng.random() < 0.5 else min(64, len(data)))
        end = min(len(data), place + rng.choice((1, 4, 40, 400)))
        match rng.randrange(8):
            case 0:
                data[place:end] = rng.randbytes(end - place)
            case 1:
                data[place:end] = bytes(end - place)
            case 2:
                del data[place:end]
            case 3:
                data[place:place] = data[place:end] * rng.choice((1, 2, 50))
            case 4:
                data[place:place] = rng.choice(_TOKENS)
            case 5:
                del data[place:]
            case 6:
                form = rng.choice("<>") + rng.choice("BHIQ")
                number = rng.choice(_NUMBERS) % 256 ** struct.calcsize(form)
                data[place : place + struct.calcsize(form)] = struct.pack(form, number)
            case _ if place < len(data):
                data[place] ^= 1 << rng.randrange(8)
    return bytes(data)


def of_json(rng: random.Random, valid: Any) -> Any:
    """A copy of `valid` in which one to three values are others, gone, or under another name."""
    root = {"root": copy.deepcopy(valid)}
    for _ in range(rng.randint(1, 3)):
        holder, key = rng.choice(list(_places(root)))
        value = holder[key]
        match rng.randrange(8):
            case 0 if holder is not root:
                del holder[key]
            case 1 if isinstance(holder, dict) and holder is not root:
                holder[rng.choice(("x", "", *holder))] = holder.pop(key)
            case 2:
                holder[key] = [value]
            case 3 if isinstance(value, (int, float)):
                holder[key] = value * rng.choice((-1, 0, 2, 1000))
            case 4 if isinstance(value, list):
                holder[key] = value * rng.choice((2, 100))
            case _:
                holder[key] = copy.deepcopy(rng.choice(JUNK))
    return root["root"]


def of_json_text(rng: random.Random, valid: Any) -> bytes:
    """JSON of a changed value, or the changed JSON of `valid`."""
    if rng.random() < 0.3:
        return of_bytes(rng, json.dumps(valid).encode())
    return json.dumps(of_json(rng, valid)).encode()


def _places(node: Any) -> Any:
    """(holder, key) of every value in a tree of dicts and lists."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from _places(node[key])
