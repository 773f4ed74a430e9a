"""The condition of a packed row, seen in its ids: the file has no column for it.

in: a row's ids, out: `GPT4`, `GPT3`, ...
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import Family
from ochatctl.chat.tokenizer import Tokenizer

# What OpenChat's own files may hold, which name their conditions nowhere.
_OPENCHAT_CONDITIONS = ("GPT4", "GPT3")
_CONDITION_FIELD = "{condition}"


class RowConditions:
    """Tells the condition of a row by the ids of the template's own texts: at its start, or after an end of turn."""

    def __init__(self, family: Family, tokenizer: Tokenizer, named: Iterable[str]) -> None:
        self._template = template = family.template
        self.eot_id = template.eot_id(tokenizer)
        self._num_bos = len(tokenizer.bos_ids)
        self._openings: list[tuple[str, npt.NDArray[np.int32]]] = []
        # Those that can be told apart.
        self.names: tuple[str, ...] = ()
        if not template.takes_condition:
            return
        known = (template.inference_condition, *template.conditions, *named, *_OPENCHAT_CONDITIONS)
        for condition in dict.fromkeys(name for name in known if name):
            if template.conditions and condition not in template.conditions:
                continue
            self._openings += [(condition, np.array(ids, dtype=np.int32)) for ids in self._texts(condition, tokenizer)]
        self.names = tuple(dict.fromkeys(name for name, _ in self._openings))

    def _texts(self, condition: str, tokenizer: Tokenizer) -> Iterator[list[int]]:
        """Give the ids of the template's own texts that tell a condition, as `encode` makes them."""
        template = self._template
        prefixes = {"user": template.user_prefix, "assistant": template.assistant_prefix}
        for role, prefix in prefixes.items():
            empty = Conversation(messages=(Message(role=role, content=""),), condition=condition)
            ids = template.encode(empty, tokenizer).token_ids[self._num_bos : -1]
            if template.condition_segment:
                # It ends its own turn, and a system message may stand between it and the first prefix.
                yield ids[: ids.index(self.eot_id) + 1]
            elif _CONDITION_FIELD in prefix:
                yield ids

    def of(self, ids: npt.NDArray[np.int32]) -> str:
        """Give the condition of a row; empty where it has none, such as a plain text."""
        if not self._openings:
            return ""
        if found := self._at(ids, self._num_bos):
            return found
        for start in np.flatnonzero(ids == self.eot_id):
            if found := self._at(ids, int(start) + 1):
                return found
        return ""

    def _at(self, ids: npt.NDArray[np.int32], start: int) -> str:
        for condition, opening in self._openings:
            if np.array_equal(ids[start : start + len(opening)], opening):
                return condition
        return ""
