"""One file over HTTP: resumed where it stopped, begun anew where it changed, at its name only when it is whole."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from download_stub_for_tests import Stub, download_stub

from ochatctl.data.transfer import Patience, download_file, part_path
from ochatctl.errors import RemoteError
from ochatctl.hub import RemoteFile

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
QUICK = Patience(num_tries=4, first_pause_seconds=0.001, timeout_seconds=5)
PATH = "/chats.json"


@pytest.fixture(scope="module")
def server() -> Iterator[Stub]:
    with download_stub() as stub:
        yield stub


@pytest.fixture
def stub(server: Stub) -> Stub:
    server.files, server.etags, server.faults, server.seen = {PATH: DATA}, {}, {}, []
    return server


def get(stub: Stub, folder: Path, **known: object) -> tuple[str, int]:
    """Download, and give the SHA-256 with what was reported as progress."""
    target, moved = folder / "chats.json", []
    file = RemoteFile(path="chats.json", url=stub.url + PATH, **known)  # type: ignore[arg-type]  # of any field
    sha256 = download_file(file, target, headers={}, patience=QUICK, advance=moved.append)
    assert [path.name for path in folder.iterdir()] == ["chats.json"]
    assert hashlib.sha256(target.read_bytes()).hexdigest() == sha256
    return sha256, sum(moved)


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256, "num_bytes": len(DATA)}], ids=["an address", "promised"])
@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        ([], [""]),
        (["503", "429"], ["", "", ""]),
        (["cut:100000"], ["", "bytes=100000-"]),
        (["cut:100000", "cut:50000"], ["", "bytes=100000-", "bytes=150000-"]),
        (["cut:100000", "500", "cut:0", "cut:9"], ["", *["bytes=100000-"] * 3, "bytes=100009-"]),
        (["cut:100000", "whole"], ["", "bytes=100000-"]),
        (["cut:100000", "other-range"], ["", "bytes=100000-", ""]),
        (["gzip"], [""]),
    ],
)
def test_a_fault_on_the_way_costs_nothing_that_has_come(
    stub: Stub, tmp_path: Path, faults: list[str], ranges: list[str], known: dict[str, object]
) -> None:
    stub.faults[PATH] = list(faults)
    assert get(stub, tmp_path, **known) == (SHA256, len(DATA))
    assert stub.asked(PATH) == ranges
    assert not stub.faults[PATH]


def broken_off(stub: Stub, folder: Path, **known: object) -> None:
    """Leave a part of 100,000 bytes, as a run does that gives up."""
    stub.faults[PATH] = ["cut:100000", "503", "503", "503"]
    with pytest.raises(RemoteError, match="failed 4 times") as error:
        get(stub, folder, **known)
    assert "run the command again" in error.value.hint
    assert not (folder / "chats.json").exists()
    assert part_path(folder / "chats.json").stat().st_size == 100_000
    stub.seen.clear()


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256}, {"num_bytes": len(DATA)}])
def test_the_next_run_goes_on_where_the_last_one_stopped(stub: Stub, tmp_path: Path, known: dict[str, object]) -> None:
    broken_off(stub, tmp_path, **known)
    assert get(stub, tmp_path, **known) == (SHA256, len(DATA))
    assert stub.asked(PATH) == ["bytes=100000-"]
    assert stub.seen[0].status == 206


def test_a_file_that_changed_since_is_begun_anew(stub: Stub, tmp_path: Path) -> None:
    broken_off(stub, tmp_path)
    stub.files[PATH] = b"other" + DATA
    sha256, _ = get(stub, tmp_path)
    assert sha256 == hashlib.sha256(b"other" + DATA).hexdigest()
    assert stub.asked(PATH) == ["bytes=100000-"]
    assert stub.seen[0].status == 200


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_validator_a_part_is_not_trusted(stub: Stub, tmp_path: Path, etag: str) -> None:
    stub.etags[PATH] = etag
    broken_off(stub, tmp_path)
    assert get(stub, tmp_path) == (SHA256, len(DATA))
    assert stub.asked(PATH) == [""]


def test_another_address_begins_anew(stub: Stub, tmp_path: Path) -> None:
    broken_off(stub, tmp_path)
    part = part_path(tmp_path / "chats.json")
    state = part.with_name(f"{part.name}.json")
    state.write_text(state.read_text().replace(PATH, "/other.json"))
    assert get(stub, tmp_path) == (SHA256, len(DATA))
    assert stub.asked(PATH) == [""]


def test_a_part_that_is_whole_is_taken_without_asking(stub: Stub, tmp_path: Path) -> None:
    part_path(tmp_path / "chats.json").write_bytes(DATA)
    assert get(stub, tmp_path, sha256=SHA256, num_bytes=len(DATA)) == (SHA256, len(DATA))
    assert not stub.seen


@pytest.mark.parametrize(
    "known",
    [{"sha256": "0" * 64}, {"num_bytes": len(DATA) + 1}, {"git_sha1": "0" * 40}],
    ids=["sha256", "bytes", "git"],
)
def test_other_bytes_than_promised_never_get_the_name(stub: Stub, tmp_path: Path, known: dict[str, object]) -> None:
    with pytest.raises(RemoteError):
        get(stub, tmp_path, **known)
    assert not (tmp_path / "chats.json").exists()


def test_a_git_blob_is_checked(stub: Stub, tmp_path: Path) -> None:
    blob = hashlib.sha1(f"blob {len(DATA)}\0".encode() + DATA).hexdigest()
    assert get(stub, tmp_path, git_sha1=blob)[0] == SHA256


def test_an_empty_file_is_a_file(stub: Stub, tmp_path: Path) -> None:
    stub.files[PATH] = b""
    assert get(stub, tmp_path, num_bytes=0) == (hashlib.sha256(b"").hexdigest(), 0)


@pytest.mark.parametrize(
    ("status", "known", "message", "hint"),
    [
        (404, {}, "HTTP 404, there is no such file", "check the address"),
        (410, {}, "HTTP 410, there is no such file", "check the address"),
        (400, {}, "HTTP 400, the server refuses", "check the address"),
        (
            403,
            {"terms_url": "https://hub/x"},
            "does not let you in",
            "accept the terms at https://hub/x, then `hf",
        ),
        (401, {}, "does not let you in", "give the local file"),
    ],
)
def test_a_refusal_is_not_tried_again(
    stub: Stub, tmp_path: Path, status: int, known: dict[str, object], message: str, hint: str
) -> None:
    stub.faults[PATH] = [str(status)]
    with pytest.raises(RemoteError, match=message) as error:
        get(stub, tmp_path, **known)
    assert hint in error.value.hint
    assert len(stub.seen) == 1


def test_nobody_there_is_a_remote_error(tmp_path: Path) -> None:
    file = RemoteFile(path="a", url="http://127.0.0.1:9/a")
    with pytest.raises(RemoteError, match="failed 4 times"):
        download_file(file, tmp_path / "a", headers={}, patience=QUICK)
    with pytest.raises(RemoteError, match="is no address"):
        download_file(RemoteFile(path="a", url="http://"), tmp_path / "a", headers={}, patience=QUICK)
