"""Text to WordPiece ids."""

import os
import pathlib

import numpy as np
import tokenizers

from melody_jax.errors import UserError
from melody_jax.mulan import minilm


class TextTokenizer:
    """BERT's WordPiece, uncased, as the `tokenizers` library reads it from a tokenizer.json.

    Args:
      path: a tokenizer.json; None takes the one in the package of the pretrained text tower (`minilm.PACKAGE`).

    Raises:
      UserError: the file is missing or no tokenizer.
    """

    def __init__(self, path: str | os.PathLike | None = None):
        file = pathlib.Path(path) if path is not None else minilm.directory() / "tokenizer.json"
        if not file.is_file():
            raise UserError(f"tokenizer {file}: no such file")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(f"tokenizer {file}: not a tokenizer.json ({error})") from None

    @property
    def vocabulary(self) -> int:
        """V, number of ids."""
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: list[str], length: int) -> np.ndarray:
        """int32 [B, length]: [CLS] words [SEP], padded with 0; what does not fit is cut before [SEP]."""
        self._tokenizer.enable_truncation(max_length=length)
        self._tokenizer.enable_padding(length=length, pad_id=0)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        return np.asarray(ids, np.int32).reshape(len(texts), length)
