"""HTML of a chat page -> the Markdown that it was rendered from.

ShareGPT saved what the browser showed: answers as HTML with buttons, page numbers and syntax colours in it, questions
as plain text. What was typed, HTML in it or not, must come through as it is; so a text counts as a page's only by
signs that a page leaves.
"""

import contextlib
import re
import warnings
from collections.abc import Iterator

from bs4 import BeautifulSoup, Tag
from bs4.element import Comment, NavigableString
from bs4.exceptions import ParserRejectedMarkup
from markdownify import MarkdownConverter, markdownify

# Classes of the elements in which chat pages put a message; the common ones are in pages of other people too.
_PAGE_CLASSES = frozenset(("markdown", "result-streaming", "request-message"))
_COMMON_CLASSES = frozenset(("prose", "whitespace-pre-wrap", "break-words", "text-base"))
_BLOCKS = frozenset(("p", "pre", "ol", "ul", "h1", "h2", "h3", "h4", "h5", "h6", "table", "blockquote", "hr"))
# What Markdown renders to. A page that somebody wrote has other elements, or names what it has.
_RENDERED = _BLOCKS | {
    "a", "annotation", "b", "br", "button", "code", "del", "div", "em", "i", "img", "input", "li", "math", "mfrac",
    "mi", "mn", "mo", "mover", "mrow", "mspace", "msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd",
    "mtext", "mtr", "munder", "munderover", "s", "semantics", "span", "strong", "sub", "sup", "tbody", "td", "th",
    "thead", "tr",
}  # fmt: skip
_PLAIN_ATTRIBUTES = frozenset((
    "align", "alt", "checked", "class", "colspan", "disabled", "encoding", "height", "href", "rel", "rowspan", "src",
    "start", "style", "target", "title", "type", "width",
))  # fmt: skip
_NEVER_SHOWN = ("button", "svg", "script", "style", "noscript", "textarea", "select")

_FIRST_TAG = re.compile(r"\s*(?:\d+ ?/ ?\d+\s*)?<([a-z][a-z0-9]*)((?:\s[^<>]*)?)>", re.IGNORECASE)
_CLASS = re.compile(r"""\sclass\s*=\s*["']([^"']*)["']""", re.IGNORECASE)
_ENDS_IN_TAG = re.compile(r">\s*(?:\d+ ?/ ?\d+\s*|Copy(?: code|\d+ chars / \d+ words)\s*)?\Z")
# Texts of the page itself: of which answers this is, of the copy buttons of the page and of plug-ins, of a warning.
_PAGE_TEXT = re.compile(
    r"\d+ ?/ ?\d+|Copy code|Copy(?:\d+ chars / \d+ words)?|\d+ chars / \d+ words|Copied!|"
    r"This content may violate our content policy\..*",
    re.DOTALL,
)
_COPY = re.compile(r"\s*(?:Copy code|Copied!|Copy)\s*")
_LANGUAGE_CLASS = re.compile(r"lang(?:uage)?-(\S+)")
_LANGUAGE_LABEL = re.compile(r"[A-Za-z][\w.+#-]{0,24}")
_BACKTICKS = re.compile(r"`+")


def page_to_markdown(text: str, *, from_user: bool, answers_rendered: bool = True) -> str | None:
    """Give the Markdown of a message that is HTML of a chat page, or None where it is not.

    An answer that a page wraps in an element of its own is known by its class. Any other answer that is nothing but
    what Markdown renders to, and a wrapped question, count only where all the conversation's answers look rendered.

    Guarantees: the text inside code comes out as it is, but for the indentation of the list that it stands in.

    Raises:
        ValueError: HTML that cannot be parsed, or is nested too deep.
    """
    classes = _first_classes(text)
    wrapped = not classes.isdisjoint(_PAGE_CLASSES) and not from_user
    if not wrapped:
        if not answers_rendered:
            return None
        wrapped = not classes.isdisjoint(_PAGE_CLASSES | _COMMON_CLASSES)
        if not wrapped and (from_user or not looks_rendered(text)):
            return None
    with _faults_as_value_errors():
        soup = BeautifulSoup(text, "html.parser")
        if not wrapped and not _is_only_rendered(soup):
            return None
        _remove_page_parts(soup)
        _mark_formulas(soup)
        return str(_Converter().convert_soup(soup)).strip()


def plain_markdownify(text: str) -> str:
    """Give what markdownify makes of a text by itself, whether that is HTML or not.

    Raises:
        ValueError: HTML that cannot be parsed, or is nested too deep.
    """
    with _faults_as_value_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bs4 remarks on texts that look like a file's name or an address
        return markdownify(text)


@contextlib.contextmanager
def _faults_as_value_errors() -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    except ParserRejectedMarkup as error:
        raise ValueError("a declaration such as `<![` is not closed") from error


def looks_rendered(text: str) -> bool:
    """Tell whether an answer begins and ends as one that a page rendered, wrapped or not."""
    first = _FIRST_TAG.match(text)
    if first is None or not _ENDS_IN_TAG.search(text):
        return False
    return first[1].lower() in _BLOCKS or not _first_classes(text).isdisjoint(_PAGE_CLASSES | _COMMON_CLASSES)


def _first_classes(text: str) -> frozenset[str]:
    first = _FIRST_TAG.match(text)
    classes = _CLASS.search(first[2]) if first else None
    return frozenset(classes[1].split()) if classes else frozenset()


def _is_only_rendered(soup: BeautifulSoup) -> bool:
    for child in soup.children:
        if isinstance(child, NavigableString):
            if child.strip() and not _PAGE_TEXT.fullmatch(child.strip()):
                return False
        elif isinstance(child, Tag) and child.name not in _BLOCKS:
            return False
    return all(
        (tag.name in _RENDERED and _PLAIN_ATTRIBUTES.issuperset(tag.attrs)) or tag.find_parent("button") is not None
        for tag in soup.find_all(True)
    )


def _remove_page_parts(soup: BeautifulSoup) -> None:
    for tag in soup.find_all(_NEVER_SHOWN):
        if not _in_code(tag):
            tag.decompose()
    for string in list(soup.find_all(string=True)):
        if isinstance(string, Comment) or (_PAGE_TEXT.fullmatch(string.strip()) and not _in_content(string)):
            string.extract()


def _in_code(node: Tag | NavigableString) -> bool:
    return node.find_parent("code") is not None


def _in_content(node: NavigableString) -> bool:
    """Tell what somebody wrote from what stands around it: it is in an element that Markdown renders to."""
    return node.find_parent([*_BLOCKS, "li", "td", "th", "code"]) is not None


def _mark_formulas(soup: BeautifulSoup) -> None:
    """Put a `<tex>` in the place of what KaTeX made of each formula: it keeps the source in an annotation."""
    for source in soup.find_all("annotation"):
        formula: Tag = source
        display = False
        for parent in source.parents:
            classes = set(_classes(parent))
            if parent.name != "math" and not classes & {"katex", "katex-display", "math", "katex-mathml"}:
                if parent.name in ("semantics", "mrow"):
                    continue
                break
            formula = parent
            display = display or "katex-display" in classes or "math-display" in classes
            display = display or parent.get("display") == "block"
        if source.get("encoding") == "application/x-tex" and formula is not source:
            tex = soup.new_tag("tex", attrs={"class": "display" if display else "inline"})
            tex.string = source.get_text().strip()
            formula.replace_with(tex)


def _classes(tag: Tag) -> Iterator[str]:
    value = tag.get("class")
    yield from value.split() if isinstance(value, str) else value or ()


class _Converter(MarkdownConverter):
    """Markdownify, with the code taken from the DOM and no escapes: `my_name` is what the model had written."""

    def __init__(self) -> None:
        super().__init__(
            autolinks=False, bullets="-", escape_asterisks=False, escape_underscores=False, heading_style="atx"
        )

    def convert_pre(self, tag: Tag, text: str, parent_tags: set[str]) -> str:
        code, language = _code_of(tag)
        if not code.strip():
            return ""
        fence = "`" * max(3, 1 + max(map(len, _BACKTICKS.findall(code)), default=0))
        newline = "" if code.endswith("\n") else "\n"
        return f"\n\n{fence}{language}\n{code}{newline}{fence}\n\n"

    def convert_code(self, tag: Tag, text: str, parent_tags: set[str]) -> str:
        code = tag.get_text()
        if "pre" in parent_tags or not code:
            return code
        runs = set(map(len, _BACKTICKS.findall(code)))
        ticks = "`" * next(count for count in range(1, len(runs) + 2) if count not in runs)
        space = " " if code.startswith("`") or code.endswith("`") else ""
        return f"{ticks}{space}{code}{space}{ticks}"

    def convert_tex(self, tag: Tag, text: str, parent_tags: set[str]) -> str:
        formula = tag.get_text()
        return f"\n$$\n{formula}\n$$\n" if "display" in _classes(tag) else f"${formula}$"

    def convert_br(self, tag: Tag, text: str, parent_tags: set[str]) -> str:
        return " " if "_inline" in parent_tags else "\n"

    def convert_div(self, tag: Tag, text: str, parent_tags: set[str]) -> str:
        # A question is shown with its own line breaks; it holds no element but such as the page adds.
        if "whitespace-pre-wrap" in _classes(tag) and tag.find([*_BLOCKS, "div"]) is None:
            text = tag.get_text()
        return f"\n\n{text.strip()}\n\n" if text.strip() else ""

    def convert_a(self, tag: Tag, text: str, parent_tags: set[str]) -> str:
        href = tag.get("href")
        return text if not href or text.strip() == href else f"[{text.strip()}]({href})"

    def convert_img(self, tag: Tag, text: str, parent_tags: set[str]) -> str:
        # A picture that is its own address would be thousands of characters of base64.
        source, alt = str(tag.get("src") or ""), str(tag.get("alt") or "")
        return alt if not source or source.startswith("data:") else f"![{alt}]({source})"


def _code_of(pre: Tag) -> tuple[str, str]:
    """Give a block's code and its language; a header above the code names it, beside the copy button."""
    found = pre.find("code")
    if not isinstance(found, Tag):
        return pre.get_text().removeprefix("\n"), ""
    language = next((match[1] for name in _classes(found) if (match := _LANGUAGE_CLASS.fullmatch(name))), "")
    around = [string for string in pre.find_all(string=True) if found not in string.parents]
    header = _COPY.sub(" ", "".join(around)).strip()
    if not header or _LANGUAGE_LABEL.fullmatch(header):
        return found.get_text(), language or header
    if found.find_parent("div") in pre.find_all("div"):
        return found.get_text(), language  # the header says something else, such as a file's name
    return pre.get_text().removeprefix("\n"), language
