"""How much each key may ask: requests and tokens a minute, and requests at once. Beyond that: 429 with Retry-After."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from ochatctl.serve.config import LimitConfig
from ochatctl.serve.errors import error_response
from ochatctl.serve.logs import RequestRecord, record_of
from ochatctl.serve.protocol import RequestError

_MINUTE_SECONDS = 60


@dataclass(slots=True)
class Bucket:
    """What may still be taken: `per_minute` at most, filled up evenly. Below nothing, it is waited for."""

    per_minute: int
    level: float
    at: float

    def fill(self, now: float) -> None:
        """Add what time has brought."""
        self.level = min(self.per_minute, self.level + (now - self.at) * self.per_minute / _MINUTE_SECONDS)
        self.at = now

    def wait_seconds(self, amount: float) -> float:
        """Give how long it takes until `amount` is there."""
        return max(0.0, amount - self.level) * _MINUTE_SECONDS / self.per_minute


@dataclass(slots=True)
class _Account:
    requests: Bucket | None
    tokens: Bucket | None
    running: dict[str, RequestRecord] = field(default_factory=dict)
    num_begun: int = 0


class Quota:
    """Counts POST requests by the name of their key; without keys all callers share one account.

    Tokens are counted as they are read and drawn, so that a key is in debt as soon as its answers under way have
    used up its minute. A reload of the keys keeps the accounts.
    """

    def __init__(self, app: ASGIApp, *, limits: LimitConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._limits = limits
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._is_on = bool(limits.requests_per_minute or limits.tokens_per_minute or limits.max_concurrent)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_on or scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        record = record_of(scope)
        now = self._clock()
        account = self._account(record.key, now)
        refusal = self._refusal(account, now)
        if refusal is not None:
            record.error = refusal.code or ""
            await error_response(refusal)(scope, receive, send)
            return
        if account.requests is not None:
            account.requests.level -= 1
        account.num_begun += 1
        number = str(account.num_begun)
        account.running[number] = record
        try:
            await self._app(scope, receive, send)
        finally:
            del account.running[number]
            if account.tokens is not None:
                account.tokens.level -= record.num_prompt_tokens + record.num_answer_tokens

    def _account(self, key: str, now: float) -> _Account:
        account = self._accounts.get(key)
        if account is None:
            account = _Account(
                requests=_bucket(self._limits.requests_per_minute, now),
                tokens=_bucket(self._limits.tokens_per_minute, now),
            )
            self._accounts[key] = account
        for bucket in (account.requests, account.tokens):
            if bucket is not None:
                bucket.fill(now)
        return account

    def _refusal(self, account: _Account, now: float) -> RequestError | None:
        if self._limits.max_concurrent and len(account.running) >= self._limits.max_concurrent:
            return _refusal(f"{len(account.running)} requests at once", 1)
        if account.requests is not None and account.requests.level < 1:
            return _refusal(f"{account.requests.per_minute} requests a minute", account.requests.wait_seconds(1))
        if account.tokens is not None:
            due = sum(each.num_prompt_tokens + each.num_answer_tokens for each in account.running.values())
            if account.tokens.level - due < 1:
                return _refusal(f"{account.tokens.per_minute} tokens a minute", account.tokens.wait_seconds(due + 1))
        return None


def _bucket(per_minute: int, now: float) -> Bucket | None:
    return Bucket(per_minute=per_minute, level=per_minute, at=now) if per_minute else None


def _refusal(what: str, seconds: float) -> RequestError:
    return RequestError(
        429,
        f"this key's limit is reached: {what}",
        code="rate_limit_exceeded",
        headers=(("Retry-After", str(max(1, math.ceil(seconds)))),),
    )
