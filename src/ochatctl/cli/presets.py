"""`ochatctl presets`."""

from typing import Annotated, Any

import typer

from ochatctl.cli.options import Json, OchatCommand
from ochatctl.cli.output import Output, examples
from ochatctl.presets import Preset, load_preset, names


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "presets",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl presets",
            "ochatctl presets lora > mine.toml",
            "ochatctl presets openchat-v3.2-super --json",
        ),
    )(presets)


def presets(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print this one, to save and change.")] = None,
    json: Json = False,
) -> None:
    """List the presets, or print one as TOML."""
    output = Output(as_json=json)
    if name is not None:
        preset = load_preset(name)
        output.result(_plain(preset), preset.text.rstrip("\n"))
        return
    all_presets = [load_preset(each) for each in names()]
    output.table(
        [_plain(p) for p in all_presets],
        ("preset", "for", "what it is"),
        [(p.name, f"ochatctl {p.command}", p.description) for p in all_presets],
    )


def _plain(preset: Preset) -> dict[str, Any]:
    return {
        "name": preset.name,
        "command": preset.command,
        "description": preset.description,
        "table": dict(preset.table),
    }
