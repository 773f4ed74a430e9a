"""What there is to download: the table, and what a source's name may be."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from download_stub_for_tests import Stub, download_stub

from ochatctl.data.sources import SOURCES, plan_download
from ochatctl.errors import ConfigError
from ochatctl.hub import hub_id


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with download_stub() as server:
        yield server


def test_every_known_source_is_a_hub_data_set_with_a_licence_and_a_size() -> None:
    assert SOURCES["openchat_sharegpt_v3"].repo == "openchat/openchat_sharegpt_v3"
    for name, source in SOURCES.items():
        assert hub_id(source.repo) == (source.repo, None), name
        assert source.licence, name
        assert source.size == "unknown" or source.size.endswith((" MB", " GB")), name


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://example.org/a/chats.jsonl.gz?download=true#x", "chats.jsonl.gz"),
        ("http://example.org/a%20b.json", "a b.json"),
        ("http://example.org/", "file"),
        ("http://example.org/..", "file"),
        ("http://example.org/%2e%2e%2f.bashrc", "bashrc"),
        ("http://example.org/download.json", "file-download.json"),
    ],
)
def test_a_file_from_an_address_has_its_name_and_cannot_leave_the_folder(address: str, name: str) -> None:
    plan = plan_download(address, sha256="A" * 64)
    assert (plan.kind, [(file.path, file.url, file.sha256) for file in plan.files]) == (
        "url", [(name, address, "a" * 64)],
    )  # fmt: skip


def test_a_local_folder_is_its_files_but_for_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.json", "a/c.json", ".git/config", "a/.x", "download.json", "a/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    plan = plan_download(str(tmp_path))
    assert [(file.path, file.num_bytes) for file in plan.files] == [("a/c.json", 8), ("a/d.txt", 7), ("b.json", 6)]
    assert (plan.kind, plan.num_bytes) == ("local", 21)
    assert [file.path for file in plan_download(str(tmp_path), ["a/*.json", "b*"]).files] == ["a/c.json", "b.json"]
    assert [file.path for file in plan_download(str(tmp_path / "b.json")).files] == ["b.json"]


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("", {}, "no known source, hub id, address or local path"),
        ("openchat_sharegpt_v4", {}, "did you mean `openchat_sharegpt_v3`"),
        ("ftp://example.org/a", {}, "no known source"),
        ("HERE", {"include": ["*.parquet"]}, "no file that matches `\\*.parquet`"),
        ("HERE", {"sha256": "12"}, "not 64 hexadecimal digits"),
        ("HERE", {"sha256": "0" * 64}, "of one file, and these are 2"),
    ],
)
def test_what_cannot_be_downloaded_is_said(
    tmp_path: Path, source: str, arguments: dict[str, object], message: str
) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    with pytest.raises(ConfigError, match=message):
        plan_download(source.replace("HERE", str(tmp_path)), **arguments)  # type: ignore[arg-type]  # of either kind
