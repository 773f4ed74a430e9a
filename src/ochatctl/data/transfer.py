"""One file over HTTP, to its name only when it is whole: resumed, retried, checked.

in: a RemoteFile, out: the file and its SHA-256. What has come so far is `.NAME.part`; `.NAME.part.json` says of what.

huggingface-hub 2 gives each try a new temporary file, and so does not resume one that was killed: hence our own.
"""

import contextlib
import functools
import hashlib
import os
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.errors import OchatError, RemoteError
from ochatctl.files import digest, make_dir, read_json, require_disk, write_json
from ochatctl.hub import RemoteFile

_CHUNK_BYTES = 1 << 20
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a server may be silent, and how often we ask again where nothing came."""

    num_tries: int = 6
    first_pause_seconds: float = 0.5
    timeout_seconds: float = 30.0


class _Again(Exception):
    """What went wrong may not go wrong next time."""

    def __init__(self, reason: str, *, pause_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.pause_seconds = pause_seconds


def part_path(target: Path) -> Path:
    """Give the temporary name of a file."""
    return target.with_name(f".{target.name}.part")


def download_file(
    file: RemoteFile,
    target: Path,
    *,
    headers: dict[str, str],
    patience: Patience,
    advance: Callable[[int], None] = lambda count: None,
    whole: Callable[[Path, str], None] = lambda part, sha256: None,
) -> str:
    """Download one file and give its SHA-256; `whole` is told of it before the file has its name.

    Guarantees: bytes that are there are not asked for again, unless the server's file has changed since; nothing
    partial or wrong ever has the final name.

    Raises:
        RemoteError: the server refuses, goes on failing, or sends other bytes than it promised.
        EnvironmentProblem: the disk is too small.
    """
    make_dir(target.parent)
    part = part_path(target)
    sha256 = digest(part) if file.num_bytes is not None and _has_bytes(part, file.num_bytes) else ""
    if sha256 and not wrong_bytes(part, file, sha256):
        advance(part.stat().st_size)
    else:
        _Transfer(file, part, headers, patience, advance).run()
        sha256 = digest(part)
        if problem := wrong_bytes(part, file, sha256):
            _forget(part)
            raise RemoteError(
                f"`{file.url}`: {problem}",
                hint="run the command again; with `--yes`, if the file has changed since it was first downloaded",
            )
    with part.open("rb") as handle:
        os.fsync(handle.fileno())
    whole(part, sha256)
    part.replace(target)
    _forget(part)
    return sha256


def wrong_bytes(path: Path, file: RemoteFile, sha256: str) -> str:
    """Say what is wrong with a whole file, or nothing."""
    num_bytes = path.stat().st_size
    if file.num_bytes is not None and num_bytes != file.num_bytes:
        return f"it has {num_bytes:,} bytes, not {file.num_bytes:,}"
    if file.sha256 and sha256 != file.sha256.lower():
        return f"its SHA-256 is {sha256}, not {file.sha256}"
    if file.git_sha1 and _git_sha1(path, num_bytes) != file.git_sha1:
        return f"it is not the git blob {file.git_sha1}"
    return ""


class _Transfer:
    """One file on its way."""

    def __init__(
        self,
        file: RemoteFile,
        part: Path,
        headers: dict[str, str],
        patience: Patience,
        advance: Callable[[int], None],
    ) -> None:
        self._file, self._headers, self._patience, self._advance = file, headers, patience, advance
        self._part, self._state_path = part, _state_path(part)
        # What the hub promises names the content; what a server says of its file is asked for with `If-Range`.
        self._promised = file.sha256 or file.git_sha1
        self._validator = self._known_validator()
        self._num_bytes = self._part.stat().st_size if self._validator and self._part.is_file() else 0
        self._expected_bytes = file.num_bytes
        advance(self._num_bytes)

    def run(self) -> None:
        import httpx

        failed = 0
        timeout = httpx.Timeout(self._patience.timeout_seconds)
        with httpx.Client(
            follow_redirects=True, timeout=timeout, headers=self._headers, verify=_trusted_roots()
        ) as client:
            while self._num_bytes != self._expected_bytes or not self._part.exists():
                before = self._num_bytes
                try:
                    self._ask(client)
                    return
                except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                    raise RemoteError(f"`{self._file.url}` is no address: {error}") from error
                except (httpx.TransportError, httpx.TooManyRedirects, _Again) as error:
                    failed = 1 if self._num_bytes > before else failed + 1
                    if failed >= self._patience.num_tries:
                        reason = str(error) or type(error).__name__
                        raise RemoteError(
                            f"`{self._file.url}` failed {failed} times: {reason}",
                            hint="run the command again: what has come is kept, and the download goes on there",
                        ) from error
                    pause = error.pause_seconds if isinstance(error, _Again) else None
                    time.sleep(min(_LONGEST_PAUSE_SECONDS, pause or self._patience.first_pause_seconds * 2**failed / 2))

    def _ask(self, client: Any) -> None:
        # Compressed on the way, a range would be one of other bytes.
        headers = {"Accept-Encoding": "identity"}
        if self._num_bytes:
            headers["Range"] = f"bytes={self._num_bytes}-"
            if not self._promised:
                headers["If-Range"] = self._validator
        with client.stream("GET", self._file.url, headers=headers) as response:
            if response.status_code == 416 and self._num_bytes:
                total = response.headers.get("Content-Range", "").rpartition("/")[2]
                if total == str(self._num_bytes) and not self._promised:
                    return
                self._restart("")
                raise _Again("the server has fewer bytes than there are here")
            self._check_status(response)
            resumed = response.status_code == 206 and self._continues(response)
            encoded = response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity")
            if not resumed:
                self._restart("" if encoded else self._promised or _validator_of(response.headers))
            length = response.headers.get("Content-Length", "")
            if length.isdigit() and not encoded:
                self._expected_bytes = self._num_bytes + int(length)
                require_disk(self._part, need_bytes=int(length))
            # Of no fixed size: chunks are gathered in memory otherwise, and lost with the connection.
            chunks: Iterator[bytes] = response.iter_bytes() if encoded else response.iter_raw()
            self._write(chunks)

    def _write(self, chunks: Iterator[bytes]) -> None:
        with self._part.open("ab") as out:
            for chunk in chunks:
                out.write(chunk)
                out.flush()
                self._num_bytes += len(chunk)
                self._advance(len(chunk))

    def _restart(self, validator: str) -> None:
        self._advance(-self._num_bytes)
        self._num_bytes, self._validator = 0, validator
        # In this order, a part never goes by another one's validator.
        self._part.unlink(missing_ok=True)
        write_json(self._state_path, {"url": self._file.url, "validator": validator})
        self._part.touch()

    def _known_validator(self) -> str:
        with contextlib.suppress(OchatError):
            state = read_json(self._state_path)
            if isinstance(state, dict) and state.get("url") == self._file.url:
                validator = str(state.get("validator", ""))
                return validator if validator == self._promised or not self._promised else ""
        return ""

    def _continues(self, response: Any) -> bool:
        unit, _, spans = response.headers.get("Content-Range", "").partition(" ")
        first = spans.partition("-")[0]
        if unit != "bytes" or first != str(self._num_bytes):
            self._restart("")
            raise _Again("the server gave another range than the one asked for")
        return True

    def _check_status(self, response: Any) -> None:
        status, url = response.status_code, self._file.url
        if status in (200, 206):
            return
        if status in _TRANSIENT:
            after = response.headers.get("Retry-After", "")
            raise _Again(f"HTTP {status}", pause_seconds=float(after) if after.isdigit() else None)
        terms = self._file.terms_url
        if status in (401, 403):
            raise RemoteError(
                f"`{url}`: HTTP {status}, the server does not let you in",
                hint=f"accept the terms at {terms}, then `hf auth login`, or set `HF_TOKEN`"
                if terms
                else "download it another way, then give the local file to `ochatctl data download`",
            )
        what = "there is no such file" if status in (404, 410) else "the server refuses"
        raise RemoteError(f"`{url}`: HTTP {status}, {what}", hint="check the address")


@functools.cache
def _trusted_roots() -> ssl.SSLContext:
    """Read the root certificates once, not once a file."""
    import httpx

    return httpx.create_ssl_context()


def _state_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def _has_bytes(path: Path, num_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == num_bytes


def _validator_of(headers: Any) -> str:
    """Give what tells that the file is still the same: a strong ETag or a date. `If-Range` takes no weak one."""
    etag = str(headers.get("ETag", ""))
    return etag if etag and not etag.startswith("W/") else str(headers.get("Last-Modified", ""))


def _git_sha1(path: Path, num_bytes: int) -> str:
    state = hashlib.sha1(f"blob {num_bytes}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()
