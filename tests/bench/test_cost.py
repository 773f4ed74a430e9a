"""What is said, asked and refused before anything is sent."""

import contextlib
import tomllib
from collections.abc import Callable, Iterator
from importlib import resources

import pytest

from ochatctl.bench.cost import (
    Leave,
    Load,
    Price,
    Purse,
    ask_leave,
    find_price,
    is_private,
    read_price,
    refuse_open_key,
)
from ochatctl.errors import ConfigError, UsageProblem

OPENAI = "https://api.openai.com/v1"


class Watch:
    """Notes what it hears, and answers as it is told."""

    def __init__(self, answer: bool | None = None) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self._answer = answer

    def note(self, text: str) -> None:
        self.said.append(text)

    def confirm(self, question: str) -> bool | None:
        self.asked.append(question)
        return self._answer

    @contextlib.contextmanager
    def progress(
        self, label: str, total: int | None = None, *, beside: Callable[[], str] | None = None
    ) -> Iterator[Callable[[int], None]]:
        yield lambda count: None


def load(price: Price | None = None, *, must_ask: bool = True, num_requests: int = 160) -> Load:
    return Load(
        name="j",
        where=OPENAI,
        num_requests=num_requests,
        num_prompt_tokens=118_000,
        num_answer_tokens=30_000,
        price=price,
        must_ask=must_ask,
    )


TWO_EIGHT = Price(prompt=2.0, answer=8.0, as_of="2026-11")  # 0.236 + 0.24 = 0.476 dollars


def test_each_load_is_said_with_its_host_tokens_and_dollars() -> None:
    watch = Watch()
    ask_leave([load(TWO_EIGHT), load(num_requests=0)], Leave(yes=True), watch)
    assert watch.said == [
        f"to send: 160 requests to {OPENAI} (`j`): about 118,000 prompt and 30,000 answer tokens, about $0.48 "
        "(prices of 2026-11)"
    ]
    ask_leave([load()], Leave(yes=True), watch)
    assert watch.said[-1].endswith("at a price that is not known")


def test_a_paid_load_is_asked_about_and_off_a_terminal_it_is_exit_2_with_the_line() -> None:
    ask_leave([load(TWO_EIGHT)], Leave(), Watch(answer=True))
    with pytest.raises(UsageProblem, match="nothing was sent"):
        ask_leave([load(TWO_EIGHT)], Leave(), Watch(answer=False))
    with pytest.raises(UsageProblem, match=r"this costs about \$0\.48, and nobody is here") as caught:
        ask_leave([load(TWO_EIGHT)], Leave(command="ochatctl bench mtbench --judge j"), Watch())
    assert caught.value.hint == "ochatctl bench mtbench --judge j --yes"
    watch = Watch()
    ask_leave([load(must_ask=False), load(TWO_EIGHT, num_requests=0)], Leave(), watch)
    assert watch.asked == []


def test_a_limit_is_a_yes_up_to_it_and_needs_a_price() -> None:
    ask_leave([load(TWO_EIGHT)], Leave(max_cost=0.5), Watch())
    with pytest.raises(UsageProblem, match=r"more than `--max-cost 0.4`"):
        ask_leave([load(TWO_EIGHT)], Leave(max_cost=0.4, yes=True), Watch())
    with pytest.raises(UsageProblem, match="the price of `j` is not known"):
        ask_leave([load()], Leave(max_cost=5.0), Watch())


def test_a_retired_judge_is_named_with_its_day() -> None:
    watch = Watch()
    ask_leave([load(find_price(OPENAI, "gpt-4"))], Leave(yes=True), watch)
    assert "retired" in watch.said[-1]
    assert "2026-10-23" in watch.said[-1]


def test_a_dated_name_has_the_price_of_the_name_it_dates_and_other_hosts_have_none() -> None:
    assert find_price(OPENAI, "gpt-4o-2024-11-20") == find_price(OPENAI, "gpt-4o")
    assert find_price(OPENAI, "gpt-4-0314") == find_price(OPENAI, "gpt-4")
    assert find_price(OPENAI, "gpt-4o-2024-05-13") != find_price(OPENAI, "gpt-4o")
    assert find_price(OPENAI, "gpt-9") is None
    assert find_price("https://example.com/v1", "gpt-4o") is None


def test_the_table_says_where_and_when_it_is_from_and_every_row_is_a_price() -> None:
    table = tomllib.loads((resources.files("ochatctl.bench") / "prices.toml").read_text(encoding="utf-8"))
    assert table["source"]
    assert table["as_of"]
    rows = [(host, name) for host, models in table["hosts"].items() for name in models]
    assert len(rows) > 20
    for host, name in rows:
        price = find_price(f"https://{host}/v1", name)
        assert price is not None
        assert 0 < price.prompt <= price.answer * 2


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://localhost:18888/v1", True), ("http://127.0.0.1:1/v1", True), ("http://10.1.2.3/v1", True),
        ("http://gpu-box:8000/v1", True), ("http://judge.internal/v1", True), ("http://[::1]:1/v1", True),
        ("https://api.openai.com/v1", False), ("http://8.8.8.8/v1", False), ("https://127.example.com/v1", False),
    ],
)  # fmt: skip
def test_only_this_network_is_free(url: str, private: bool) -> None:
    assert is_private(url) is private


def test_a_key_goes_over_plain_http_to_no_public_host() -> None:
    with pytest.raises(ConfigError, match=r"`8\.8\.8\.8` over plain HTTP") as refused:
        refuse_open_key("http://8.8.8.8/v1", "sk-secret")
    assert (refused.value.hint or "").startswith("https://8.8.8.8/v1, or")
    assert "sk-secret" not in f"{refused.value} {refused.value.hint}"
    for url, key in (
        ("http://8.8.8.8/v1", None), ("https://8.8.8.8/v1", "sk-secret"), ("http://10.1.2.3/v1", "sk-secret"),
        ("http://localhost:1/v1", "sk-secret"), ("http://gpu-box:8000/v1", "sk-secret"),
    ):  # fmt: skip
        refuse_open_key(url, key)


def test_a_price_is_two_numbers() -> None:
    assert read_price("2/8") == Price(prompt=2.0, answer=8.0)
    for text in ("2", "2/x", "-1/2", "1/2/3", "inf/1", ""):
        with pytest.raises(UsageProblem, match="not a price"):
            read_price(text)


def test_a_purse_counts_what_is_on_its_way() -> None:
    purse = Purse(10.0)
    first = purse.reserve(6.0)
    with pytest.raises(UsageProblem, match=r"\$6\.00 are on their way"):
        purse.reserve(5.0)
    purse.settle(first, 1.0)
    purse.reserve(5.0)
    assert str(purse) == "$1.00"
