"""A saved ShareGPT page -> the conversation that its `__NEXT_DATA__` script holds.

in: the bytes of an HTML page, out: an object with `items`, as ShareGPT's own JSON has it, or why there is none.

Source: OpenChat 3.2.2's `clean_sharegpt.py`, which takes `props.pageProps.content` and adds the page's id.
"""

import json
import re
from html.parser import HTMLParser
from typing import Any

from ochatctl.data.json_stream import Decoded

LONGEST_PAGE_BYTES = 1 << 26
_META_CHARSET = re.compile(rb"<meta[^>]{0,512}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_META_BYTES = 4096
# As browsers do: the label means its superset.
_WINDOWS_1252 = ("iso-8859-1", "iso8859-1", "latin-1", "latin1", "us-ascii", "ascii")
_DATA_ID = "__NEXT_DATA__"
_SHOWN_CHARS = 1000


def page_item(page: bytes) -> Decoded:
    """Give the page's conversation, or the reason why it has none."""
    text = page_text(page)
    finder = _ScriptFinder()
    try:
        finder.feed(text)
        finder.close()
    except AssertionError:
        # The standard library's way to say that it gives up on a declaration.
        return Decoded(value=text[:_SHOWN_CHARS], problem="the page cannot be parsed")
    if not finder.found:
        return Decoded(value=text[:_SHOWN_CHARS], problem=f"the page has no `{_DATA_ID}` script")
    script = "".join(finder.parts)
    try:
        data = json.loads(script)
    except (ValueError, RecursionError):
        return Decoded(value=script[:_SHOWN_CHARS], problem=f"the page's `{_DATA_ID}` is not valid JSON")
    properties = _inner(_inner(data, "props"), "pageProps")
    content = _inner(properties, "content")
    if not isinstance(content, dict):
        return Decoded(value=data, problem="the page holds no conversation")
    name = properties.get("id") or content.get("id")
    return Decoded(value={**content, **({"id": name} if isinstance(name, (str, int)) else {})})


def page_text(page: bytes) -> str:
    """Decode a page: as UTF-8 where it is that, else as its `<meta charset>` says; what is neither stays visible."""
    try:
        return page.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    declared = _META_CHARSET.search(page[:_META_BYTES])
    name = declared[1].decode("ascii", "replace").lower() if declared else ""
    if page[:2] in (b"\xff\xfe", b"\xfe\xff"):
        name = "utf-16"
    try:
        return page.decode("cp1252" if name in _WINDOWS_1252 else name) if name else _kept(page)
    except (LookupError, ValueError):
        return _kept(page)


def _kept(page: bytes) -> str:
    # Lone surrogates: only the turns that hold them are rejected.
    return page.decode("utf-8", "surrogateescape")


def _inner(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


class _ScriptFinder(HTMLParser):
    """Collects the text of the script with the id of Next.js' data."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found = False
        self.parts: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script" and ("id", _DATA_ID) in attrs and not self.found:
            self.found = self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.parts.append(data)

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        # HTML's rule for `<![` outside of foreign elements: a comment up to the next `>`. The base class may raise.
        end = self.rawdata.find(">", i)
        return end + 1 if end >= 0 else -1
