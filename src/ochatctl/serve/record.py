"""What is known of a request while it is answered: who asks, how far it has come, and how it ends."""

import time
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from ochatctl.engine.base import Delta
from ochatctl.serve.bucket import Bucket


@dataclass(kw_only=True, slots=True)
class RequestRecord:
    """What is known of a request; handlers fill in their part. Shared through the ASGI scope."""

    request_id: str
    endpoint: str
    # The name of the caller's key; empty where none is needed.
    key: str = ""
    started: float = field(default_factory=time.monotonic)
    status: int = 0
    aborted: bool = False
    stream: bool | None = None
    num_prompt_tokens: int = 0
    num_answer_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    error: str = ""
    warning: str = ""
    first_token_seconds: float | None = None
    # What its key may still have read and drawn; None: as much as it likes.
    tokens_left: Bucket | None = None
    # A struct of `serve/protocol.py`, for the log's levels.
    request: Any = None
    # The texts of each choice; None: they are not to be kept.
    answers: dict[int, list[str]] | None = None

    def note_prompt(self, num_tokens: int) -> None:
        """Note what was read."""
        self.num_prompt_tokens = num_tokens
        if self.tokens_left is not None:
            self.tokens_left.level -= num_tokens

    def note(self, index: int, delta: Delta) -> None:
        """Note what a choice has grown by."""
        if self.first_token_seconds is None:
            self.first_token_seconds = time.monotonic() - self.started
        num_tokens = len(delta.token_ids)
        self.num_answer_tokens += num_tokens
        if self.tokens_left is not None:
            self.tokens_left.level -= num_tokens
        if self.answers is not None:
            self.answers.setdefault(index, []).append(delta.text)
        if delta.finish_reason is not None:
            self.finish_reasons.append(delta.finish_reason)


def record_of(scope: Scope) -> RequestRecord:
    """Give the record of a request."""
    record: RequestRecord = scope["ochatctl.record"]
    return record
