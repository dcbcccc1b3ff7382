"""Controls as codes: every value has one, nothing is lost but what lies between two beats a minute."""

import numpy as np
import pytest

from data_pipelines.corpus import scores
from melody_jax.codes.controls import (
    BEATS,
    FASTEST,
    METRES,
    PHASE_STEPS,
    SIZES,
    SLOTS,
    SLOWEST,
    Controls,
    decode,
    encode,
    key_name,
    to_json,
)
from melody_jax.codes.instruments import NAMES

WALTZ = Controls(96.0, (2, "minor"), "3/4", False, ("violin", "cello"))


def test_unknown_is_zero_everywhere():
    assert SLOTS == (
        "tempo", "key", "metre", "drums", "phase", "instrument_1", "instrument_2", "instrument_3", "instrument_4",
    )  # fmt: skip
    codes = encode(Controls())
    assert codes.dtype == np.int32 and codes.tolist() == [0] * 9
    assert decode(codes) == Controls() and not Controls() and WALTZ and Controls(drums=False)


def test_each_value_of_a_slot_has_a_code_of_its_own():
    keys = [Controls(key=(tonic, mode)) for mode in ("major", "minor") for tonic in range(12)]
    metres = [Controls(metre=metre) for metre in METRES]
    drums = [Controls(drums=drums) for drums in (False, True)]
    leads = [Controls(instruments=(name,)) for name in NAMES]
    for slot, values in (("key", keys), ("metre", metres), ("drums", drums), ("instrument_1", leads)):
        place = SLOTS.index(slot)
        codes = [encode(value) for value in values]
        used = {int(code[place]) for code in codes}
        assert len(used) == len(values) and 0 not in used and max(used) < SIZES[place]
        assert [decode(code) for code in codes] == values
        if slot != "instrument_1":
            assert all(code.sum() == code[place] for code in codes)


def test_tempo_comes_back_to_the_beat_a_minute():
    tempi = np.geomspace(SLOWEST, FASTEST, 997).clip(SLOWEST, FASTEST)
    codes = [encode(Controls(float(tempo))) for tempo in tempi]
    back = np.array([decode(code).tempo for code in codes])
    assert np.abs(back - tempi).max() <= 0.5 and decode(encode(Controls(96.0))).tempo == 96.0
    assert [code[0] for code in codes] == sorted(code[0] for code in codes)
    assert {int(code[0]) for code in codes} == set(range(1, SIZES[0]))


@pytest.mark.parametrize("metre, bar", [("3/4", 3), ("6/8", 2), ("12/8", 4), ("other", 1), (None, 1)])
def test_a_downbeat_comes_back_to_a_24th_of_a_beat(metre, bar):
    """The first one that is not before the start; without a metre every beat is one."""
    assert bar == max(BEATS.get(metre, 0), 1)
    for seconds in np.linspace(-3.0, 9.0, 41):
        back = decode(encode(Controls(75.0, metre=metre, downbeat=float(seconds)))).downbeat
        assert back is not None and 0 <= back < bar * 0.8
        turns = (back - seconds) / (bar * 0.8)
        assert abs(turns - round(turns)) * bar <= 0.5 / PHASE_STEPS + 1e-6
    assert decode(encode(Controls(75.0))).downbeat is None and encode(Controls(downbeat=1.0)).tolist() == [0] * 9


def test_the_corpus_counts_beats_as_controls_do():
    for metre, beats in BEATS.items():
        if metre != "other":
            numerator, denominator = map(int, metre.split("/"))
            bar, beat = scores.bar_ticks(numerator, denominator), scores.beat_ticks(numerator, denominator)
            assert bar == beats * beat, metre


def test_who_else_may_play_is_part_of_the_codes():
    alone, open_end = encode(WALTZ), encode(Controls(instruments=("violin", "cello"), only=False))
    assert alone[5:7].tolist() == open_end[5:7].tolist()
    assert open_end[7:].tolist() == [0, 0] and len({*alone[7:].tolist()} - {0}) == 1
    assert decode(alone).only and not decode(open_end).only
    five = Controls(instruments=("violin", "viola", "cello", "piano", "flute"))
    assert decode(encode(five)).instruments == five.instruments[:4]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tempo": 300.0},
        {"tempo": float("nan")},
        {"key": (12, "major")},
        {"key": (2, "dorian")},
        {"metre": "11/8"},
        {"downbeat": float("inf")},
        {"instruments": ("drums",)},
        {"instruments": ("violin", "violin")},
    ],
)
def test_values_that_have_no_code_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).rstrip("s")):
        Controls(**wrong)


def test_foreign_codes_are_refused():
    for codes in (np.zeros(7, np.int32), np.array([*SIZES], np.int32), np.full(9, -1, np.int32)):
        with pytest.raises(ValueError, match="9 numbers"):
            decode(codes)


def test_json_says_what_is_known():
    assert key_name((10, "major")) == "B-flat major" and key_name((1, "minor")) == "C-sharp minor"
    assert to_json(Controls()) == {}
    assert to_json(WALTZ) == {
        "tempo": 96.0,
        "key": "D minor",
        "metre": "3/4",
        "drums": False,
        "instruments": ["violin", "cello"],
        "others": False,
    }
