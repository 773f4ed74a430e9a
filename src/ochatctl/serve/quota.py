"""How much each key may ask: requests and tokens a minute, and requests at once. Beyond that: 429 with Retry-After."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from ochatctl.serve.bucket import Bucket
from ochatctl.serve.config import LimitConfig
from ochatctl.serve.protocol import RequestError
from ochatctl.serve.record import RequestRecord


@dataclass(slots=True)
class Account:
    """What a key may still ask for, and how many of its requests are under way."""

    requests: Bucket | None
    tokens: Bucket | None
    num_running: int = 0


class Quota:
    """Counts POST requests by the name of their key; without keys all callers share one account.

    Tokens are counted as they are read and drawn, so that a key is in debt as soon as its answers under way have
    used up its minute. A reload of the keys keeps the accounts.
    """

    def __init__(self, *, limits: LimitConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self._is_on = bool(limits.requests_per_minute or limits.tokens_per_minute or limits.max_concurrent)

    def enter(self, method: str, record: RequestRecord) -> Account | None:
        """Let a request in, which is to leave with what this gives.

        Raises:
            RequestError: 429, its key has asked for enough.
        """
        if not self._is_on or method != "POST":
            return None
        account = self._account(record.key, self._clock())
        self._check(account)
        if account.requests is not None:
            account.requests.level -= 1
        account.num_running += 1
        record.tokens_left = account.tokens
        return account

    def leave(self, account: Account | None) -> None:
        """Note that a request is over."""
        if account is not None:
            account.num_running -= 1

    def _account(self, key: str, now: float) -> Account:
        account = self._accounts.get(key)
        if account is None:
            account = Account(
                requests=_bucket(self._limits.requests_per_minute, now),
                tokens=_bucket(self._limits.tokens_per_minute, now),
            )
            self._accounts[key] = account
        for bucket in (account.requests, account.tokens):
            if bucket is not None:
                bucket.fill(now)
        return account

    def _check(self, account: Account) -> None:
        if self._limits.max_concurrent and account.num_running >= self._limits.max_concurrent:
            raise _refusal(account.num_running, "request", "at once", 1)
        if account.requests is not None and account.requests.level < 1:
            raise _refusal(account.requests.per_minute, "request", "a minute", account.requests.wait_seconds(1))
        if account.tokens is not None and account.tokens.level < 1:
            raise _refusal(account.tokens.per_minute, "token", "a minute", account.tokens.wait_seconds(1))


def _bucket(per_minute: int, now: float) -> Bucket | None:
    return Bucket(per_minute=per_minute, level=per_minute, at=now) if per_minute else None


def _refusal(count: int, noun: str, when: str, seconds: float) -> RequestError:
    return RequestError(
        429,
        f"this key's limit is reached: {count} {noun}{'s' * (count != 1)} {when}",
        code="rate_limit_exceeded",
        headers=(("Retry-After", str(max(1, math.ceil(seconds)))),),
    )
