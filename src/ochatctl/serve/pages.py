"""What a browser sees at `/`."""

import html
import json

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>ochatctl</title>
<style>body{{font:16px/1.5 system-ui;max-width:44rem;margin:3rem auto;padding:0 1rem}}pre{{overflow:auto}}</style>
<h1>ochatctl</h1>
<p>An OpenAI-compatible chat endpoint that serves <code>{model}</code>. Try it:</p>
<pre>{curl}</pre>
<p><code>ochatctl chat</code> talks to it from a terminal.</p>
</html>
"""


def curl_line(base_url: str, model_name: str, *, needs_key: bool) -> str:
    """Give a command that asks the server something."""
    key = ' -H "Authorization: Bearer $OCHATCTL_API_KEY"' if needs_key else ""
    body = json.dumps({"model": model_name, "messages": [{"role": "user", "content": "Hello"}]}).replace("'", "\\u0027")
    return f"curl {base_url}/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"


def front_page(base_url: str, model_name: str, *, needs_key: bool) -> str:
    """Give a page without scripts: what this is, and how to ask it."""
    curl = curl_line(base_url, model_name, needs_key=needs_key)
    return _PAGE.format(model=html.escape(model_name), curl=html.escape(curl))
