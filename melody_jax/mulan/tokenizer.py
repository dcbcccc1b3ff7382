"""Text to WordPiece ids."""

import os

import numpy as np
import tokenizers

from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.files import read_text
from melody_jax.mulan import minilm
from melody_jax.shapes import Int

LONGEST = 10_000
"""Characters that are looked at: far more than any model reads, and a bound on the work of one text."""


class TextTokenizer:
    """BERT's WordPiece, uncased, as the `tokenizers` library reads it from a tokenizer.json.

    All that a text says is text: "[SEP]" in it is a word in brackets, not the token that ends a sentence.

    Args:
      path: a tokenizer.json; None takes the one in the package of the pretrained text tower (`minilm.PACKAGE`).

    Raises:
      UserError: the file is missing or no tokenizer.
    """

    def __init__(self, path: str | os.PathLike | None = None):
        file = storage.path(path) if path is not None else minilm.directory() / "tokenizer.json"
        if not file.is_file():
            raise UserError(f"tokenizer {file}: no such file")
        text = read_text(file)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(f"tokenizer {file}: not a tokenizer.json ({error})") from None
        self._tokenizer.encode_special_tokens = True

    @property
    def vocabulary(self) -> int:
        """V, number of ids."""
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: list[str], length: int) -> Int[np.ndarray, "B W"]:
        """int32 [B, length]: [CLS] words [SEP], padded with 0; what does not fit is cut before [SEP]."""
        self._tokenizer.enable_truncation(max_length=length)
        self._tokenizer.enable_padding(length=length, pad_id=0)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch([_readable(text) for text in texts])]
        return np.asarray(ids, np.int32).reshape(len(texts), length)

    def kept(self, text: str, length: int) -> str | None:
        """The beginning of a text that `encode` keeps; None where it keeps all."""
        readable, encoding = self._whole(text)
        if len(encoding.ids) <= length and len(text) <= LONGEST:
            return None
        last = encoding.offsets[min(length, len(encoding.ids)) - 2][1]  # [SEP] stands behind it
        return readable[:last]

    def unknown(self, text: str) -> list[str]:
        """The words and signs of a text that the vocabulary lacks, in their order; all are read as one and the same token."""
        (readable, encoding), token = self._whole(text), getattr(self._tokenizer.model, "unk_token", None)
        return [readable[slice(*place)] for place, word in zip(encoding.offsets, encoding.tokens) if word == token]

    def _whole(self, text: str) -> tuple[str, tokenizers.Encoding]:
        """(the text as it is read, all its tokens: not cut, not padded)."""
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        readable = _readable(text)
        return readable, self._tokenizer.encode(readable)


def _readable(text: str) -> str:
    """A bounded text without lone surrogates, which have no bytes."""
    return text[:LONGEST].encode("utf-8", "replace").decode()
