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
        now = self._clock()
        account = self._accounts.get(record.key) or self._open(record.key, now)
        requests, tokens = account.requests, account.tokens
        if self._limits.max_concurrent and account.num_running >= self._limits.max_concurrent:
            raise _refusal(account.num_running, "request", "at once", 1)
        for bucket, noun in ((requests, "request"), (tokens, "token")):
            if bucket is not None and bucket.fill(now) < 1:
                raise _refusal(bucket.per_minute, noun, "a minute", bucket.wait_seconds(1))
        if requests is not None:
            requests.level -= 1
        account.num_running += 1
        record.tokens_left = tokens
        return account

    def leave(self, account: Account | None) -> None:
        """Note that a request is over."""
        if account is not None:
            account.num_running -= 1

    def _open(self, key: str, now: float) -> Account:
        account = Account(
            requests=_bucket(self._limits.requests_per_minute, now),
            tokens=_bucket(self._limits.tokens_per_minute, now),
        )
        self._accounts[key] = account
        return account


def _bucket(per_minute: int, now: float) -> Bucket | None:
    return Bucket(per_minute=per_minute, level=per_minute, at=now) if per_minute else None


def _refusal(count: int, noun: str, when: str, seconds: float) -> RequestError:
    return RequestError(
        429,
        f"this key's limit is reached: {count} {noun}{'s' * (count != 1)} {when}",
        code="rate_limit_exceeded",
        headers=(("Retry-After", str(max(1, math.ceil(seconds)))),),
    )
