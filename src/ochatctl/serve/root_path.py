"""Where a proxy serves this application under a prefix: one path for who may call, the log and the routes alike."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send


def is_prefix(text: str) -> bool:
    """Tell whether this can stand before every path."""
    return re.fullmatch(r"(/[\w.~-]+)*/?", text, re.ASCII) is not None


class RootPath:
    """Takes a prefix off the path, whether the proxy has left it on or not.

    It comes before everything else: whoever asks whether a path is public must see the one that is routed. The bare
    prefix stays: the page's relative addresses need the slash behind it, so that the router sends it there.
    """

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self._app = app
        self._prefix = prefix.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(self._prefix + "/"):
            path = scope["path"][len(self._prefix) :]
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)
