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
_HIDING = re.compile(r"<!--|<(script|style|textarea|title)\b", re.IGNORECASE)
_TAG_END = re.compile(r"""(?:[^>"']++|"[^"]*+"|'[^']*+')*+>""")
_LONGEST_TAG_CHARS = 4096
_SHOWN_CHARS = 1000


def page_item(page: bytes) -> Decoded:
    """Give the page's conversation, or the reason why it has none."""
    text = page_text(page)
    script = _script(text)
    if script is None:
        return Decoded(value=text[:_SHOWN_CHARS], problem=f"the page has no `{_DATA_ID}` script")
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


def _script(text: str) -> str | None:
    """Give the text of the script with the id of Next.js' data, or None.

    A parser of whole pages takes minutes for some that are broken on purpose, or by chance: 67 s for 200 kB of `<!--`.
    What can hide a script are comments and elements whose content is no markup; these are skipped, in linear time.
    """
    position = 0
    while found := _HIDING.search(text, position):
        if found[1] is None:
            end = text.find("-->", found.end())
            if end < 0:
                return None
            position = end + len("-->")
            continue
        tag = _TAG_END.match(text, found.end(), found.end() + _LONGEST_TAG_CHARS)
        if tag is None:
            position = found.end()
            continue
        # No closing tag: as browsers do, the content is all the rest.
        closing = re.compile(rf"</{found[1]}\b", re.IGNORECASE).search(text, tag.end())
        end = closing.start() if closing else len(text)
        if found[1].lower() == "script" and _id_of_tag(text[found.start() : tag.end()]) == _DATA_ID:
            return text[tag.end() : end]
        position = end
    return None


def _id_of_tag(tag: str) -> str | None:
    reader = _TagReader()
    reader.feed(tag)
    return reader.attributes.get("id")


class _TagReader(HTMLParser):
    """Takes the attributes of one tag."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.attributes: dict[str, str | None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes = dict(attrs)
