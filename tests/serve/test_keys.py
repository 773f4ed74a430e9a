"""Keys: made once, kept as hashes, recognised whatever the order, and never shown."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ochatctl.cli.app import app
from ochatctl.cli.commands import register
from ochatctl.errors import ConfigError, DataError, EnvironmentProblem, UsageProblem
from ochatctl.serve.keys import KeyRing, check_keys, new_key, read_keys, revoke_key

register(app)


def test_a_new_key_opens_and_its_file_does_not_hold_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = {name: new_key(path, name) for name in ("alice", "bob")}
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(key in path.read_text() for key in keys.values())
    ring = KeyRing(("sk-1",), path)
    assert (len(ring), ring.is_open) == (3, False)
    assert [ring.name_of(key.encode()) for key in (*keys.values(), "sk-1", "sk-", "")] == [
        "alice", "bob", "key-1", None, None,
    ]  # fmt: skip
    assert not any(key in repr(vars(ring)) for key in (*keys.values(), "sk-1"))
    revoke_key(path, "alice")
    assert ring.name_of(keys["alice"].encode()) == "alice"
    ring.reload()
    assert ring.name_of(keys["alice"].encode()) is None
    assert ring.name_of(keys["bob"].encode()) == "bob"


def test_a_file_without_keys_opens_for_nobody_and_no_file_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = new_key(path, "a")
    revoke_key(path, "a")
    ring = KeyRing(file=path)
    assert (ring.is_open, len(ring), ring.name_of(key.encode())) == (False, 0, None)
    assert KeyRing().is_open


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "x" * 65, "ä", "a/b", '"'])
def test_a_name_that_could_break_a_log_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageProblem):
        new_key(tmp_path / "keys.json", name)
    assert not (tmp_path / "keys.json").exists()


def test_a_name_is_given_once(tmp_path: Path) -> None:
    new_key(tmp_path / "keys.json", "a")
    with pytest.raises(UsageProblem, match="already"):
        new_key(tmp_path / "keys.json", "a")
    with pytest.raises(UsageProblem, match="no key `b`"):
        revoke_key(tmp_path / "keys.json", "b")


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"format":"ochatctl-keys","version":2,"keys":[]}', '{"format":"ochatctl-keys","keys":[]}',
        '{"format":"ochatctl-keys","version":1}', '{"format":"ochatctl-keys","version":1,"keys":[1]}',
        '{"format":"ochatctl-keys","version":1,"keys":[{"name":"a","sha256":"sk-1"}]}',
        '{"format":"ochatctl-keys","version":1,"keys":[{"name":"a\\nb","sha256":"%s"}]}' % ("0" * 64),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"keys\.json"):
        read_keys(path)


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match=r"keys\.json: cannot be written"):
        new_key(tmp_path / "file" / "keys.json", "a")
    assert (
        CliRunner().invoke(app, ["keys", "new", "--name", "a", "--file", str(tmp_path / "file" / "k")]).exit_code == 5
    )
    with pytest.raises(DataError, match="cannot be read"):
        read_keys(tmp_path)


def test_a_file_that_a_server_was_given_stays_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.json"
    new_key(path, "a")
    path.chmod(0o640)
    given = []
    monkeypatch.setattr(os, "chown", lambda file, owner, group: given.append((owner, group)))
    new_key(path, "b")
    revoke_key(path, "a")
    assert path.stat().st_mode & 0o777 == 0o640
    assert given == [(path.stat().st_uid, path.stat().st_gid)] * 2
    assert [key.name for key in read_keys(path)] == ["b"]


def test_a_ring_keeps_its_keys_where_its_file_breaks(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = new_key(path, "a").encode()
    ring = KeyRing(file=path)
    path.write_text("{")
    with pytest.raises(DataError):
        ring.reload()
    assert ring.name_of(key) == "a"


@pytest.mark.parametrize("key", ["", "a b", "a\n", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_unshown(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_keys([key])
    assert not key or key not in caught.value.message


def test_the_commands_make_list_and_revoke(tmp_path: Path) -> None:
    file = ["--file", str(tmp_path / "keys.json")]

    def call(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["keys", *arguments, *file])
        return result.exit_code, result.stdout

    code, key = call("new", "--name", "alice")
    assert (code, KeyRing(file=Path(file[1])).name_of(key.strip().encode())) == (0, "alice")
    code, listed = call("list", "--json")
    assert [each["name"] for each in json.loads(listed)] == ["alice"]
    assert key.strip() not in listed
    assert call("revoke", "--name", "alice") == (0, "")
    assert call("revoke", "--name", "alice")[0] == 2
