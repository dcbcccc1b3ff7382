import functools

import numpy as np
import pytest
import tensorflow as tf

from data_pipelines import preprocessors
from data_pipelines.text_vocabulary import TextVocabulary
from melody_jax.errors import UserError
from melody_jax.mulan.tokenizer import TextTokenizer


def _run(preprocessor, examples, **lengths):
    """The preprocessed `examples`, each with the seed (7, its number)."""
    seeds = [[7, number] for number in range(len(examples))]
    columns = {key: [example[key] for example in examples] for key in examples[0]}
    uneven = {"captions", "text"} & set(columns)
    ragged = {
        key: tf.ragged.constant(value, ragged_rank=1) if key in uneven else np.stack(value)
        for key, value in columns.items()
    }
    dataset = tf.data.Dataset.from_tensor_slices({**ragged, "seed": np.array(seeds, np.int64)})
    dataset = dataset.map(lambda e: {**e, **{key: tf.convert_to_tensor(e[key]) for key in uneven}})
    dataset = preprocessor(dataset, sequence_length=lengths) if lengths else preprocessor(dataset)
    return list(dataset.as_numpy_iterator())


def test_crop_audio_is_a_window_and_every_window_comes():
    audio = np.arange(100, 110, dtype=np.int16)
    found = _run(preprocessors.crop_audio, [{"audio": audio}] * 200, audio=8)
    starts = [int(example["audio"][0]) - 100 for example in found]
    assert set(starts) == {0, 1, 2}
    for start, example in zip(starts, found):
        np.testing.assert_array_equal(example["audio"], audio[start : start + 8])
        assert example["audio"].dtype == np.int16


def test_crop_of_the_whole_clip_is_the_clip():
    audio = np.arange(10, dtype=np.int16)
    np.testing.assert_array_equal(_run(preprocessors.crop_audio, [{"audio": audio}], audio=10)[0]["audio"], audio)


def test_too_long_a_crop_is_refused():
    with pytest.raises(UserError, match="wants 11 of each clip's audio, but the data set holds only 10"):
        _run(preprocessors.crop_audio, [{"audio": np.zeros(10, np.int16)}], audio=11)


def test_crop_aligned_keeps_tokens_above_their_frames():
    semantic = np.arange(5, dtype=np.int32)
    latents = np.repeat(np.arange(5, dtype=np.float16), 3)[:, None] * np.ones(2, np.float16)  # frame -> its token
    crop = functools.partial(preprocessors.crop_aligned, frames_per_token=3)
    found = _run(crop, [{"semantic": semantic, "latents": latents}] * 100, semantic=3, latents=9)
    assert {int(example["semantic"][0]) for example in found} == {0, 1, 2}
    for example in found:
        assert example["latents"].shape == (9, 2)
        np.testing.assert_array_equal(np.repeat(example["semantic"], 3), example["latents"][:, 0])


@pytest.mark.parametrize(
    ("lengths", "sentence"),
    [({"semantic": 3, "latents": 8}, "cover 9 latent frames"), ({"semantic": 6, "latents": 18}, "holds only 5")],
)
def test_crop_aligned_refuses_lengths_that_do_not_fit(lengths, sentence):
    crop = functools.partial(preprocessors.crop_aligned, frames_per_token=3)
    with pytest.raises(UserError, match=sentence):
        _run(crop, [{"semantic": np.zeros(5, np.int32), "latents": np.zeros((15, 2), np.float16)}], **lengths)


def test_crop_semantic():
    semantic = np.arange(10, 15, dtype=np.int32)
    found = _run(preprocessors.crop_semantic, [{"semantic": semantic}] * 60, semantic=4)
    assert {tuple(example["semantic"]) for example in found} == {(10, 11, 12, 13), (11, 12, 13, 14)}


def test_every_caption_comes_and_only_its_own():
    examples = [{"captions": ["a", "b", "c"]}] * 100 + [{"captions": ["only"]}]
    captions = [example["caption"].decode() for example in _run(preprocessors.choose_caption, examples)]
    assert set(captions[:-1]) == {"a", "b", "c"} and captions[-1] == "only"


def test_text_is_the_codes_of_one_caption():
    examples = [{"text": [[1, 2], [3, 4], [5, 6]]}] * 100 + [{"text": [[7, 8]]}]
    texts = [tuple(example["text"].tolist()) for example in _run(preprocessors.choose_text, examples)]
    assert set(texts[:-1]) == {(1, 2), (3, 4), (5, 6)} and texts[-1] == (7, 8)


def test_choices_follow_from_the_seed_alone():
    examples = [{"audio": np.arange(1000, dtype=np.int16)}] * 20
    first, second = (_run(preprocessors.crop_audio, examples, audio=10) for _ in range(2))
    assert [e["audio"][0] for e in first] == [e["audio"][0] for e in second]
    assert len({int(e["audio"][0]) for e in first}) > 15


def test_tokens_are_the_tokenizers():
    texts = ["a slow waltz for solo violin in D minor", "reel"]
    tokenize = functools.partial(preprocessors.tokenize_caption, vocabulary=TextVocabulary())
    dataset = tf.data.Dataset.from_tensor_slices({"caption": texts})
    found = [e["text_tokens"] for e in tokenize(dataset, sequence_length={"text_tokens": 6}).as_numpy_iterator()]
    np.testing.assert_array_equal(found, TextTokenizer().encode(texts, 6))
    assert found[0].dtype == np.int32 and found[1][-1] == 0


def test_the_vocabulary_is_a_seqio_vocabulary():
    vocabulary = TextVocabulary()
    ids = vocabulary.encode("a slow waltz")
    assert ids == vocabulary.encode_tf(tf.constant("a slow waltz")).numpy().tolist()
    assert 0 not in ids and vocabulary.vocab_size > max(ids)
