"""What a journal keeps, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.bench.journal import Journal, Record
from ochatctl.errors import DataError, UsageProblem

SETTINGS = {"suite": "tasks", "max_tokens": 32, "tasks": {"one": "abc"}}
RECORDS = (
    Record(id="one:1", text="B", finish_reason="stop", num_prompt_tokens=9, num_answer_tokens=2, seconds=0.5, time=1.0),
    Record(id="one:2", text='line\nbreak "quoted" \u2028 é 中 \ud800', finish_reason="length"),
    Record(id="one:3", error="RemoteError: busy"),
)


def written(path: Path) -> Path:
    with Journal(path, SETTINGS) as journal:
        for record in RECORDS:
            journal.append(record)
    return path


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = written(tmp_path / "run" / "journal.jsonl")
    with Journal(path, SETTINGS) as journal:
        assert journal.records == RECORDS
        assert journal.answer("one:2") == RECORDS[1]


def test_a_record_is_in_the_file_before_append_returns(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl", SETTINGS) as journal:
        journal.append(RECORDS[0])
        assert json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[-1])["text"] == "B"


def test_an_error_is_no_answer_and_gives_way_to_one(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.jsonl")
    with Journal(path, SETTINGS) as journal:
        assert journal.answer("one:3") is None
        journal.append(Record(id="one:3", text="C"))
    with Journal(path, SETTINGS) as journal:
        assert journal.records[-1] == Record(id="one:3", text="C")
        journal.append(Record(id="one:3", error="RemoteError: late"))
    with Journal(path, SETTINGS) as journal:
        assert journal.answer("one:3") == Record(id="one:3", text="C")


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_journal_cut_anywhere_keeps_its_whole_lines_and_goes_on(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.mktemp("cut") / "journal.jsonl")
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    num_lines = whole[:cut].count(b"\n")
    with Journal(path, SETTINGS) as journal:
        assert journal.records == RECORDS[: max(0, num_lines - 1)]
        for record in RECORDS[max(0, num_lines - 1) :]:
            journal.append(record)
    assert path.read_bytes() == whole


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.jsonl")
    before = path.read_bytes()
    with pytest.raises(UsageProblem, match="`max_tokens` was `32` and is `64`") as caught:
        Journal(path, SETTINGS | {"max_tokens": 64})
    assert "--yes" in caught.value.hint
    with pytest.raises(UsageProblem, match="belongs to a run of `bench tasks`"):
        Journal(path, {"suite": "mtbench", "questions": "1a2b"})
    assert path.read_bytes() == before


def test_yes_overwrites_a_journal_of_other_settings_and_keeps_one_of_the_same(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.jsonl")
    with Journal(path, SETTINGS, yes=True) as journal:
        assert journal.records == RECORDS
    before = path.read_bytes()
    with Journal(path, SETTINGS | {"max_tokens": 64}, yes=True) as journal:
        assert journal.records == ()
    # What it held may have cost money: it stands beside the new one.
    (aside,) = (other for other in tmp_path.iterdir() if other != path)
    assert aside.read_bytes() == before
    with Journal(path, SETTINGS | {"max_tokens": 64}):
        pass


def test_a_newer_version_is_refused_with_both_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"format": "ochatctl.bench.journal", "version": 99, "digest": "", "settings": {}}\n')
    with pytest.raises(DataError, match=r"version 99 .* reads up to 1"):
        Journal(path, SETTINGS)


@pytest.mark.parametrize("content", ["hello", "hello\n", '{"a": 1}\n', "[]\n", '{"format": "other", "version": 1}\n'])
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(content)
    for yes in (False, True):
        with pytest.raises(DataError):
            Journal(path, SETTINGS, yes=yes)
    assert path.read_text() == content


def test_a_malformed_line_before_the_last_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "{broken\n", *lines[1:]]))
    with pytest.raises(DataError, match=r"journal\.jsonl:2: "):
        Journal(path, SETTINGS)


def test_two_runs_cannot_write_one_journal(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="no file locks here")
    path = tmp_path / "journal.jsonl"
    imports = "from pathlib import Path; from ochatctl.bench.journal import Journal"
    other = f"{imports}; Journal(Path({str(path)!r}), {SETTINGS!r})"
    with Journal(path, SETTINGS):
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
        assert "is being written by another run" in done.stderr
    assert subprocess.run([sys.executable, "-c", other], capture_output=True, check=False).returncode == 0
