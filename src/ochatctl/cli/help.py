"""How a help reads: what a value is in the words of the reader, whole sentences, and examples to copy as they stand."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

# Typer shows Python's names of types: `<int range>`, `<list[Path]>`.
_TYPE = re.compile(r"<(?P<type>[^<>]*)>$")
_WORDS = {"path": "PATH", "Path": "PATH", "str": "TEXT", "int": "N", "int range": "N", "float": "X", "float range": "X"}
_RANGES = (
    (re.compile(r"(?P<least>[\d.]+)<=x<=(?P<most>[\d.]+)(?=[];])"), r"\g<least> to \g<most>"),
    (re.compile(r"x>=(?P<least>[\d.]+)(?=[];])"), r"at least \g<least>"),
)
_LONGEST_SENTENCE = 400


class HelpText:
    """What the helps of commands and of groups have in common."""

    epilog: str | None
    options_metavar: str | None

    def collect_usage_pieces(self: Any, ctx: Any) -> list[str]:
        """Give the words after the command: arguments as they are named, in brackets where they may be left out."""
        pieces = [self.options_metavar]
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                name = param.display_name_raw
                many = "..." if param.nargs != 1 and not name.endswith("...") else ""
                pieces.append(name + many if param.required else f"[{name}{many}]")
        return pieces

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, each on a line of its own that is never wrapped."""
        lines = [line.strip() for line in (self.epilog or "").splitlines() if line.strip()]
        if lines:
            formatter.write_paragraph()
            formatter.write(f"{lines[0]}\n")
            for line in lines[1:]:
                formatter.write(f"  {line}\n")


class HelpGroup(HelpText):
    """The help of a group. `chapters` orders the commands of a long one: heading -> their names."""

    chapters: ClassVar[Mapping[str, Sequence[str]]] = {}

    def collect_usage_pieces(self: Any, ctx: Any) -> list[str]:
        """Give the words after the group."""
        return [self.options_metavar, self.subcommand_metavar]

    def format_commands(self: Any, ctx: Any, formatter: Any) -> None:
        """Write what each command does, the whole sentence: Typer cuts it off at the end of the line."""
        own = {name: heading for heading, names in self.chapters.items() for name in names}
        names = self.list_commands(ctx)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in [*(name for name in own if name in names), *(name for name in names if name not in own)]:
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                sentence = command.get_short_help_str(limit=_LONGEST_SENTENCE)
                sections.setdefault(own.get(name, "Commands"), []).append((name, sentence))
        width = max((len(name) for rows in sections.values() for name, _ in rows), default=0)
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:{width}}", sentence) for name, sentence in rows])


def help_record(param: Any, ctx: Any) -> tuple[str, str] | None:
    """Give a parameter's name and help, with what its value is and may be in words, or None for a hidden one."""
    record: tuple[str, str] | None = param.get_help_record(ctx)
    if record is None:
        return None
    name, text = record
    for pattern, words in _RANGES:
        text = pattern.sub(words, text)
    match = _TYPE.search(name)
    if match is None:
        return name, text
    if param.param_type_name == "argument":
        return name[: match.start()].rstrip(), text
    kind = match["type"]
    many = kind.startswith("list[")
    kind = kind.removeprefix("list[").removesuffix("]") if many else kind
    return f"{name[: match.start()]}{_WORDS.get(kind, kind)}{'...' if many else ''}", text
