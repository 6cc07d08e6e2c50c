"""Text from tokens as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]
HALF_A_CHARACTER = "\ufffd"


class TextStream:
    """The text of one completion, piece by piece.

        pieces = TextStream(tokenizer.decode, stop_strings)
        for token in ...:
            print(pieces.push(token), end="")      # safe to show: never taken back
            if pieces.stopped: break
        print(pieces.finish(), end="")

    A token's text may depend on its neighbours (a character of several tokens, a space that a word carries), so each
    step decodes the last few tokens twice, with the new one and without, and takes the difference. What could still
    become a stop string is held back until it cannot. `text` is all that was given out.
    """

    def __init__(self, decode: Decode, stop_strings: Sequence[str] = ()) -> None:
        self.decode, self.stop_strings = decode, tuple(stop_strings)
        self.ids: list[int] = []
        self.text = ""
        self.stopped: str | None = None
        """The stop string that came; `text` ends before it."""
        self._context = self._read = 0  # tokens [context:read] are decoded again for their effect on what follows
        self._held = ""  # decoded, and perhaps the beginning of a stop string

    def push(self, token: int) -> str:
        """What may be shown now; empty after a stop string."""
        if self.stopped is not None:
            return ""
        self.ids.append(token)
        return self._release(self._decoded(is_last=False), is_last=False)

    def finish(self) -> str:
        """The rest, half a character included: nothing more will come."""
        return "" if self.stopped is not None else self._release(self._decoded(is_last=True), is_last=True)

    def _decoded(self, *, is_last: bool) -> str:
        before = self.decode(self.ids[self._context : self._read])
        now = self.decode(self.ids[self._context :])
        if len(now) <= len(before) or (now.endswith(HALF_A_CHARACTER) and not is_last):
            return ""
        self._context, self._read = self._read, len(self.ids)
        return now[len(before) :]

    def _release(self, new: str, *, is_last: bool) -> str:
        waiting = self._held + new
        found = [(at, stop) for stop in self.stop_strings if (at := waiting.find(stop)) >= 0]
        if found:
            at, self.stopped = min(found)
            shown, self._held = waiting[:at], ""
        else:
            keep = 0 if is_last else max((_overlap(waiting, stop) for stop in self.stop_strings), default=0)
            shown, self._held = waiting[: len(waiting) - keep], waiting[len(waiting) - keep :]
        self.text += shown
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
