"""A judge: what it refuses, what it says that nobody can read, and what its journal keeps."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_stub_for_tests import Stub, chat_stub

from ochatctl.bench.cost import Price, Purse
from ochatctl.bench.journal import Record
from ochatctl.bench.judge import Case, JudgeConfig, Judging, judge_all, preflight
from ochatctl.cli.output import Output
from ochatctl.engine.client import Ask
from ochatctl.engine.endpoint import Patience
from ochatctl.errors import ConfigError, RemoteError, UsageProblem

QUIET = Output(quiet=True)
ASK = Ask(temperature=0.0, max_tokens=50)
QUICK = Patience(max_retries=1, silence_seconds=5, first_wait_seconds=0.02)


def number(record: Record) -> int | None:
    return int(record.text) if record.text is not None and record.text.isdigit() else None


def cases(count: int = 4, word: str = "answer") -> list[Case[int]]:
    return [Case(id=f"{i}:1", prompt=f"{word} {i}", read=number, ask=ASK) for i in range(count)]


def judge(stub: Stub, **changes: Any) -> JudgeConfig:
    return JudgeConfig(**{"name": "judge-1", "base_url": stub.base_url, "patience": QUICK, "concurrency": 2, **changes})


def judged(asked: Sequence[Case[int]], config: JudgeConfig, folder: Path, purse: Purse | None = None) -> Judging[int]:
    return asyncio.run(judge_all("test", asked, config, folder=folder, watch=QUIET, purse=purse))


def last(question: str) -> str:
    return question.split()[-1]


def test_every_case_is_judged_once_and_a_second_run_sends_nothing(tmp_path: Path) -> None:
    with chat_stub(says=last, calls_itself="judge-1-0613") as stub:
        first = judged(cases(), judge(stub), tmp_path)
        assert [verdict.value for verdict in first.verdicts] == [0, 1, 2, 3]
        assert first.judge.called_itself == ("judge-1-0613",)
        assert (first.num_unparsed, first.num_asked_again, first.errors) == (0, 0, ())
        num_sent = len(stub.requests)
        assert num_sent == 4 + 1  # with the word before
        assert judged(cases(), judge(stub), tmp_path) == first
        assert len(stub.requests) == num_sent


def test_what_cannot_be_read_is_asked_again_and_then_counted_not_scored(tmp_path: Path) -> None:
    with chat_stub(says=last, faults={"answer 1": ["say:hm"], "answer 2": ["say:hm"] * 9}) as stub:
        done = judged(cases(), judge(stub), tmp_path)
        assert [verdict.value for verdict in done.verdicts] == [0, 1, None, 3]
        assert [verdict.num_tries for verdict in done.verdicts] == [1, 2, 3, 1]
        assert (done.num_unparsed, done.num_asked_again, done.errors) == (1, 2, ())
        assert stub.num_asked["answer 2"] == 3
        assert judged(cases(), judge(stub), tmp_path).num_unparsed == 1
        assert stub.num_asked["answer 2"] == 3  # and never again


def test_a_failure_is_no_judgment_and_is_asked_for_again(tmp_path: Path) -> None:
    with chat_stub(says=last, faults={"answer 1": ["garbage"]}) as stub:
        first = judged(cases(), judge(stub), tmp_path)
        assert [verdict.value for verdict in first.verdicts] == [0, None, 2, 3]
        assert first.num_unparsed == 0
        assert first.errors[0].startswith("1:1: RemoteError: ")
        second = judged(cases(), judge(stub), tmp_path)
        assert [verdict.value for verdict in second.verdicts] == [0, 1, 2, 3]
        assert second.errors == ()
        assert stub.num_asked["answer 0"] == 1


def test_a_judgment_of_another_answer_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    with chat_stub(says=last) as stub:
        judged(cases(), judge(stub), tmp_path)
        num_sent = len(stub.requests)
        changed = [*cases()[:3], replace(cases()[3], prompt="another answer 7")]
        assert [verdict.value for verdict in judged(changed, judge(stub), tmp_path).verdicts] == [0, 1, 2, 7]
        assert len(stub.requests) == num_sent + 2


def test_refused_parameters_are_spared_and_reported(tmp_path: Path) -> None:
    with chat_stub(says=last, refuses=frozenset({"max_tokens", "temperature"})) as stub:
        done = judged(cases(), judge(stub), tmp_path)
        assert [verdict.value for verdict in done.verdicts] == [0, 1, 2, 3]
        assert set(done.judge.refused) == {"max_tokens", "temperature"}
        assert stub.requests[-1]["max_completion_tokens"] == 50
        assert not {"max_tokens", "temperature"} & set(stub.requests[-1])
        # A finished run asks nobody, and still knows.
        assert judged(cases(), judge(stub), tmp_path).judge.refused == done.judge.refused


@pytest.mark.parametrize("refuses", [frozenset({"logprobs"}), frozenset()], ids=["refused", "not given"])
def test_a_judge_without_logprobs_is_exit_3_where_the_protocol_needs_them(refuses: frozenset[str]) -> None:
    ask = Ask(temperature=1.0, max_tokens=1, top_logprobs=5)
    with chat_stub(says=last, refuses=refuses) as stub:
        with pytest.raises(ConfigError, match="`judge-1` refuses `logprobs`"):
            asyncio.run(preflight(judge(stub), ask, needs=("logprobs",)))
        _, refused = asyncio.run(preflight(judge(stub), ask))
        assert set(refused) == {"logprobs"}


def test_logprobs_of_the_first_token_are_kept_in_the_journal(tmp_path: Path) -> None:
    ask = Ask(temperature=1.0, max_tokens=1, top_logprobs=5)
    with chat_stub(says=last, logprobs={"m": -0.1, "M": -2.4}) as stub:
        asked = [replace(case, ask=ask) for case in cases()]
        judged(asked, judge(stub), tmp_path)
        again = judged(asked, judge(stub), tmp_path)
    assert again.verdicts[0].record is not None
    assert again.verdicts[0].record.first_logprobs == {"m": -0.1, "M": -2.4}


def test_a_judge_that_does_not_exist_is_exit_3_and_a_wrong_key_names_its_flag(tmp_path: Path) -> None:
    with chat_stub(faults={"Say OK": [404]}) as stub, pytest.raises(ConfigError, match="no judge `judge-1` at"):
        judged(cases(), judge(stub), tmp_path)
    with chat_stub(faults={"Say OK": [401]}) as stub, pytest.raises(RemoteError) as caught:
        judged(cases(), judge(stub), tmp_path)
    assert "--judge-api-key" in caught.value.hint


def test_nothing_is_sent_that_could_exceed_the_limit(tmp_path: Path) -> None:
    # Of the stub's counts, a judgment costs 8 prompt and 5 answer tokens; before it, 50 answer tokens are set aside.
    price = Price(prompt=0.0, answer=1_000_000 / 5)
    with chat_stub(says=last) as stub:
        with pytest.raises(UsageProblem, match="stopped before `--max-cost 12` could be exceeded: \\$"):
            judged(cases(40), judge(stub, price=price, concurrency=1), tmp_path, Purse(12.0))
        # One dollar each, ten dollars set aside for the next one: the third might have made it 13.
        assert len(stub.requests) == 1 + 3
        with pytest.raises(UsageProblem, match=r"\$3\.00 are spent"):  # the journal's count as well
            judged(cases(40), judge(stub, price=price, concurrency=1), tmp_path, Purse(12.0))
