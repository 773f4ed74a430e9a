"""A folder is whole or it is not, and says which; what is whole is verified and never downloaded twice."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from download_stub_for_tests import Stub, download_stub

from ochatctl.data.download import DownloadReport, download, plan_into
from ochatctl.data.transfer import Patience
from ochatctl.errors import ConfigError, DataError, EnvironmentProblem, RemoteError, UsageProblem
from ochatctl.lock import hold

DATA = b"[" + b" " * 100_000 + b"]"
SHA256 = hashlib.sha256(DATA).hexdigest()
QUICK = Patience(num_tries=2, first_pause_seconds=0.001, timeout_seconds=5)


@pytest.fixture(scope="module")
def server() -> Iterator[Stub]:
    with download_stub() as stub:
        yield stub


@pytest.fixture
def stub(server: Stub) -> Stub:
    server.files, server.etags, server.faults, server.seen = {"/a.json": DATA}, {}, {}, []
    return server


def run(source: str, out: Path, **options: object) -> DownloadReport:
    return download(plan_into(source, out, **options), out, patience=QUICK)  # type: ignore[arg-type]  # of any option


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_address_is_downloaded_noted_and_verified(stub: Stub, tmp_path: Path) -> None:
    out, source = tmp_path / "new" / "out", f"{stub.url}/a.json"
    report = run(source, out)
    assert (report.num_new, report.num_bytes, report.files[0].sha256) == (1, len(DATA), SHA256)
    assert names(out) == ["a.json", "download.json"]
    manifest = json.loads((out / "download.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["source"]) == ("ochatctl-download", 1, source)
    assert manifest["files"] == [{"path": "a.json", "bytes": len(DATA), "sha256": SHA256, "url": source}]

    again = run(source, out)
    assert (again.num_new, again.files) == (0, report.files)
    assert len(stub.seen) == 1


def test_a_file_damaged_since_is_downloaded_again_and_only_it(stub: Stub, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.json").write_bytes(DATA)
    (source / "b.json").write_bytes(b"[]")
    out = tmp_path / "out"
    assert run(str(source), out).num_new == 2
    (out / "a.json").write_bytes(DATA[:-1] + b"}")
    assert run(str(source), out).num_new == 1
    assert (out / "a.json").read_bytes() == DATA
    assert run(str(source), out).num_new == 0
    (source / "b.json").write_bytes(b"[1]")
    (out / "b.json").unlink()
    with pytest.raises(DataError, match="SHA-256"):
        run(str(source), out)
    assert not (out / "download.json").exists()
    assert run(str(source), out, yes=True).num_new == 2
    assert (out / "b.json").read_bytes() == b"[1]"


def test_a_run_that_failed_is_finished_by_the_next(stub: Stub, tmp_path: Path) -> None:
    source = f"{stub.url}/a.json"
    stub.faults["/a.json"] = ["cut:40000", "503", "503"]
    with pytest.raises(RemoteError):
        run(source, tmp_path)
    assert "a.json" not in names(tmp_path)
    assert "download.json" not in names(tmp_path)
    stub.faults.clear()
    assert run(source, tmp_path).num_new == 1
    assert names(tmp_path) == ["a.json", "download.json"]
    assert stub.asked("/a.json")[-1] == "bytes=40000-"


def test_two_runs_into_one_folder_do_not_meet(stub: Stub, tmp_path: Path) -> None:
    out, source = tmp_path / "out", f"{stub.url}/a.json"
    with hold(out):
        with pytest.raises(EnvironmentProblem, match=f"in use by process {os.getpid()} on"):
            run(source, out)
        assert not stub.seen
    assert run(source, out).num_new == 1
    assert names(out) == ["a.json", "download.json"]


def test_what_is_not_ours_is_left_alone(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageProblem, match="exists"):
        run(f"{stub.url}/a.json", tmp_path)
    run(f"{stub.url}/a.json", tmp_path, yes=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(UsageProblem, match="exists"):
        run(f"{stub.url}/b.json", tmp_path)
    with pytest.raises(UsageProblem, match="is a file"):
        run(f"{stub.url}/a.json", tmp_path / "mine.txt")


def test_a_misspelt_address_leaves_the_folder_free_for_the_right_one(stub: Stub, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="404"):
        run(f"{stub.url}/A.json", tmp_path)
    assert run(f"{stub.url}/a.json", tmp_path).num_new == 1


def test_a_folder_is_not_copied_into_itself(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UsageProblem, match="copied into itself"):
        run(str(tmp_path), tmp_path / "out")
    with pytest.raises(UsageProblem, match="already"):
        run(str(tmp_path / "a.json"), tmp_path, yes=True)


def test_a_given_sha256_is_checked_also_on_what_is_there(stub: Stub, tmp_path: Path) -> None:
    source = f"{stub.url}/a.json"
    assert run(source, tmp_path, sha256=SHA256.upper()).num_new == 1
    assert run(source, tmp_path, sha256=SHA256).num_new == 0
    with pytest.raises(RemoteError, match="SHA-256"):
        run(source, tmp_path, sha256="0" * 64)


def test_a_newer_manifest_is_refused_with_both_versions(stub: Stub, tmp_path: Path) -> None:
    path = tmp_path / "download.json"
    path.write_text('{"format": "ochatctl-download", "version": 2}')
    with pytest.raises(DataError, match="version 2 of `ochatctl-download`; this ochatctl reads 1"):
        run(f"{stub.url}/a.json", tmp_path)
    path.write_text('{"format": "ochatctl-download", "version": 1, "source": "x"}')
    with pytest.raises(DataError, match="not a whole"):
        run(f"{stub.url}/a.json", tmp_path)


def test_includes_choose_and_another_choice_is_another_download(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a.json", "b.json"):
        (source / name).write_text("[]")
    run(str(source), tmp_path / "out", include=["a*"])
    assert names(tmp_path / "out") == ["a.json", "download.json"]
    assert run(str(source), tmp_path / "out").num_new == 0
    with pytest.raises(UsageProblem, match="exists"):
        run(str(source), tmp_path / "out", include=["b*"])
    with pytest.raises(ConfigError, match="no file that matches"):
        run(str(source), tmp_path / "other", include=["c*"])
