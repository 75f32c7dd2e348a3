"""Turn text into a loaded model's tokens and tokens back into text."""

from __future__ import annotations

import codecs
import ctypes
import re
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.thoughts import TOKENS

__all__ = ["NativeVocabulary", "StopFilter", "detokenizer", "is_long"]

CONTROL, USER_DEFINED, RSTRIP = 1 << 3, 1 << 4, 1 << 8
"""`LLAMA_TOKEN_ATTR_*` of llama.h."""
EXACT_COUNT_BYTES = 256 * 1024
"""Longer text is estimated: tokenising a megabyte takes up to a second."""
SLICE_LENGTH = 4096
LONG_RUN = re.compile(rf"\S{{{SLICE_LENGTH}}}|\s{{{SLICE_LENGTH}}}")
"""Text that is tokenised in slices. Many of llama.cpp's pre-tokenisers use `std::regex`, which goes
one call deeper for each character of a word and so overflows the stack on, say, base64."""
SAMPLES, SAMPLE_LENGTH = 16, 16 * 1024


class NativeVocabulary:
    """The vocabulary of a model in memory.

    `count` may be called from any thread, the rest on the model's own.
    """

    def __init__(self, llama: ModuleType, model: Any) -> None:
        self._llama = llama
        self._model = model
        self._vocab: Any = llama.llama_model_get_vocab(model)
        self._lock = threading.Lock()
        self._piece = ctypes.create_string_buffer(256)

    @property
    def native(self) -> Any:
        """The pointer llama.cpp's functions want."""
        return self._vocab

    @property
    def chat_template(self) -> str | None:
        """The chat template (Jinja) the file brings, if it does."""
        text = self._llama.llama_model_chat_template(self._model, None)
        return text.decode("utf-8", "replace") if text else None

    @property
    def bos(self) -> int | None:
        """The token a text begins with, if there is one."""
        token = int(self._llama.llama_vocab_bos(self._vocab))
        return token if token >= 0 else None

    @property
    def eos(self) -> int | None:
        """The token a text ends with, if there is one."""
        token = int(self._llama.llama_vocab_eos(self._vocab))
        return token if token >= 0 else None

    @property
    def adds_bos(self) -> bool:
        """Whether the model wants `bos` before every prompt."""
        return bool(self._llama.llama_vocab_get_add_bos(self._vocab))

    def is_control(self, token: int) -> bool:
        """Whether a token is a control token, such as the end of a turn."""
        return bool(self._llama.llama_vocab_get_attr(self._vocab, token) & CONTROL)

    def is_user_defined(self, token: int) -> bool:
        """Whether a token was added by hand: llama.cpp finds these in any text."""
        return bool(self._llama.llama_vocab_get_attr(self._vocab, token) & USER_DEFINED)

    def takes_blanks(self, token: int) -> bool:
        """Whether a token swallows the blanks after it, as Phi-3's do."""
        return bool(self._llama.llama_vocab_get_attr(self._vocab, token) & RSTRIP)

    def ends_answer(self, token: int) -> bool:
        """Whether a token ends a turn or a text."""
        return bool(self._llama.llama_vocab_is_eog(self._vocab, token))

    def token_text(self, token: int) -> str:
        """Return a token as it is written in the vocabulary."""
        text: bytes = self._llama.llama_vocab_get_text(self._vocab, token) or b""
        return text.decode("utf-8", "replace")

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes a token stands for: possibly part of a character, possibly none.

        A control token has none, unless it marks a model's thoughts (Magistral's `[THINK]`).
        """
        to_piece = self._llama.llama_token_to_piece
        length = to_piece(self._vocab, token, self._piece, len(self._piece), 0, False)
        if length < 0:
            self._piece = ctypes.create_string_buffer(-length)
            length = to_piece(self._vocab, token, self._piece, -length, 0, False)
        if length == 0 and self.is_control(token) and (text := self.token_text(token)) in TOKENS:
            return text.encode()
        return self._piece.raw[:length]

    def tokenize(self, text: str, *, control: bool = False) -> list[int]:
        """Turn text into tokens.

        Args:
            text: any text; surrogates become question marks.
            control: whether text that looks like a control token becomes one. Never for text that
                comes from outside.
        """
        if len(text) > SLICE_LENGTH and LONG_RUN.search(text):
            slices = (text[at : at + SLICE_LENGTH] for at in range(0, len(text), SLICE_LENGTH))
            return [token for part in slices for token in self._tokenize(part, control)]
        return self._tokenize(text, control)

    def _tokenize(self, text: str, control: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        room = len(data) + 16  # no token is shorter than a byte; some models put a space before
        tokens = (self._llama.llama_token * room)()
        count: int = self._llama.llama_tokenize(
            self._vocab, data, len(data), tokens, room, False, control
        )
        if count < 0:
            raise FallbackTriggerError(
                ErrorKind.MODEL_UNAVAILABLE, f"llama.cpp cannot tokenise {len(data)} bytes of text"
            )
        return list(tokens[:count])

    def count(self, text: str) -> int:
        """Count the tokens of a text; beyond 256 KiB, estimate from its densest sample.

        Raises:
            FallbackTriggerError: the model has been closed.
        """
        with self._lock:
            if self._vocab is None:
                raise FallbackTriggerError(ErrorKind.MODEL_UNAVAILABLE, "the model has been closed")
            if is_long(text):
                step = len(text) // SAMPLES
                samples = (text[at : at + SAMPLE_LENGTH] for at in range(0, step * SAMPLES, step))
                densest = max(len(self.tokenize(sample)) / len(sample) for sample in samples)
                return int(densest * len(text)) + 1
            return len(self.tokenize(text))

    def close(self) -> None:
        """Let go of the model, once nobody counts."""
        with self._lock:
            self._vocab = None


def is_long(text: str) -> bool:
    """Whether a text is too long to be tokenised in passing."""
    if len(text) <= EXACT_COUNT_BYTES // 4:  # a character has four bytes at most
        return False
    return len(text) > EXACT_COUNT_BYTES or len(text.encode("utf-8", "replace")) > EXACT_COUNT_BYTES


def detokenizer() -> Callable[[bytes], str]:
    """Return a function that takes the bytes of one token after the other and returns their text.

    A character that lies across tokens comes out with the last of them; one that is never completed
    does not come out at all. Bytes that are not UTF-8 become U+FFFD.
    """
    return codecs.getincrementaldecoder("utf-8")("replace").decode


class StopFilter:
    """An answer's text up to where one of some texts is met, however it is cut into pieces.

    Args:
        stop: texts that end the answer and are not part of it.

    Attributes:
        is_met: whether one of them was met.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = stop
        self.is_met = False
        self._held = ""

    def feed(self, text: str) -> str:
        """Return what is certain of the text with one more piece; often empty."""
        if not self.stop or self.is_met:
            return "" if self.is_met else text
        text = self._held + text
        met = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        if met:
            self.is_met, self._held = True, ""
            return text[: min(met)]
        keep = max(_overlap(text, stop) for stop in self.stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """Return the text that was held back as the beginning of a stop text, perhaps."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at a text's end may be the beginning of a stop text."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
