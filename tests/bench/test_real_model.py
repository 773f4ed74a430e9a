"""A real model behind a real server, and a judge that misbehaves: each benchmark from its command to its scores."""

import json
import os
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from chat_stub_for_tests import chat_stub
from mtbench_for_tests import words, write_files
from served_process_for_tests import OCHATCTL, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("OCHATCTL_TEST_MODEL" not in os.environ, reason="OCHATCTL_TEST_MODEL names no model folder"),
]
TASKS = str(resources.files("ochatctl") / "samples" / "tasks.jsonl")
SMALL = ("--limit", "8", "--max-tokens", "48", "--json")


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """Serve the model by the embedded engine."""
    pytest.importorskip("transformers")
    folder = os.environ["OCHATCTL_TEST_MODEL"]
    with served("--model", folder, "--family", "chatml", "--engine", "hf") as address:
        yield address


def run(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [*OCHATCTL, "bench", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900, check=False, input="")


def test_mtbench_with_a_judge_that_misbehaves(base_url: str, tmp_path: Path) -> None:
    files = [word for key, path in write_files(tmp_path).items() for word in (f"--{key.replace('_', '-')}", str(path))]
    faults: dict[str, list[int | str]] = {
        "Q: Write a line.": [429, 500],
        "Q: Be a pirate.": ["hang"],
        "Q: What is light?": ["garbage"],
        "Q: 1 + 1?": ["say:[[99]]"] * 3,
        "Q: Hello?": ["say:[[3]], no, [[4]]"],
    }
    with chat_stub(says=words, faults=faults) as judge:
        answered = run("mtbench", *files, "--base-url", base_url, *SMALL, cwd=tmp_path)
        assert answered.returncode == 0, answered.stderr
        # Only the judge, which answers at once or hangs, is left alone after so short a silence.
        impatient = ("--judge", "j", "--judge-base-url", judge.base_url, "--silence-timeout", "5")
        to = ("--base-url", base_url, *impatient)
        first = run("mtbench", *files, *to, *SMALL, cwd=tmp_path)
        assert first.returncode == 6, first.stderr  # the one that was garbage
        report = json.loads(first.stdout)
        assert (report["num_answered"], report["num_unparsed"], len(report["judge_errors"])) == (6, 1, 1)
        again = run("mtbench", *files, *to, *SMALL, cwd=tmp_path)
        assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert (report["score"]["num_rows"], report["score"]["num_unparsed"], report["judge_errors"]) == (10, 1, [])
    assert 1 <= report["score"]["score"] <= 10
    rows = [json.loads(line) for line in Path(tmp_path / report["judgments"]).read_text().splitlines()]
    assert {(row["question_id"], row["turn"]): row["score"] for row in rows}[900, 1] == 4


def test_alpacaeval_with_a_judge_that_misbehaves(base_url: str, tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {word}.", "output": word, "generator": "theirs"} for word in "abcdefghi"]
    (tmp_path / "reference.json").write_text(json.dumps(rows))
    (tmp_path / "prompt.txt").write_text(
        "<|im_start|>user\n{instruction}\nFIRST {output_1}\nSECOND {output_2}\n<|im_end|>"
    )
    faults: dict[str, list[int | str]] = {
        "Say a.": [429, 500],
        "Say b.": ["hang"],
        "Say c.": ["say:Both."] * 3,
        "Say d.": ["say:[{'model': 'model_1', 'rank': 3}]"],
    }
    ranking = "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]"
    with chat_stub(says=lambda prompt: ranking, faults=faults) as judge:
        files = ("--reference", str(tmp_path / "reference.json"), "--annotator-prompt", str(tmp_path / "prompt.txt"))
        to = ("--base-url", base_url)
        answered = run("alpacaeval", *files, *to, *SMALL, cwd=tmp_path)
        assert answered.returncode == 0, answered.stderr
        impatient = ("--judge", "j", "--judge-base-url", judge.base_url, "--silence-timeout", "5")
        done = run("alpacaeval", *files, *to, *impatient, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["num_answered"], report["rate"]["n_total"], report["rate"]["num_unreadable"]) == (8, 7, 1)
    rescored = run("rescore", report["judgments"], "--json", cwd=tmp_path)
    assert json.loads(rescored.stdout)[0]["win_rate"] == report["rate"]["win_rate"]


def test_a_suite(base_url: str, tmp_path: Path) -> None:
    done = run("suite", "--tasks", TASKS, "--base-url", base_url, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["overall"]["num_items"] == 8
