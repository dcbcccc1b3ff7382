"""Sampling: lengths, repeatability, independence of the batch, settings."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax import storage
from melody_jax.cli.arguments import REPOSITORY_BUNDLE
from melody_jax.errors import UserError
from melody_jax.generate import Melody
from melody_jax.generate.settings import with_settings
from melody_jax.generate.windows import starts
from melody_jax.system import System
from tests.generate.conftest import GEOMETRY

PROMPT = "a slow waltz"


def apart(first, second):
    """RMS of the difference over RMS of the music; 1e-2 are 40 dB."""
    return float(np.sqrt(np.mean(np.square(first.audio - second.audio)) / np.mean(np.square(first.audio))))


@pytest.mark.parametrize("seconds", [0.01, 0.4, 1.1])
def test_length_is_exact(melody, seconds):
    (result,) = melody.generate([PROMPT], seconds=seconds)
    tokens = -(-int(seconds * 4000) // 160)
    assert result.audio.shape == (round(seconds * 4000),)
    assert result.audio.dtype == np.float32
    assert result.tokens.shape == (tokens,)
    assert result.latent_frames == tokens * GEOMETRY.frames_per_token
    assert result.mulan.shape == (3,)
    assert np.isfinite(result.audio).all() and np.abs(result.audio).max() > 0
    assert result.tokens.min() >= 0 and result.tokens.max() < GEOMETRY.semantic_codes


def test_same_seed_same_music_other_seed_other_music(melody):
    first, again, other = (melody.generate([PROMPT], seconds=0.4, seed=s)[0] for s in (7, 7, 8))
    np.testing.assert_array_equal(first.audio, again.audio)
    assert not np.array_equal(first.tokens, other.tokens)
    assert np.abs(first.audio - other.audio).max() > 1e-3


def test_without_noise_the_tokens_alone_decide_the_sound(melody):
    tokens = np.tile(np.arange(GEOMETRY.clip_semantic, dtype=np.int32)[None] % GEOMETRY.semantic_codes, (2, 1))
    first, second = melody.perform(tokens, seed=3)
    assert not np.array_equal(first, second)
    first, second = melody.perform(tokens, seed=3, noise=0.0)
    np.testing.assert_array_equal(first, second)


def test_the_diffusion_hears_of_the_prompt(melody):
    """Rows of the same tokens and noise with other MuLan codes sound different, row by row."""
    tokens = np.tile(np.arange(GEOMETRY.clip_semantic, dtype=np.int32)[None] % GEOMETRY.semantic_codes, (2, 1))
    mulan = np.array([[0, 1, 2], [1, 1, 2]], np.int32)
    one, other = (melody.perform(tokens, codes, seed=3, noise=0.0) for codes in (mulan, mulan[::-1]))
    assert np.abs(one[0] - one[1]).max() > 1e-4
    np.testing.assert_allclose(one, other[::-1], atol=1e-5)


def test_prompt_does_not_depend_on_the_batch(melody):
    """Three prompts in batches of two (the last one filled up) are what each of them is alone: the same tokens, and the
    same sound up to rounding."""
    prompts, seeds = ["loud drums", PROMPT, "flute"], (5, 6, 7)
    together = melody.generate(prompts, seconds=0.4, seed=seeds, batch_size=2)
    assert [result.prompt for result in together] == prompts
    assert [result.batch for result in together] == [2, 2, 2]
    for prompt, seed, batched in zip(prompts, seeds, together, strict=True):
        (alone,) = melody.generate([prompt], seconds=0.4, seed=seed)
        np.testing.assert_array_equal(alone.mulan, batched.mulan)
        np.testing.assert_array_equal(alone.tokens, batched.tokens)
        assert apart(alone, batched) < 1e-2


def test_a_later_process_traces_nothing(melody, bundle_dir, tmp_path, monkeypatch):
    """With kept programs it is the same music, and the second time no arrow of the system is traced."""
    folder, how = storage.path(tmp_path), {"seconds": 0.9, "seed": 3, "candidates": 2}
    usual = melody.generate(PROMPT, **how)
    first = Melody.load(bundle_dir, programs=folder).generate(PROMPT, **how)
    with monkeypatch.context() as changed:
        for arrow in ("embed_text", "row_keys", "condition", "write_tokens", "diffuse", "decode", "embed_music"):
            changed.setattr(System, arrow, _untraceable(arrow))
        later = Melody.load(bundle_dir, programs=folder).generate(PROMPT, **how)
    for made in (first, later):
        np.testing.assert_array_equal(made.tokens, usual.tokens)
        np.testing.assert_array_equal(made.audio, usual.audio)


def _untraceable(name):
    @functools.wraps(getattr(System, name))
    def traced(*_, **__):
        raise AssertionError(f"{name} is traced again")

    return traced


def test_chips_share_the_rows(melody, bundle_dir):
    """Four chips: three prompts and a row that fills up, each chip with one; the music of one chip."""
    chips = jax.devices()[2:6]
    several = Melody.load(bundle_dir, chips)
    prompts, seeds, settings = (
        ["loud drums", PROMPT, "flute"],
        (5, 6, 7),
        {"seconds": 0.9, "candidates": 2},
    )
    together = several.generate(prompts, seed=seeds, batch_size=3, **settings)
    for alone, shared in zip(melody.generate(prompts, seed=seeds, **settings), together, strict=True):
        assert (alone.batch, shared.batch) == (3, 4)
        np.testing.assert_array_equal(alone.tokens, shared.tokens)
        assert apart(alone, shared) < 1e-2
    models, made = several.loaded, {}
    made["mulan"] = models.mulan_codes(models.embed_text([*prompts, PROMPT]))
    made["audio"] = models.decode(jnp.ones((4, GEOMETRY.clip_frames, GEOMETRY.latent_channels)))
    for array in made.values():
        assert {(shard.device, shard.data.shape[0]) for shard in array.addressable_shards} == {(c, 1) for c in chips}


def test_prompts_matter(melody):
    first, second = melody.generate([PROMPT, "flute"], seconds=0.4)
    assert not np.array_equal(first.mulan, second.mulan)
    assert not np.array_equal(first.tokens, second.tokens)


def test_of_several_candidates_the_nearest_is_kept(melody):
    """The more there are to choose from, the nearer; each prompt chooses for itself, whatever its batch."""
    prompts, seeds = [PROMPT, "flute"], (5, 6)
    settings = {"seconds": 0.9, "loudness": None}  # embeddings hear how loud music is
    chosen = {n: melody.generate(prompts, seed=seeds, candidates=n, **settings) for n in (2, 3, 4)}
    first = melody.generate(prompts, seed=seeds, **settings)
    assert [piece.similarity for piece in first] == [None, None]
    models, size = melody.loaded, GEOMETRY.clip_samples
    cosines = []
    for row, piece in enumerate(first):
        clips = [models.embed_music(piece.audio[None, at : at + size]) for at in (0, size)]
        cosines.append(float(jnp.mean(jnp.stack(clips) @ models.embed_text([prompts[row]])[0])))
    near = np.array([cosines] + [[piece.similarity for piece in chosen[n]] for n in (2, 3, 4)])
    # similarity is measured before the ends are faded
    assert (np.diff(near, axis=0) >= -5e-3).all() and (near[-1] > near[0] + 1e-3).any()
    (alone,) = melody.generate(["flute"], seed=6, candidates=4, **settings)
    np.testing.assert_array_equal(alone.tokens, chosen[4][1].tokens)
    for row, pieces in enumerate(zip(first, *chosen.values(), strict=True)):  # another piece only where it is nearer
        for i in range(1, 4):
            changed = not np.array_equal(pieces[i].tokens, pieces[i - 1].tokens)
            assert not changed or near[i, row] > near[i - 1, row] - 5e-3
            assert changed or abs(near[i, row] - near[i - 1, row]) < 5e-3


def test_long_music_begins_as_its_first_window(melody):
    """Windows are continued, not mixed: what was made first stays as it is."""
    short = melody.generate(PROMPT, seconds=0.4, loudness=None)
    long = melody.generate(PROMPT, seconds=1.1, loudness=None)
    np.testing.assert_array_equal(short.tokens, long.tokens[:10])
    keep = int(0.2 * 4000)  # the decoder's last frames see what follows
    loudness = np.abs(short.audio[:keep]).max() / np.abs(long.audio[:keep]).max()  # each is scaled by its own peak
    np.testing.assert_allclose(short.audio[:keep], loudness * long.audio[:keep], atol=1e-3)


@pytest.mark.parametrize(
    ("overlap", "windows"),
    [
        (0.25, [(0, 6), (3, 3), (3, 3)]),
        (0.5, [(0, 6), (3, 3), (3, 3)]),
        (0.75, [(0, 6), (4, 2), (4, 2)]),
    ],
)
def test_a_language_model_of_short_windows_sees_no_more_than_they_hold(melody, monkeypatch, overlap, windows):
    """Windows of six tokens: each continues the last three at least, or four, of the one before, under the whole prefix."""
    system = melody.loaded.system
    config = dataclasses.replace(system.lm.config, window=6)
    monkeypatch.setattr(system, "lm", system.lm.clone(config=config))
    calls, draw = [], melody.loaded._write
    monkeypatch.setattr(
        melody.loaded, "_write", lambda *a, **k: calls.append((a[2].shape[1], k["length"])) or draw(*a, **k)
    )
    (piece,) = melody.generate([PROMPT], seconds=0.4, overlap=overlap)
    assert calls == windows and len(piece.tokens) == 10
    monkeypatch.undo()
    (whole,) = melody.generate([PROMPT], seconds=0.4)
    np.testing.assert_array_equal(piece.tokens[:6], whole.tokens[:6])


def test_the_published_continuation_keeps_three_of_four_chunks(melody):
    """Algorithm 2: each further window makes a quarter anew, of latents and of tokens."""
    composer = melody._composer
    settings = with_settings(melody.defaults, {"overlap": 0.75})
    size = GEOMETRY.clip_tokens
    assert composer.window(settings) == composer.sequence(settings) == (size, size - -(-size // 4))
    places = starts(np.ones(2 * size, bool), *composer.window(settings))
    assert set(np.diff(places)[:-1]) == {-(-size // 4)}  # the last one ends with the music


def test_decoding_in_pieces_equals_whole(melody):
    models = melody.loaded
    latents = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 190, 4)), jnp.float32)
    whole = np.asarray(models._decode(models.weights["autoencoder"], latents))
    np.testing.assert_allclose(np.asarray(models.decode(latents)), whole, atol=1e-3)


def test_loud_music_is_scaled_down_and_not_cut_off(melody, monkeypatch):
    inside = slice(40, -40)  # the ends are faded
    decode, seen = melody.loaded.decode, []

    def made(level):
        def decoded(*args):
            audio = level * decode(*args)
            seen.append(float(jnp.abs(audio).max()))
            return audio

        monkeypatch.setattr(melody.loaded, "decode", decoded)
        return melody.generate(PROMPT, seconds=0.4, loudness=None)

    quiet, loud = made(0.1), made(100.0)
    assert seen[1] > 1.0 >= np.abs(loud.audio).max() and seen[0] < 1.0
    np.testing.assert_allclose(loud.audio[inside], quiet.audio[inside] * 1000.0 / seen[1], atol=1e-5)


def test_pieces_come_to_the_loudness_that_was_asked_for(melody):
    for target in (-16.0, -23.0):
        piece = melody.generate(PROMPT, seconds=1.1, loudness=target)
        assert piece.lufs is not None and piece.lufs[1] == pytest.approx(target, abs=1.0)
        assert np.abs(piece.audio).max() < 0.9 and abs(piece.audio[0]) < 0.02
    assert melody.generate(PROMPT, seconds=1.1, loudness=None).lufs is None


def test_music_prompt(melody):
    tone = np.sin(np.arange(1800) * 0.1).astype(np.float32)
    first, again = melody.generate(audio=[tone, tone[:1600]], seed=[3, 3], seconds=0.4)
    assert first.prompt == "" and first.audio.shape == (1600,)
    np.testing.assert_array_equal(first.tokens, again.tokens)  # only the first clip length counts


def test_the_bundles_defaults_hold_where_nothing_is_chosen(melody):
    assert melody.defaults.steps == 3
    assert melody.generate([PROMPT], seconds=0.4)[0].settings.steps == 3
    assert with_settings(melody.defaults, {"steps": 2}).steps == 2


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"prompts": []}, "no prompt"),
        ({"prompts": ["a", "  "]}, "prompt 2 of 2 is empty"),
        ({}, "either sentences"),
        ({"prompts": ["a"], "audio": [np.zeros(3)]}, "either sentences"),
        ({"audio": [np.full(3, np.nan)]}, "finite"),
        ({"prompts": ["a"], "seconds": 0}, "seconds must be"),
        ({"prompts": ["a"], "seconds": 1e6}, "seconds must be"),
        ({"prompts": ["a"], "seconds": float("nan")}, "seconds must be"),
        ({"prompts": ["a"], "steps": 0}, "steps must be"),
        ({"prompts": ["a"], "steps": 2.5}, "type int"),
        ({"prompts": ["a"], "schedule": "cubic"}, "schedule must be"),
        ({"prompts": ["a"], "temperature": -1.0}, "temperature"),
        ({"prompts": ["a"], "top_p": 0.0}, "top_p"),
        ({"prompts": ["a"], "top_k": -1}, "top_k"),
        ({"prompts": ["a"], "colour": 1}, "unknown setting"),
        ({"prompts": ["a"], "seed": [1, 2]}, "2 seeds for 1 prompts"),
        ({"prompts": ["a"], "seed": -1}, "seed"),
        ({"prompts": ["a"], "seed": None}, "seed"),
        ({"prompts": ["a"], "seed": 1.5}, "seed"),
        ({"prompts": ["a"], "window_seconds": float("inf")}, "window_seconds"),
        ({"prompts": ["a", 3]}, "not a text"),
        ({"prompts": ["a", "\u200b"]}, "prompt 2 of 2 is empty"),
        ({"prompts": ["a"], "batch_size": 2.5}, "batch_size"),
        ({"prompts": ["a"], "batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments(melody, arguments, words):
    with pytest.raises(UserError, match=words):
        melody.generate(**arguments)


@pytest.mark.slow
def test_the_shipped_bundle_keeps_its_promise_about_batches():
    """Alone and beside others: the same tokens, and the same sound within 40 dB."""
    shipped = Melody.load(REPOSITORY_BUNDLE)
    prompts = ["a slow waltz for solo violin", "a fast reel", "solo piano"]
    for together in shipped.generate(prompts, seed=(1, 2, 3), seconds=5):
        alone = shipped.generate(together.prompt, seed=together.seed, seconds=5)
        np.testing.assert_array_equal(alone.tokens, together.tokens)
        assert apart(alone, together) < 1e-2


@pytest.mark.slow
def test_pieces_of_the_shipped_bundle_have_the_loudness_of_others():
    shipped = Melody.load(REPOSITORY_BUNDLE)
    for piece in shipped.generate(["a slow waltz for solo violin", "a fast reel", "solo piano"], seed=1):
        assert piece.lufs is not None and piece.lufs[1] == pytest.approx(-16.0, abs=1.0)
