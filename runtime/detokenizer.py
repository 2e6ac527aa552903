"""Turns tokens into text one by one, holding back what is not a whole character yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\ufffd"  # what decoders put where bytes are no character, or not yet
_CONTEXT = 6  # tokens before the answer; a decoder strips a space from the first it sees


class Detokenizer:
    """`decode`: token ids to text. `context`: the prompt, whose end decides how the answer begins."""

    def __init__(self, decode: Callable[[list[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = list(context[-_CONTEXT:])
        self._told = len(self._ids)  # of these ids, how many have been turned into text

    def add(self, token: int) -> str:
        """The text that `token` completes, possibly none."""
        self._ids.append(token)
        piece = self._new()
        if not piece or piece.endswith(_BROKEN):
            return ""
        # Of what was told, the last step stays as context of the next.
        self._ids, self._told = self._ids[self._told :], len(self._ids) - self._told
        return piece

    def flush(self) -> str:
        """What was held back. To be called once, at the end."""
        return self._new()

    def _new(self) -> str:
        told = self._decode(self._ids[: self._told]) if self._told else ""
        return self._decode(self._ids)[len(told) :] if self._ids else ""
