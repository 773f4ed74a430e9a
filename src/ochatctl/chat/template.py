"""The one function that turns a conversation into token ids, and the Jinja derived from the same strings.

in: Conversation, out: Encoded. The layout, from OpenChat 3.2.2:

    [bos]                          weight 0   what the tokenizer itself puts before an empty text
    [condition segment][EOT]       weight 0   families that have one
    [system prefix][system][EOT]   weight 0   when there is a system message
    each message:
        [role prefix]              weight 0   begins with the text that follows an EOT, if the family has one
        [content][EOT]             weight w   the EOT is supervised too
    inference: ends after an assistant prefix, or after the content of the assistant message to be continued

Every piece is encoded by itself, with the tokenizer's own dummy prefix; special tokens are never parsed out of text.
A plain text to learn whole (`encode_document`) is [bos] at weight 0 and the text at weight 1.
"""

import json
import re
from dataclasses import dataclass, field

from ochatctl.chat.conversation import Conversation
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.errors import ConfigError, DataError

_CONDITION = "{condition}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnSpan:
    """Where a message stands in the ids: `start` is its role prefix, `end` comes after its end-of-turn token."""

    start: int
    content_start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A conversation as the model sees it: one loss weight a token.

    `turns` says where each message stands, so that nobody who splits or weighs it needs to encode a part again.
    """

    token_ids: list[int]
    loss_weights: list[float]
    turns: list[TurnSpan] = field(default_factory=list, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatTemplate:
    """A family's conversation layout, as strings only.

    `{condition}` in a prefix stands for the conversation's condition. `tags` are the special tokens that the prefixes
    hold: each goes in by id where the tokenizer holds it as one token, else as text.
    """

    user_prefix: str
    assistant_prefix: str
    eot: str
    # None: the family has no system role.
    system_prefix: str | None = None
    condition_segment: str = ""
    inference_condition: str = ""
    # Empty: any condition.
    conditions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    after_eot: str = ""

    @property
    def control_strings(self) -> tuple[str, ...]:
        """The strings that this template inserts by id, and that no text may spell."""
        return (self.eot, *self.tags)

    @property
    def takes_condition(self) -> bool:
        """Whether a condition changes what the model sees."""
        return any(_CONDITION in text for text in (self.user_prefix, self.assistant_prefix, self.condition_segment))

    def check_condition(self, condition: str) -> None:
        """Refuse a condition that the family was never trained to take.

        Raises:
            DataError: names the allowed ones.
        """
        if self.conditions and condition and condition not in self.conditions:
            allowed = ", ".join(f"`{name}`" for name in self.conditions)
            raise DataError(f"condition `{condition}` is not one of {allowed}")

    def encode(self, conversation: Conversation, tokenizer: Tokenizer, inference: bool = False) -> Encoded:
        """Give the token ids of a conversation and the loss weight of each.

        Guarantees: no text in `conversation` yields a control id, whatever it spells; an inference prompt is a prefix
        of the training encoding of the same conversation with its answer.

        Raises:
            DataError: a condition, system message or character that cannot be encoded.
            ConfigError: the tokenizer has no end-of-turn token.

        Source: OpenChat 3.2.2, `ModelConfig.generate_conversation_template`; 3.6.1, `ConversationTemplate`.
        """
        self.check_condition(conversation.condition)
        if conversation.system and self.system_prefix is None:
            raise DataError("a system message is given, and this family has no system role")
        condition = conversation.condition or self.inference_condition
        piece = _Pieces(self, tokenizer)
        piece.add(tokenizer.bos_ids, 0.0)
        if self.condition_segment:
            piece.prefix(self.condition_segment, condition)
            piece.end_turn(0.0)
        if conversation.system:
            piece.prefix(self.system_prefix or "", condition)
            piece.add(tokenizer.encode_text(conversation.system), 0.0)
            piece.end_turn(0.0)
        last = len(conversation.messages) - 1
        for index, message in enumerate(conversation.messages):
            start = len(piece.encoded.token_ids)
            piece.prefix(self._role_prefix(message.role), condition)
            content_start = len(piece.encoded.token_ids)
            piece.add(tokenizer.encode_text(message.content), message.loss_weight)
            if inference and index == last and message.role == "assistant":
                return piece.encoded
            piece.end_turn(message.loss_weight)
            end = len(piece.encoded.token_ids)
            piece.encoded.turns.append(TurnSpan(start=start, content_start=content_start, end=end))
        if inference:
            piece.prefix(self.assistant_prefix, condition)
        return piece.encoded

    def eot_id(self, tokenizer: Tokenizer) -> int:
        """Give the id of the end-of-turn token.

        Raises:
            ConfigError: the tokenizer does not hold it as one token.
        """
        token_id = tokenizer.token_id(self.eot)
        if token_id is None:
            raise ConfigError(
                f"the tokenizer has no end-of-turn token `{self.eot}`",
                hint="ochatctl add-eot MODEL --out DIR --family F",
            )
        return token_id

    def to_jinja(self, dummy_prefix: bool, bos: str = "") -> str:
        """Give a Hugging Face chat template that renders this layout.

        With `dummy_prefix`, a space stands between a text prefix and the content, as the tokenizer puts one before each
        piece. For text without special-token strings its ids equal `encode`'s whenever the tokenizer encodes
        prefix + content as it encodes the two apart; Jinja cannot do better.
        """
        condition = f"{{%- set cond = (condition | default({_quote(self.inference_condition)}, true)) | trim -%}}"
        out = [condition] if self.takes_condition else []
        if bos:
            out.append(_emit(bos))
        if self.condition_segment:
            out.append(self._jinja_prefix(self.condition_segment, after_eot=False) + _emit(self.eot))
        out.append("{%- for message in messages -%}")
        after = _quote(self.after_eot)
        joint = f"{{{{- {after} if {'true' if self.condition_segment else 'not loop.first'} else '' -}}}}"
        if self.after_eot:
            out.append(joint)
        branches = {"user": self.user_prefix, "assistant": self.assistant_prefix}
        if self.system_prefix is not None:
            branches["system"] = self.system_prefix
        for number, (role, prefix) in enumerate(branches.items()):
            keyword = "if" if number == 0 else "elif"
            first = " and loop.first" if role == "system" else ""
            out.append(f"{{%- {keyword} message['role'] == '{role}'{first} -%}}")
            out.append(self._jinja_prefix(prefix, after_eot=False))
            if dummy_prefix and prefix and not prefix.endswith(self.tags or ("\0",)):
                out.append(_emit(" "))
        out.append("{%- else -%}{{- raise_exception('role ' ~ message['role'] ~ ' cannot stand here') -}}{%- endif -%}")
        out.append("{{- message['content'] -}}" + _emit(self.eot) + "{%- endfor -%}")
        out.append("{%- if add_generation_prompt -%}")
        out.append(self._jinja_prefix(self.assistant_prefix, after_eot=True) + "{%- endif -%}")
        return "".join(out)

    def _role_prefix(self, role: str) -> str:
        return self.user_prefix if role == "user" else self.assistant_prefix

    def _jinja_prefix(self, prefix: str, *, after_eot: bool) -> str:
        text = (self.after_eot if after_eot else "") + prefix
        if _CONDITION not in text:
            return _emit(text) if text else ""
        before, _, after = text.partition(_CONDITION)
        spaced = f"(cond ~ {_quote(after)}) if cond else {_quote(after.lstrip())}"
        return f"{{{{- {_quote(before)} ~ ({spaced}) -}}}}"


def encode_document(text: str, tokenizer: Tokenizer, *, bos: bool = True) -> Encoded:
    """Give the token ids of a plain text, every one supervised but the first, which nothing predicts.

    No end-of-turn token follows: it ends turns, a text has none, and a base model's own document separator is not
    known for every tokenizer. Texts do not meet in a batch, so they need no separator either.

    Guarantees: the text yields no control id, whatever it spells.

    Raises:
        DataError: a character that cannot be encoded.
    """
    leading = tokenizer.bos_ids if bos else ()
    token_ids = [*leading, *tokenizer.encode_text(text)]
    num_context = min(max(1, len(leading)), len(token_ids))
    return Encoded(token_ids=token_ids, loss_weights=[0.0] * num_context + [1.0] * (len(token_ids) - num_context))


@dataclass(slots=True)
class _Pieces:
    """Ids and weights that grow together, so that they cannot differ in length."""

    template: ChatTemplate
    tokenizer: Tokenizer
    encoded: Encoded = field(default_factory=lambda: Encoded(token_ids=[], loss_weights=[]))
    after_turn: bool = False

    def add(self, token_ids: list[int] | tuple[int, ...], weight: float) -> None:
        self.encoded.token_ids.extend(token_ids)
        self.encoded.loss_weights.extend([weight] * len(token_ids))

    def end_turn(self, weight: float) -> None:
        self.add([self.template.eot_id(self.tokenizer)], weight)
        self.after_turn = True

    def prefix(self, text: str, condition: str) -> None:
        condition = condition.strip()
        if not condition:
            text = text.replace(_CONDITION + " ", "")
        if self.after_turn:
            text = self.template.after_eot + text
        # The template's own strings are split at its tags before the condition goes in, which therefore is only text.
        literal = ""
        for part in _split_at(text, self.template.tags):
            token_id = self.tokenizer.token_id(part) if part in self.template.tags else None
            if token_id is None:
                literal += part.replace(_CONDITION, condition)
            else:
                self._literal(literal)
                self.add([token_id], 0.0)
                literal = ""
        self._literal(literal)

    def _literal(self, text: str) -> None:
        if text:
            self.add(self.tokenizer.encode_text(text), 0.0)


def _split_at(text: str, tags: tuple[str, ...]) -> list[str]:
    if not tags:
        return [text]
    return [part for part in re.split("(" + "|".join(map(re.escape, tags)) + ")", text) if part]


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _emit(text: str) -> str:
    return f"{{{{- {_quote(text)} -}}}}"
