"""`ochatctl chat`."""

import asyncio
import sys
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.options import (
    DEFAULT_BASE_URL,
    ApiKey,
    BaseUrl,
    Condition,
    EngineName,
    MaybeFamily,
    MaybeModel,
    ModelName,
    OchatCommand,
    System,
    TrustRemoteCode,
)
from ochatctl.cli.output import Output, examples, show_error
from ochatctl.errors import DataError, OchatError, UsageProblem

if TYPE_CHECKING:
    from ochatctl.chat.conversation import Conversation
    from ochatctl.engine.client import Ask, ChatClient


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "chat",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl chat",
            'ochatctl chat --model DIR -m "Write a haiku about rain."',
            'ochatctl chat --base-url http://localhost:18888/v1 --api-key sk-1 --system "Be brief."',
        ),
    )(chat)


def chat(
    model: MaybeModel = None,
    base_url: BaseUrl = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", metavar="TEXT", help="Say this, print the answer, and end.")
    ] = None,
    system: System = "",
    condition: Condition = "",
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Longest answer; default: what the context holds.")
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=2, help="0 is greedy.")] = 0.7,
    seed: Annotated[int | None, typer.Option("--seed", help="The same answer each time.")] = None,
    api_key: ApiKey = None,
    model_name: ModelName = None,
    engine: EngineName = "auto",
    family: MaybeFamily = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Talk to a model folder, or to a server (default: the one on this machine)."""
    from ochatctl.engine.client import Ask

    if model is not None and base_url is not None:
        raise UsageProblem("give either `--model` or `--base-url`", hint=f"ochatctl chat --model {model}")
    talk = Talk(Output(), Ask(max_tokens=max_tokens, temperature=temperature, seed=seed))
    with asyncio.Runner() as runner:
        client = runner.run(_open(talk.output, model, base_url, model_name, api_key, engine, family, trust_remote_code))
        try:
            talk.run(runner, client, message, system, condition)
        finally:
            runner.run(client.close())


class Talk:
    """One conversation on a terminal, through a pipe, or of a single message."""

    def __init__(self, output: Output, ask: "Ask") -> None:
        self.output = output
        self._ask = ask

    def run(
        self, runner: asyncio.Runner, client: "ChatClient", message: str | None, system: str, condition: str
    ) -> None:
        """Answer the message, or what comes through the pipe, or whatever is typed until Ctrl-D."""
        from ochatctl.chat.conversation import Conversation

        conversation = Conversation(messages=(), system=system, condition=condition)
        if message is None and not sys.stdin.isatty():
            message = _piped()
            if not message:
                raise UsageProblem("there is nothing to say", hint='ochatctl chat -m "Hello"')
        if message is not None:
            runner.run(self._answer(client, _with(conversation, "user", message), []))
            return
        self.output.note("Ctrl-C stops an answer, Ctrl-D ends.")
        while (line := _typed()) is not None:
            if line.strip():
                conversation = self._turn(runner, client, conversation, line)

    def _turn(
        self, runner: asyncio.Runner, client: "ChatClient", conversation: "Conversation", line: str
    ) -> "Conversation":
        """Answer one line; what was said before a stop or a fault stays in the conversation only with its answer."""
        asked = _with(conversation, "user", line)
        pieces: list[str] = []
        try:
            runner.run(self._answer(client, asked, pieces))
        except KeyboardInterrupt:
            self.output.piece("\n")
            self.output.note("(stopped)")
        except OchatError as error:
            show_error(error)
        answer = "".join(pieces)
        return _with(asked, "assistant", answer) if answer else conversation

    async def _answer(self, client: "ChatClient", conversation: "Conversation", pieces: list[str]) -> None:
        async with aclosing(client.stream(conversation, self._ask)) as stream:
            async for piece in stream:
                pieces.append(piece)
                self.output.piece(_shown(piece) if sys.stdout.isatty() else piece)
        self.output.piece("\n")


async def _open(
    output: Output,
    model: str | None,
    base_url: str | None,
    model_name: str | None,
    api_key: str | None,
    engine: str,
    family: str | None,
    trust_remote_code: bool,
) -> "ChatClient":
    if model is None:
        from ochatctl.engine.client_http import HttpClient

        return HttpClient(base_url or DEFAULT_BASE_URL, model_name, api_key, max_retries=1, note=output.note)
    from ochatctl.engine.load import LoadConfig, open_local_client

    config = LoadConfig(model=model, engine=engine, family=family, trust_remote_code=trust_remote_code)
    return await open_local_client(config, output.note)


def _piped() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8: {error}") from error


def _typed() -> str | None:
    """Give a typed line, or None at Ctrl-D; Ctrl-C at an empty prompt ends too."""
    try:
        return input("> ")
    except (EOFError, KeyboardInterrupt):
        return None


def _with(conversation: "Conversation", role: str, content: str) -> "Conversation":
    from ochatctl.chat.conversation import Message

    return replace(conversation, messages=(*conversation.messages, Message(role=role, content=content)))


def _shown(text: str) -> str:
    """Leave out what a terminal would take for a command."""
    return "".join(char for char in text if char.isprintable() or char in "\n\t")
