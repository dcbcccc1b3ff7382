"""Music that is given: continued, repainted, varied, made again."""

import json
import threading

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.generate import Cancelled
from melody_jax.generate.edits import continued, repainted
from melody_jax.generate.given import check_spans, redrawn
from tests.generate.conftest import GEOMETRY

RATE = GEOMETRY.sample_rate
PROMPT = "a slow waltz"


@pytest.fixture(scope="module")
def given(melody):
    """1.1 s of music, which is longer than a clip and no whole number of tokens."""
    return melody.generate(PROMPT, seconds=1.1, seed=9).audio[:4_321]


def test_what_is_continued_stays_as_it_was(melody, given):
    made = melody.continue_(given, "loud drums", seconds=0.4, seed=1)
    joint = round(0.02 * RATE)
    assert made.audio.shape == (4_321 + 1_600,)
    np.testing.assert_array_equal(made.audio[: 4_321 - joint], given[: 4_321 - joint])
    assert np.abs(made.audio[4_321:]).max() > 0 and np.abs(np.diff(made.audio[4_300:4_340])).max() < 1
    other = melody.continue_(given, "loud drums", seconds=0.4, seed=2)
    assert not np.array_equal(other.audio[4_321:], made.audio[4_321:])


@pytest.mark.parametrize("edit", [lambda g, x: repainted(g, x, [(0.15, 0.25)]), lambda g, x: continued(g, x, 0.2)])
@pytest.mark.parametrize("level", [0.7, 2.5])
def test_what_is_made_is_at_the_level_of_what_is_given(edit, level, melody):
    """Whatever that of the models is."""
    tone = (0.2 * np.sin(0.5 * np.arange(2 * GEOMETRY.clip_samples))).astype(np.float32)
    piece = tone[: GEOMETRY.clip_samples]
    made = edit(melody._given, piece)
    np.testing.assert_array_equal(made.known.audio[: len(piece)], piece)
    whole = made.finish(level * tone[: len(made.known.audio)])[0]
    np.testing.assert_allclose(whole[:-100], tone[: len(whole) - 100], atol=2e-3)  # the end fades


def test_tokens_of_the_given_music_are_the_context(melody, given):
    """The language model goes on from the tokens that the bundle's own models hear in the music."""
    made = melody.continue_(given, PROMPT, seconds=0.4)
    seen = GEOMETRY.clip_tokens
    tokens, latents = melody._given.represent(given[len(given) - seen * GEOMETRY.token_samples :])
    np.testing.assert_array_equal(made.tokens[:seen], tokens)
    assert latents.shape == (seen * GEOMETRY.frames_per_token, GEOMETRY.latent_channels)
    encoded = melody.loaded.represent(given[None, -GEOMETRY.clip_samples :], [()])
    np.testing.assert_array_equal(tokens, encoded["semantic"][0])


def test_long_music_is_represented_moment_by_moment(melody, given):
    """The clips overlap; where one begins, its moments are those of the same samples alone."""
    tokens, latents = melody._given.represent(given)
    count = -(-len(given) // GEOMETRY.token_samples)
    assert tokens.shape == (count,) and latents.shape == (count * GEOMETRY.frames_per_token, GEOMETRY.latent_channels)
    first, _ = melody._given.represent(given[: GEOMETRY.clip_samples])
    np.testing.assert_array_equal(tokens[:7], first[:7])


def test_only_the_spans_are_repainted(melody, given):
    spans = [(0.2, 0.301), (0.7, 0.75)]
    made = melody.inpaint(given, spans)
    inside = np.zeros(len(given), bool)
    for begin, end in spans:
        inside[round(begin * RATE) : round(end * RATE)] = True
    np.testing.assert_array_equal(made.audio[~inside], given[~inside])
    assert (made.audio[inside] != given[inside]).mean() > 0.9
    several = melody.inpaint([given, given], spans, [PROMPT, "flute"], seed=(1, 2))
    assert len(several) == 2 and not np.array_equal(several[0].audio, several[1].audio)


def test_variations_go_from_the_given_to_the_new(melody, given):
    piece = given[:1_600]
    near, far = (melody.vary(piece, strength, "flute", seed=3, loudness=None) for strength in (0.0, 1.0))
    tokens, latents = melody._given.represent(piece)
    np.testing.assert_array_equal(near.tokens, tokens)
    decoded = np.asarray(melody.loaded.decode(latents[None]))[0]
    np.testing.assert_allclose(near.audio[40:-40], decoded[40:1_560] / max(1, np.abs(decoded).max()), atol=1e-4)
    assert not np.array_equal(far.tokens, tokens) and far.audio.shape == near.audio.shape


def test_a_share_of_the_moments_is_drawn_anew():
    for strength in (0.0, 0.25, 0.5, 1.0):
        assert redrawn(100, strength, 5).mean() == pytest.approx(strength, abs=0.06)
    assert (redrawn(100, 0.5, 5) >= redrawn(100, 0.25, 5)).all()


def test_pieces_are_made_again_from_what_is_said_of_them(melody, given):
    pieces = [
        (melody.generate([PROMPT, PROMPT], seconds=0.4, seed=4)[1], None),
        (melody.generate(PROMPT, seconds=0.4, candidates=2, keep_all=True).others[0], None),
        (melody.generate(audio=given, seconds=0.4), given),
        (melody.inpaint(given, [(0.2, 0.301), (0.7, 0.75)], seed=5), given),
        (melody.vary(given[:1_600], 1.0, "flute", seed=3), given[:1_600]),
    ]
    for piece, audio in pieces:
        again = melody.replay(json.loads(json.dumps({"call": piece.call})), audio)
        np.testing.assert_array_equal(again.tokens, piece.tokens)
        np.testing.assert_allclose(again.audio, piece.audio, atol=2e-3)
    call = pieces[3][0].call
    for wrong, words in (
        ({}, "does not say how"),
        ({**call, "bundle": {}}, "another bundle"),
        ({**call, "spans": 3}, "spans"),
        ({**call, "settings": {"colour": 1}}, "unknown setting"),
        ({**call, "seed": -1}, "seed"),
    ):
        with pytest.raises(UserError, match=words):
            melody.replay(wrong, given)
    with pytest.raises(UserError, match="other music"):
        melody.replay(call, given[:-1])


def test_copies_of_a_prompt_are_different_pieces(melody):
    pieces = melody.generate([PROMPT] * 4, seconds=0.4, seed=2)
    assert len({piece.tokens.tobytes() for piece in pieces}) == 4
    alone = melody.generate(PROMPT, seconds=0.4, seed=pieces[2].seed)
    np.testing.assert_array_equal(alone.tokens, pieces[2].tokens)


def test_all_candidates_are_there_if_wanted(melody):
    best = melody.generate(PROMPT, seconds=0.4, candidates=3, keep_all=True)
    everyone = [best, *best.others]
    assert sorted(piece.candidate for piece in everyone) == [0, 1, 2]
    scores = [piece.similarity for piece in everyone]
    assert scores == sorted(scores, reverse=True)
    assert len({piece.tokens.tobytes() for piece in everyone}) == 3
    assert melody.generate(PROMPT, seconds=0.4, candidates=3).candidate == best.candidate


def test_a_negative_prompt_leads_away(melody):
    plain = melody.generate(PROMPT, seconds=0.4, lm_guidance=3.0)
    away = melody.generate(PROMPT, negative="flute", seconds=0.4, lm_guidance=3.0)
    assert not np.array_equal(plain.tokens, away.tokens) and away.call["negative"] == "flute"
    same = melody.generate(PROMPT, negative=PROMPT, seconds=0.4, lm_guidance=3.0)
    without = melody.generate(PROMPT, seconds=0.4, lm_guidance=1.0)
    np.testing.assert_array_equal(same.tokens, without.tokens)  # g c - (g - 1) c = c
    with pytest.raises(UserError, match="lm_guidance above 1"):
        melody.generate(PROMPT, negative="flute", seconds=0.4)


def test_progress_and_an_end_on_demand(melody):
    told, finished, stop = [], [], threading.Event()

    def each(index, piece):
        finished.append((index, piece.prompt))
        if len(finished) == 2:
            stop.set()

    prompts = [PROMPT, "flute", "drums"]
    with pytest.raises(Cancelled) as caught:
        melody.generate(prompts, seconds=0.4, batch_size=1, progress=told.append, cancel=stop.is_set, each=each)
    assert [piece.prompt for piece in caught.value.results] == prompts[:2]
    assert finished == [(0, PROMPT), (1, "flute")]
    assert [(state.done, state.total, state.pieces) for state in told][-1] == (9, 12, 2)
    assert {state.step for state in told} == {"prompt", "language model", "diffusion", "decoder"}


def test_prompts_beyond_the_limit_are_cut_with_a_word(melody):
    with pytest.warns(UserWarning, match="the model knows no word for 🎵, as in 'a 🎵 waltz 🎵'"):
        melody.generate("a 🎵 waltz 🎵", seconds=0.4)
    with pytest.warns(UserWarning, match="longer than the 16 tokens"):
        long = melody.generate("waltz " * 10, seconds=0.4)
    with pytest.warns(UserWarning):
        longer = melody.generate("waltz " * 11, seconds=0.4)
    np.testing.assert_array_equal(long.mulan, longer.mulan)


def test_special_tokens_in_a_prompt_are_text(melody):
    tokenizer = melody.loaded.tokenizer
    ids = tokenizer.encode(["a [SEP] b"], 16)[0]
    assert ids[0] == 2 and (ids == 3).sum() == 1 and ids[np.flatnonzero(ids)[-1]] == 3
    assert tokenizer.encode(["a \udcff"], 16).shape == (1, 16)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m, x: m.continue_(x[:10], PROMPT), "must last"),
        (lambda m, x: m.continue_(np.zeros((2, 4_000)), PROMPT), "mono"),
        (lambda m, x: m.continue_(np.full(4_000, np.nan), PROMPT), "finite"),
        (lambda m, x: m.continue_(np.zeros(4_000, np.int16), PROMPT), "whole numbers"),
        (lambda m, x: m.continue_([], PROMPT), "no music"),
        (lambda m, x: m.continue_([x, x], [PROMPT]), "1 prompts for 2"),
        (lambda m, x: m.continue_(x, " "), "empty"),
        (lambda m, x: m.vary(x, 1.5), "strength"),
        (lambda m, x: m.vary(x, "much"), "strength"),
        (lambda m, x: m.vary(x, 10**400), "strength"),
        (lambda m, x: m.inpaint(x, [(0, 10**400)]), "spans are pairs"),
        (lambda m, x: m.inpaint(x, []), "no span"),
        (lambda m, x: m.inpaint(x, [(0.5, 0.2)]), "not inside"),
        (lambda m, x: m.inpaint(x, [(0.5, 9.0)]), "not inside"),
        (lambda m, x: m.inpaint(x, [0.5]), "pairs of seconds"),
        (lambda m, x: m.inpaint(x, "all"), "pairs of seconds"),
        (lambda m, x: m.generate(PROMPT, settings={"steps": 3}), "must be Settings"),
    ],
)
def test_bad_arguments(melody, given, call, words):
    with pytest.raises(UserError, match=words) as caught:
        call(melody, given)
    assert "\n" not in str(caught.value)


def test_spans_that_touch_are_one():
    assert check_spans([(1, 2), (0.5, 1), (3, 3.5)], 4_000 * 4, 4_000) == [(2_000, 8_000), (12_000, 14_000)]
