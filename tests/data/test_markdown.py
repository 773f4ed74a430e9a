"""HTML of chat pages becomes the Markdown it was rendered from; what somebody typed stays as it is."""

import html

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.data.formats import Draft, Rejected
from ochatctl.data.markdown import looks_rendered, page_to_markdown
from ochatctl.data.rules import convert_html


def page(inner: str) -> str:
    return f'<div class="markdown prose w-full break-words dark:prose-invert dark">{inner}</div>'


def code_block(code: str, language: str = "python", *, header: str | None = None) -> str:
    """Give a code block as ChatGPT's page shows it, with its header, button and colours."""
    label = header if header is not None else f"<span>{language}</span>"
    button = (
        '<button class="flex ml-auto gap-2"><svg stroke="currentColor"><path d="M16 4"></path></svg>Copy code</button>'
    )
    named = f" language-{language}" if language else ""
    return (
        f'<pre><div class="bg-black mb-4 rounded-md"><div class="flex items-center text-gray-200">{label}{button}</div>'
        f'<div class="p-4 overflow-y-auto"><code class="!whitespace-pre hljs{named}">{code}</code></div></div></pre>'
    )


def katex(tex: str, *, display: bool = False) -> str:
    inner = (
        '<span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>seen</mi></mrow>'
        f'<annotation encoding="application/x-tex">{html.escape(tex)}</annotation></semantics></math></span>'
        '<span class="katex-html" aria-hidden="true"><span class="base">seen</span></span></span>'
    )
    if display:
        return f'<div class="math math-display"><span class="katex-display">{inner}</span></div>'
    return f'<span class="math math-inline">{inner}</span>'


@pytest.mark.parametrize(
    ("inner", "markdown"),
    [
        ("<p>a_b *c* &lt;div&gt; &amp;amp;</p>", "a_b *c* <div> &amp;"),
        ("<p>one</p>\n<p>two<br>three</p>", "one\n\ntwo\nthree"),
        ("<p><strong>b</strong> <em>i</em> <del>d</del> <code>x_1 &lt;b&gt;</code></p>", "**b** *i* ~~d~~ `x_1 <b>`"),
        ("<p><code>a`b</code> <code>`</code></p>", "``a`b`` `` ` ``"),
        ("<h1>A</h1><h3>B</h3><hr><blockquote><p>q</p></blockquote>", "# A\n\n### B\n\n---\n\n> q"),
        ("<ul><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li><li>d</li></ul>", "- a\n  - b\n    - c\n- d"),
        ('<ol start="3"><li><p>a</p></li><li><p>b</p></li></ol>', "3. a\n4. b"),
        ("<ol><li>a<ul><li>b</li></ul></li></ol>", "1. a\n   - b"),
        (
            "<table><thead><tr><th>a</th><th>b</th></tr></thead>"
            "<tbody><tr><td>1</td><td>2 / 2</td></tr></tbody></table>",
            "| a | b |\n| --- | --- |\n| 1 | 2 / 2 |",
        ),
        ('<p><a href="http://a.b" target="_new">http://a.b</a>, <a href="/c">c</a></p>', "http://a.b, [c](/c)"),
        ('<p><img src="u.png" alt="A"> <img src="data:image/png;base64,xx" alt="B"></p>', "![A](u.png) B"),
        (f"<p>in {katex('x_1 < 2')} line</p>", "in $x_1 < 2$ line"),
        (katex("a\\\\\nb", display=True), "$$\na\\\\\nb\n$$"),
        ("<p>1 / 2</p><p>Copy code</p>", "1 / 2\n\nCopy code"),
        ("<p>a</p><style>b</style><script>c</script><button>Regenerate</button>", "a"),
        ("<p>unclosed <b>bold", "unclosed **bold**"),
        ("", ""),
    ],
)
def test_a_page_becomes_markdown(inner: str, markdown: str) -> None:
    assert page_to_markdown(page(inner), from_user=False) == markdown


@pytest.mark.parametrize(
    ("block", "markdown"),
    [
        (code_block("a\n\n\n\nb  \n"), "```python\na\n\n\n\nb  \n```"),
        (code_block('<span class="hljs-keyword">if</span> x_y:\n\tpass'), "```python\nif x_y:\n\tpass\n```"),
        (
            code_block("&lt;div&gt;\n  Copy code\n2 / 2\n&lt;/div&gt;", "html"),
            "```html\n<div>\n  Copy code\n2 / 2\n</div>\n```",
        ),
        (code_block("x", "", header="<span>c++</span>"), "```c++\nx\n```"),
        (code_block("x", "", header=""), "```\nx\n```"),
        (code_block("x", "bash", header="<span>my file.sh</span>"), "```bash\nx\n```"),
        (code_block("a\n```\nb", "markdown"), "````markdown\na\n```\nb\n````"),
        (code_block(""), ""),
        ("<pre><code>a\n b</code></pre>", "```\na\n b\n```"),
        ("<pre>a <code>b</code> c</pre>", "```\na b c\n```"),
        ("<pre>\nno\n  code</pre>", "```\nno\n  code\n```"),
        (
            "<ol><li><p>a</p>" + code_block("x\n\n y") + "</li><li>b</li></ol>",
            "1. a\n\n   ```python\n   x\n\n    y\n   ```\n2. b",
        ),
    ],
)
def test_code_comes_out_as_it_is_with_its_language_and_without_its_header(block: str, markdown: str) -> None:
    assert page_to_markdown(page(block), from_user=False) == markdown


@pytest.mark.parametrize(
    "text",
    [
        f"2 / 2{page('<p>a</p>')}",
        f"{page('<p>a</p>')}2 / 3",
        f"{page('<p>a</p>')}Copy7 chars / 1 words",
        page('<p>a</p><div class="text-xs"><button>‹</button><span class="flex-grow">2 / 2</span></div>'),
        page("<p>a</p><div>This content may violate our content policy. If you believe this to be in error</div>"),
        page("<!-- a remark --><p>a</p>"),
        "<p>a</p>",
        "\n<p>a</p>\n",
    ],
)
def test_what_the_page_adds_is_removed(text: str) -> None:
    assert page_to_markdown(text, from_user=False) == "a"


@pytest.mark.parametrize(
    ("text", "from_user"),
    [
        ("<div>Why is this <b>not</b> centred?</div>", True),
        ("<p>Is this a paragraph?</p>", True),
        ("What does <div class='markdown'> do?", True),
        ("2 / 2 is 1", True),
        ("1 / 2\n\n\n+ 1 / 2", False),
        ("Copy code", False),
        ("python\nCopy code\nimport a\\_b", True),
        ("Use `<div>`:\n\n\n```html\n<div>\n</div>\n```", False),
        ('<div class="modal fade" id="m"><p>Hi</p></div>', False),
        ("<p>one</p> and more", False),
        ("<p id='x'>a</p>", False),
        ("<p onclick='x()'>a</p>", False),
        ("<p>a</p><form><p>b</p></form>", False),
        ("<!DOCTYPE html><html><body><p>a</p></body></html>", False),
        ("<p>a</p><script>b</script>", False),
        ("a < b and b > c", False),
        ("<think>hm</think>", False),
        ("", False),
    ],
)
def test_what_was_typed_stays_as_it_is(text: str, from_user: bool) -> None:
    assert page_to_markdown(text, from_user=from_user) is None


def test_a_question_keeps_its_line_breaks() -> None:
    question = '<div class="flex flex-col items-start gap-4 whitespace-pre-wrap">a\n\n\n  b &lt;p&gt;</div>'
    assert page_to_markdown(question, from_user=True) == "a\n\n\n  b <p>"


def test_html_that_somebody_typed_is_kept_where_answers_are_not_rendered() -> None:
    def run(*turns: tuple[str, str]) -> list[str]:
        messages = tuple(Message(role=role, content=text) for role, text in turns)
        result = convert_html(Draft(conversation=Conversation(messages=messages)))
        assert isinstance(result, Draft)
        assert len(result.mended) == (result.conversation.messages != messages)
        return [message.content for message in result.conversation.messages]

    def answers(*texts: str) -> list[str]:
        return run(*(("assistant", text) for text in texts))

    styled = '<div class="prose lg:prose-xl"><p>a</p></div>'
    assert answers("Here it is.", "<p>a</p>", styled) == ["Here it is.", "<p>a</p>", styled]
    assert answers("<p>Here it is.</p>", "<p>a</p>", styled) == ["Here it is.", "a", "a"]
    assert answers(page("<p>x</p>"), "Plain") == ["x", "Plain"]
    assert run(("user", styled), ("assistant", "Plain")) == [styled, "Plain"]
    assert run(("user", page("<p>x</p>")), ("assistant", "Plain")) == [page("<p>x</p>"), "Plain"]
    assert run(("user", styled), ("assistant", page("<p>x</p>"))) == ["a", "x"]
    assert run(("user", "<p>x</p>"), ("assistant", page("<p>x</p>"))) == ["<p>x</p>", "x"]
    assert run(("user", styled)) == [styled]
    assert looks_rendered(page(""))


def test_html_that_cannot_be_read_is_rejected() -> None:
    deep = page("<ul><li>" * 2000)
    message = Message(role="assistant", content=deep)
    result = convert_html(Draft(conversation=Conversation(messages=(message,))))
    assert isinstance(result, Rejected)
    assert result.reason == "HTML that cannot be read"


code_texts = st.text(
    st.sampled_from("ab_*`~<>&#|\\-1/ \t\n") | st.characters(exclude_categories=["Cs", "Cc"]), max_size=40
)


@given(code_texts, st.booleans())
@settings(deadline=None, max_examples=30)
def test_text_inside_code_is_untouched(code: str, in_list: bool) -> None:
    block = code_block(html.escape(code))
    result = page_to_markdown(page(f"<ul><li>a{block}</li></ul>" if in_list else f"<p>a</p>{block}"), from_user=False)
    assert result is not None
    if not code.strip():
        assert "```" not in result
        return
    lines = result.split("\n")
    if in_list:
        lines = [line.removeprefix("  ") for line in lines]
    opening = next(index for index, line in enumerate(lines) if line.endswith("python") and line.startswith("```"))
    fence = lines[opening].removesuffix("python")
    assert lines[-1] == fence
    assert "\n".join(lines[opening + 1 : -1]) == code.removesuffix("\n")


@given(st.text(st.sampled_from("<>/ \"'=!-[]&;abdivp`\n"), max_size=60))
@settings(deadline=None, max_examples=30)
def test_any_text_is_read_or_refused(text: str) -> None:
    for value in (text, page(text)):
        try:
            result = page_to_markdown(value, from_user=False)
        except ValueError:
            continue
        assert result is None or isinstance(result, str)
