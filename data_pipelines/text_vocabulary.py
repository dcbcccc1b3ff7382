"""MuLan's WordPiece tokenizer as a seqio vocabulary."""

import functools
import os
import threading
from collections.abc import Iterable

import numpy as np
import seqio
import tensorflow as tf

from melody_jax.mulan.tokenizer import TextTokenizer

_LONGEST = 512  # positions of BERT's text tower


class TextVocabulary(seqio.Vocabulary):
    """Captions to ids, with [CLS] and [SEP] as the text tower expects them; 0 is padding.

    Args:
        path: a tokenizer.json; None takes the pretrained text tower's. It is read when it is first used.
    """

    def __init__(self, path: str | os.PathLike | None = None):
        super().__init__()
        self._path = path
        self._lock = (
            threading.Lock()
        )  # `encode` changes the length in the tokenizer, and tf.data calls it from many threads

    @functools.cached_property
    def tokenizer(self) -> TextTokenizer:
        return TextTokenizer(self._path)

    @property
    def eos_id(self) -> int | None:
        return None

    @property
    def unk_id(self) -> int | None:
        return None

    @property
    def bos_id(self) -> int | None:
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.vocabulary

    def padded(self, text: str, length: int) -> np.ndarray:
        """int32 [length]."""
        with self._lock:
            return self.tokenizer.encode([text], length)[0]

    def padded_tf(self, text: tf.Tensor, length: int) -> tf.Tensor:
        """int32 [length] of a string scalar."""

        @tf.autograph.experimental.do_not_convert  # plain Python inside, whatever decorates it
        def encode(text: bytes | np.ndarray) -> np.ndarray:  # bytes in a graph, an array of one object outside
            return self.padded(np.asarray(text).item().decode(), length)

        ids = tf.numpy_function(encode, [text], tf.int32, stateful=False)
        return tf.ensure_shape(ids, [length])

    def _encode(self, s: str) -> list[int]:
        ids = self.padded(s, _LONGEST)
        return ids[ids != 0].tolist()

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        ids = self.padded_tf(s, _LONGEST)
        return ids[ids != 0]

    def _decode(self, ids: Iterable[int]) -> str:
        raise NotImplementedError("captions are conditions; nothing decodes them")

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError("captions are conditions; nothing decodes them")
