"""Join the bytes of tokens to text: characters cut between tokens, and text that ends an answer."""

from __future__ import annotations

import codecs

__all__ = ["TextJoiner"]


class TextJoiner:
    """Turn the bytes of one token after the other into text.

    A character that lies across tokens comes out with the last of them; one that is never completed
    does not come out at all. Bytes that are not UTF-8 become U+FFFD.

    Args:
        stop: text that ends the answer and is not part of it; None when tokens do that.

    Attributes:
        stopped: whether `stop` was met.
    """

    def __init__(self, stop: str | None = None) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stop = stop
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """Give the text that is certain after these bytes; often empty."""
        text = self._decode(data)
        if self._stop is None or self.stopped:
            return "" if self.stopped else text
        text = self._held + text
        before, found, _ = text.partition(self._stop)
        if found:
            self.stopped, self._held = True, ""
            return before
        keep = next(
            (
                n
                for n in range(min(len(self._stop) - 1, len(text)), 0, -1)
                if text.endswith(self._stop[:n])
            ),
            0,
        )
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """Give the text that was held back because it might have been the beginning of `stop`."""
        held, self._held = self._held, ""
        return held
