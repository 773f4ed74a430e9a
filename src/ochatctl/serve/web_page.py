"""The chat page: the files that `web/` was built into, held in memory, each at an address of its own.

in: the folder `serve/web`, out: what is answered for each of its files. Nothing else of the disk can be asked for.
"""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response

INDEX = "/"
_INDEX_FILE = "index.html"
# A script, a style, a font, a picture or a call of another origin, and any inline script, is refused by the browser.
_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFETY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Their names hold a digest of what is in them; the page's own address always gives the newest.
_FOREVER = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
}
_SMALLER = (".html", ".js", ".css", ".json", ".svg", ".txt", ".md")


@dataclass(frozen=True, kw_only=True, slots=True)
class WebFile:
    """One file, whole and squeezed; `squeezed` is None where that saves nothing."""

    content: bytes
    squeezed: bytes | None
    headers: Mapping[str, str]

    async def answer(self, request: Request) -> Response:
        """Give the file, or 304 where the browser has it."""
        etag = self.headers["ETag"]
        if etag in (part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")):
            kept = {name: self.headers[name] for name in ("ETag", "Cache-Control", "Vary")}
            return Response(status_code=304, headers=kept)
        takes = request.headers.get("accept-encoding", "")
        if self.squeezed is not None and "gzip" in takes and "gzip;q=0" not in takes.replace(" ", ""):
            return Response(self.squeezed, headers={**self.headers, "Content-Encoding": "gzip"})
        return Response(self.content, headers=dict(self.headers))


def read_page(folder: Traversable | None = None) -> dict[str, WebFile]:
    """Give each built file by its address; nothing where the page was never built, as in a bare checkout."""
    folder = folder or files("ochatctl.serve").joinpath("web")
    if not folder.joinpath(_INDEX_FILE).is_file():
        return {}
    return {address: _read(address, part) for address, part in _walk(folder, "/")}


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    out: list[tuple[str, Traversable]] = []
    for part in sorted(folder.iterdir(), key=lambda part: part.name):
        if part.is_dir():
            out += _walk(part, f"{prefix}{part.name}/")
        elif prefix + part.name == INDEX + _INDEX_FILE:
            out.append((INDEX, part))
        elif _suffix(part.name) in _MEDIA_TYPES:
            out.append((prefix + part.name, part))
    return out


def _read(address: str, part: Traversable) -> WebFile:
    content, suffix = part.read_bytes(), _suffix(part.name)
    squeezed = gzip.compress(content, mtime=0) if suffix in _SMALLER else content
    headers = {
        "Content-Type": _MEDIA_TYPES[suffix],
        "Cache-Control": _FOREVER if address.startswith("/assets/") else _ASK_AGAIN,
        "Content-Security-Policy": _POLICY,
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        "Vary": "Accept-Encoding",
        **_SAFETY,
    }
    return WebFile(content=content, squeezed=squeezed if len(squeezed) < len(content) else None, headers=headers)


def _suffix(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""
