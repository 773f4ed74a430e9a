"""MT-bench's questions, asked and written as FastChat does."""

import json
from pathlib import Path
from typing import Any

import pytest
from chat_stub_for_tests import MODEL, answer_to, chat_stub
from mtbench_for_tests import ROWS, write_files

from ochatctl.bench.run import RunConfig
from ochatctl.bench.suites.mtbench import MtBench, run_mtbench
from ochatctl.bench.suites.mtbench_files import read_questions
from ochatctl.bench.target import Endpoint
from ochatctl.cli.output import Output
from ochatctl.errors import DataError

QUIET = Output(quiet=True)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_files(tmp_path)["questions"]


def config(base_url: str, out: Path, **changes: Any) -> RunConfig:
    return RunConfig(target=Endpoint(base_url=base_url), max_tokens=64, out_dir=out, **changes)


def test_answers_are_fastchat_s_rows(questions: Path, tmp_path: Path) -> None:
    with chat_stub() as stub:
        answers = run_mtbench(MtBench(questions=questions), config(stub.base_url, tmp_path / "out"), QUIET)
    assert answers.answers == tmp_path / "out" / "model_answer" / f"{MODEL}.jsonl"
    rows = [json.loads(line) for line in answers.answers.read_text().splitlines()]
    assert [row["question_id"] for row in rows] == [row["question_id"] for row in ROWS]
    for row, asked in zip(rows, ROWS, strict=True):
        assert set(row) == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
        assert row["model_id"] == MODEL
        assert row["choices"] == [{"index": 0, "turns": [answer_to(turn) for turn in asked["turns"]]}]
    assert len({row["answer_id"] for row in rows}) == len(rows)


def test_each_category_has_its_temperature_and_a_question_may_have_its_own(questions: Path, tmp_path: Path) -> None:
    with chat_stub() as stub:
        run_mtbench(MtBench(questions=questions), config(stub.base_url, tmp_path / "out"), QUIET)
        asked = {request["messages"][-1]["content"]: request["temperature"] for request in stub.requests}
    assert asked["Write a line."] == asked["Now shorter."] == asked["Be a pirate."] == 0.7
    assert asked["1 + 1?"] == 0
    assert asked["What is light?"] == 0.1
    assert asked["Hello?"] == 0.7
    assert asked["Rhyme."] == 0.2


def test_the_second_turn_sees_the_first_answer(questions: Path, tmp_path: Path) -> None:
    with chat_stub() as stub:
        run_mtbench(MtBench(questions=questions), config(stub.base_url, tmp_path / "out", limit=1), QUIET)
        contents = [message["content"] for message in stub.requests[-1]["messages"]]
    assert contents == ["Write a line.", answer_to("Write a line."), "Now shorter."]


def test_a_question_that_failed_is_left_out_and_asked_again(questions: Path, tmp_path: Path) -> None:
    with chat_stub(faults={"How fast?": ["garbage"]}) as stub:
        first = run_mtbench(MtBench(questions=questions), config(stub.base_url, tmp_path / "out"), QUIET)
        assert (first.num_answered, first.num_questions) == (5, 6)
        assert first.errors[0].startswith("141, turn 2: RemoteError")
        assert "ERROR" not in first.answers.read_text()
        num_before = len(stub.requests)
        second = run_mtbench(MtBench(questions=questions), config(stub.base_url, tmp_path / "out"), QUIET)
        assert (second.num_answered, second.errors) == (6, ())
        assert len(stub.requests) == num_before + 1


def test_a_finished_run_gives_the_same_file_again(questions: Path, tmp_path: Path) -> None:
    with chat_stub() as stub:
        first = run_mtbench(
            MtBench(questions=questions), config(stub.base_url, tmp_path / "out"), QUIET
        ).answers.read_bytes()
        assert (
            run_mtbench(
                MtBench(questions=questions), config(stub.base_url, tmp_path / "out"), QUIET
            ).answers.read_bytes()
            == first
        )
        assert set(stub.num_asked.values()) == {1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "expected a JSON object"),
        ({"category": "math", "turns": ["x"]}, "`question_id` must be"),
        ({"question_id": 1, "turns": ["x"]}, "`category` must be"),
        ({"question_id": 1, "category": "math", "turns": []}, "`turns` must be"),
        ({"question_id": 1, "category": "math", "turns": "x"}, "`turns` must be"),
        ({"question_id": 1, "category": "math", "turns": ["x", 2]}, "`turns` must be"),
        ({"question_id": 1, "category": "math", "turns": ["x"], "required_temperature": 9}, "`required_temperature`"),
    ],
)
def test_a_malformed_question_is_named_with_its_line(tmp_path: Path, row: Any, message: str) -> None:
    path = tmp_path / "question.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"question\.jsonl:1: ") as caught:
        read_questions(path)
    assert message in caught.value.message


def test_a_question_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "question.jsonl"
    path.write_text((json.dumps(ROWS[0]) + "\n") * 2)
    with pytest.raises(DataError, match="two questions have the `question_id` `81`"):
        read_questions(path)
