"""One runner for every suite: each question once, failures as rows, nothing that hangs."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from chat_stub_for_tests import MODEL, Stub, answer_to, chat_stub

from ochatctl.bench.journal import Journal
from ochatctl.bench.pace import Pace
from ochatctl.bench.runner import Dialogue, ask_all
from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.families import get_family
from ochatctl.engine.client import Ask, ChatClient
from ochatctl.engine.client_http import HttpClient
from ochatctl.engine.client_local import LocalClient
from ochatctl.engine.echo import EchoEngine
from ochatctl.engine.endpoint import Patience
from ochatctl.errors import RemoteError, RunError

SETTINGS = {"suite": "test"}
GREEDY = Ask(temperature=0.0)


def questions(count: int) -> list[Dialogue]:
    return [Dialogue(id=f"q:{i}", turns=(f"question {i}",), ask=GREEDY) for i in range(count)]


def ask(
    path: Path,
    dialogues: Sequence[Dialogue],
    client: ChatClient,
    *,
    concurrency: int = 4,
    deadline_seconds: float = 60,
) -> Journal:
    async def go(journal: Journal) -> None:
        try:
            await ask_all(dialogues, client, journal, concurrency=concurrency, deadline_seconds=deadline_seconds)
        finally:
            await client.close()

    with Journal(path, SETTINGS) as journal:
        asyncio.run(go(journal))
        return journal


def http(stub: Stub, *, max_retries: int = 0) -> HttpClient:
    return HttpClient(stub.base_url, MODEL, patience=Patience(max_retries=max_retries, first_wait_seconds=0.02))


def local(**faults: object) -> LocalClient:
    family = get_family("openchat_v3.2")
    tokenizer = ByteTokenizer(family.template.control_strings)
    engine = EchoEngine(tokenizer, **faults)  # type: ignore[arg-type]  # each test names one field
    asyncio.run(engine.start())
    return LocalClient(engine, family, tokenizer)


def test_every_question_is_answered_once_and_a_second_run_asks_none(tmp_path: Path) -> None:
    with chat_stub() as stub:
        first = ask(tmp_path / "j.jsonl", questions(20), http(stub))
        again = ask(tmp_path / "j.jsonl", questions(20), http(stub))
        assert {record.id: record.text for record in first.records} == {
            f"q:{i}": answer_to(f"question {i}") for i in range(20)
        }
        assert again.records == first.records
        assert set(stub.num_asked.values()) == {1}


def test_a_local_engine_answers_as_an_endpoint_does(tmp_path: Path) -> None:
    journal = ask(tmp_path / "j.jsonl", questions(3), local())
    assert [(record.text, record.finish_reason) for record in journal.records] == [
        (f"question {i}", "stop") for i in range(3)
    ]
    assert all(record.num_prompt_tokens > 10 and record.num_answer_tokens > 5 for record in journal.records)


@pytest.mark.parametrize("fault", [429, 500, 401, "garbage", "shape"])
def test_a_failed_request_is_an_error_row_and_is_asked_again(tmp_path: Path, fault: int | str) -> None:
    with chat_stub(faults={"question 1": [fault]}) as stub:
        first = ask(tmp_path / "j.jsonl", questions(3), http(stub))
        by_id = {record.id: record for record in first.records}
        assert by_id["q:1"].text is None
        assert (by_id["q:1"].error or "").startswith("RemoteError: ")
        assert first.answer("q:1") is None
        second = ask(tmp_path / "j.jsonl", questions(3), http(stub))
        assert {record.text for record in second.records} == {answer_to(f"question {i}") for i in range(3)}
        assert stub.num_asked == {"question 0": 1, "question 1": 2, "question 2": 1}


def test_what_passes_within_the_retries_leaves_no_row(tmp_path: Path) -> None:
    with chat_stub(faults={"question 1": [429, 500]}) as stub:
        journal = ask(tmp_path / "j.jsonl", questions(3), http(stub, max_retries=2))
        assert all(record.error is None for record in journal.records)
        assert stub.num_asked["question 1"] == 3


def test_a_request_that_hangs_ends_at_the_deadline(tmp_path: Path) -> None:
    with chat_stub(faults={"question 0": ["hang"]}) as stub:
        journal = ask(tmp_path / "j.jsonl", questions(3), http(stub), deadline_seconds=1.5)
    errors = {record.id: record.error for record in journal.records if record.error}
    assert errors == {"q:0": "RemoteError: no answer within 1.5 seconds"}


def test_an_endpoint_that_is_down_ends_the_run_instead_of_failing_every_question(tmp_path: Path) -> None:
    with chat_stub(faults={"question": [500] * 1000}) as stub:
        with pytest.raises(RemoteError, match=r"8 questions in a row failed: .* answered 500"):
            ask(tmp_path / "j.jsonl", questions(100), http(stub), concurrency=2)
        assert len(stub.requests) < 20


def test_an_engine_that_dies_ends_the_run_and_what_it_answered_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="questions in a row failed"):
        ask(tmp_path / "j.jsonl", questions(40), local(die_after_tokens=60), concurrency=2)
    with Journal(tmp_path / "j.jsonl", SETTINGS) as journal:
        answered = [record for record in journal.records if record.text is not None]
        assert answered
        assert all(record.text == f"question {record.id[2:]}" for record in answered)


def test_a_question_that_does_not_fit_is_its_own_fault_alone(tmp_path: Path) -> None:
    long = [Dialogue(id=f"long:{i}", turns=("x" * 500,), ask=GREEDY) for i in range(20)]
    journal = ask(tmp_path / "j.jsonl", [*long, *questions(2)], local(context_tokens=200))
    assert sum((record.error or "").startswith("DataError") for record in journal.records) == 20
    assert journal.answer("q:1") is not None


def test_no_more_than_the_concurrency_are_asked_at_once(tmp_path: Path) -> None:
    with chat_stub(delay_seconds=0.02, together=6) as stub:
        ask(tmp_path / "j.jsonl", questions(24), http(stub), concurrency=6)
        assert stub.most_at_once == 6


def test_fewer_are_asked_at_once_after_a_429_and_all_are_answered(tmp_path: Path) -> None:
    async def go(stub: Stub, journal: Journal) -> Pace:
        pace = Pace(8)
        patience = Patience(max_retries=3, first_wait_seconds=0.01)
        client = HttpClient(stub.base_url, MODEL, patience=patience, on_busy=pace.busy)
        try:
            await ask_all(questions(16), client, journal, concurrency=8, pace=pace)
        finally:
            await client.close()
        return pace

    faults: dict[str, list[int | str]] = {f"question {i}": [429] for i in (2, 3, 4)}
    with chat_stub(faults=faults, delay_seconds=0.01) as stub, Journal(tmp_path / "j.jsonl", SETTINGS) as journal:
        pace = asyncio.run(go(stub, journal))
        assert all(record.error is None for record in journal.records)
    assert len(journal.records) == 16
    assert pace.num_cuts >= 1
    assert 1 <= pace.room <= 8


def test_turns_are_asked_in_order_each_with_the_answers_before_it(tmp_path: Path) -> None:
    talk = Dialogue(
        id="t", turns=("first", "second", "third"), ask=Ask(temperature=0.7, seed=7, stop=("#",)), system="Be brief."
    )
    with chat_stub() as stub:
        ask(tmp_path / "j.jsonl", [talk], http(stub))
        assert [message["content"] for message in stub.requests[-1]["messages"]] == [
            "Be brief.",
            *("first", answer_to("first"), "second", answer_to("second"), "third"),
        ]
        assert [request["temperature"] for request in stub.requests] == [0.7] * 3
        assert stub.requests[0]["seed"] == 7
        assert stub.requests[0]["stop"] == ["#"]


def test_a_turn_after_one_that_failed_is_not_asked_until_that_one_is_answered(tmp_path: Path) -> None:
    talk = Dialogue(id="t", turns=("first", "second", "third"), ask=GREEDY)
    with chat_stub(faults={"second": [500]}) as stub:
        ask(tmp_path / "j.jsonl", [talk], http(stub))
        assert stub.num_asked == {"first": 1, "second": 1}
        journal = ask(tmp_path / "j.jsonl", [talk], http(stub))
        assert stub.num_asked == {"first": 1, "second": 2, "third": 1}
        assert journal.answer("t", 3) is not None
