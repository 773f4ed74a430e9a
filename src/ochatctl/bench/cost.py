"""What a run would send where and what that costs: said before the first request, asked for, and never exceeded.

in: loads, one an endpoint, out: leave to go on, or an error with the line to type

A suite makes a `Load` for each endpoint, calls `ask_leave` once, and hands one `Purse` to all who ask.
"""

import re
import socket
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from ochatctl.bench.journal import Record
from ochatctl.bench.runner import Watch
from ochatctl.chat.conversation import Conversation
from ochatctl.engine.client import Ask
from ochatctl.errors import ConfigError, UsageProblem

# English text in the tokenizers of these years; a limit is kept with the smaller figure, which counts more tokens.
CHARS_PER_TOKEN = 4
_FEWEST_CHARS_PER_TOKEN = 2.5
_MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """Dollars per million tokens; `retired` is the day from which the endpoint has the model no more."""

    prompt: float
    answer: float
    as_of: str = ""
    retired: str = ""

    def of(self, num_prompt_tokens: float, num_answer_tokens: float) -> float:
        """Give dollars."""
        return (num_prompt_tokens * self.prompt + num_answer_tokens * self.answer) / _MILLION


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What would be sent to one endpoint; tokens are estimates. `must_ask`: it may cost money, so somebody says yes."""

    name: str
    where: str
    num_requests: int
    num_prompt_tokens: int
    num_answer_tokens: int
    price: Price | None = None
    must_ask: bool = False

    @property
    def dollars(self) -> float | None:
        """What it costs, where the price is known."""
        return self.price.of(self.num_prompt_tokens, self.num_answer_tokens) if self.price is not None else None

    def __str__(self) -> str:
        tokens = f"about {self.num_prompt_tokens:,} prompt and {self.num_answer_tokens:,} answer tokens"
        return f"{self.num_requests:,} requests to {self.where} (`{self.name}`): {tokens}{self._cost()}"

    def _cost(self) -> str:
        if self.dollars is not None and self.price is not None:
            dated = f" (prices of {self.price.as_of})" if self.price.as_of else ""
            return f", about ${self.dollars:,.2f}{dated}"
        return ", at a price that is not known" if self.must_ask else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leave:
    """What the user said beforehand. `command` is the line that was typed, for hints."""

    yes: bool = False
    max_cost: float | None = None
    command: str = ""


class Purse:
    """What one run has spent, and what its requests in flight may still cost; several meters share one."""

    def __init__(self, max_cost: float | None = None, command: str = "") -> None:
        self.max_cost = max_cost
        self.spent = 0.0
        self._reserved = 0.0
        self._command = command

    def meter(self, price: Price | None, earlier: Iterable[Record] = ()) -> "PriceMeter":
        """Give a meter for requests at a price; what a journal holds already counts as spent."""
        if price is not None:
            self.spent += sum(price.of(each.num_prompt_tokens, each.num_answer_tokens) for each in earlier)
        return PriceMeter(self, price)

    def reserve(self, dollars: float) -> float:
        """Set dollars aside.

        Raises:
            UsageProblem: with them more than the limit might be spent.
        """
        if self.max_cost is not None and self.spent + self._reserved + dollars > self.max_cost:
            raise UsageProblem(
                f"stopped before `--max-cost {self.max_cost:g}` could be exceeded: ${self.spent:.2f} are spent, "
                f"${self._reserved:.2f} are on their way and the next request may cost ${dollars:.2f}",
                hint=f"everything that came is kept; a larger `--max-cost` goes on: {self._command}".rstrip(": "),
            )
        self._reserved += dollars
        return dollars

    def settle(self, reserved: float, dollars: float) -> None:
        """Put what a request did cost in place of what was set aside for it."""
        self._reserved -= reserved
        self.spent += dollars

    def __str__(self) -> str:
        return f"${self.spent:.2f}" if self.spent else ""


class PriceMeter:
    """The `Meter` of requests at one price."""

    def __init__(self, purse: Purse, price: Price | None) -> None:
        self._purse = purse
        self._price = price

    def before(self, conversation: Conversation, ask: Ask) -> float:
        """Set aside what a request costs at most."""
        if self._price is None:
            return 0.0
        chars = len(conversation.system) + sum(len(message.content) for message in conversation.messages)
        return self._purse.reserve(self._price.of(chars / _FEWEST_CHARS_PER_TOKEN + 20, ask.max_tokens or 0))

    def after(self, reserved: float, record: Record) -> None:
        """Count what it cost; a request that failed without an answer is not billed."""
        if self._price is not None:
            self._purse.settle(reserved, self._price.of(record.num_prompt_tokens, record.num_answer_tokens))


def ask_leave(loads: Sequence[Load], leave: Leave, watch: Watch) -> None:
    """Say what would be sent where, and get a yes where it may cost money.

    Raises:
        UsageProblem: no yes, nobody to ask, or more than `max_cost`.
    """
    loads = [load for load in loads if load.num_requests]
    for load in loads:
        watch.note(f"to send: {load}")
        if load.price is not None and load.price.retired:
            watch.note(f"`{load.name}` is retired, or will be, on {load.price.retired}")
    paid = [load for load in loads if load.must_ask]
    if not paid:
        return
    known = [load.dollars for load in paid if load.dollars is not None]
    total = f"about ${sum(known):,.2f}" if len(known) == len(paid) else "money, and a price is not known"
    if leave.max_cost is not None:
        if len(known) < len(paid):
            names = ", ".join(f"`{load.name}`" for load in paid if load.dollars is None)
            raise UsageProblem(
                f"`--max-cost` cannot be kept: the price of {names} is not known",
                hint=f"{leave.command} --judge-price IN/OUT".lstrip(),
            )
        if sum(known) > leave.max_cost:
            raise UsageProblem(
                f"this costs {total}, more than `--max-cost {leave.max_cost:g}`",
                hint="a larger `--max-cost`, or a smaller `--limit`",
            )
        return
    if leave.yes:
        return
    answer = watch.confirm(f"this costs {total}; go on?")
    if answer is None:
        raise UsageProblem(f"this costs {total}, and nobody is here to say yes", hint=f"{leave.command} --yes".lstrip())
    if not answer:
        raise UsageProblem("nothing was sent", hint="`--max-cost DOLLARS` sets a limit instead of a question")


def find_price(base_url: str, name: str) -> Price | None:
    """Give the price of an endpoint's model, where the table has it; a dated name has that of the name it dates."""
    table = _table()
    models = table["hosts"].get(urlsplit(base_url).hostname or "", {})
    # `gpt-4o-2024-11-20`, `claude-haiku-4-5-20251001` and `gpt-4-0314` are dated names.
    undated = re.sub(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4})$", "", name)
    row = models.get(name) or models.get(undated)
    return Price(as_of=table["as_of"], **row) if row else None


def read_price(text: str) -> Price:
    """Read `IN/OUT`, in dollars per million tokens.

    Raises:
        UsageProblem: not two numbers.
    """
    try:
        prompt, answer = (float(part) for part in text.split("/"))
    except ValueError:
        prompt = answer = -1.0
    if not (0 <= prompt < float("inf") and 0 <= answer < float("inf")):
        raise UsageProblem(f"`{text}` is not a price `IN/OUT`", hint="dollars per million tokens: `--judge-price 2/8`")
    return Price(prompt=prompt, answer=answer)


def is_private(base_url: str) -> bool:
    """Tell an address on this machine or its own network, where nobody is billed."""
    host = urlsplit(base_url).hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost", ".lan"))
    return address.is_private or address.is_loopback


def refuse_open_key(base_url: str, api_key: str | None) -> None:
    """Refuse to send a key where everybody on the way can read it; a name of the own network is looked up.

    Raises:
        ConfigError: plain HTTP, to a host outside of this machine's own network.
    """
    if not api_key or urlsplit(base_url).scheme != "http" or is_private(base_url):
        return
    host = urlsplit(base_url).hostname or ""
    try:
        found = {str(row[4][0]) for row in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        found = set()
    if not found or not all(ip_address(address.partition("%")[0]).is_private for address in found):
        raise ConfigError(
            f"the API key would go to `{host}` over plain HTTP, for everybody on the way to read",
            hint=f"https{base_url.removeprefix('http')}, or an SSH tunnel and `http://localhost:PORT/v1`",
        )


def count_tokens(*texts: str) -> int:
    """Estimate the tokens of texts that no tokenizer of ours can count: the judge's is not known."""
    return sum(len(text) for text in texts) // CHARS_PER_TOKEN


@cache
def _table() -> Any:
    return tomllib.loads((resources.files("ochatctl.bench") / "prices.toml").read_text(encoding="utf-8"))
