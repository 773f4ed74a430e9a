"""`ochatctl doctor`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.options import Json, OchatCommand
from ochatctl.cli.output import Output, examples

if TYPE_CHECKING:
    from ochatctl.doctor import Diagnosis, ModelFacts
    from ochatctl.memory import Machine


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "doctor",
        cls=OchatCommand,
        epilog=examples("ochatctl doctor", "ochatctl doctor --model DIR", "ochatctl doctor --json"),
    )(doctor)


def doctor(
    model: Annotated[
        str | None, typer.Option("--model", metavar="DIR|HUB_ID", help="Say what this model is and needs, too.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what this machine has, which commands can run on it, and what installs what the others lack."""
    from ochatctl.doctor import examine

    diagnosis = examine(model)
    Output(as_json=json).result(diagnosis, lambda: "\n".join(_lines(diagnosis)))


def _lines(diagnosis: "Diagnosis") -> Iterator[str]:
    facts = diagnosis.facts
    yield "Machine"
    yield from (f"  {line}" for line in _machine_lines(facts.machine))
    yield "Packages"
    yield f"  ochatctl {diagnosis.version}"
    for name, version in facts.versions.items():
        build = facts.builds.get(name, "")
        yield f"  {name} {version.partition('+')[0]}{f' ({build} build)' if build else ''}"
    yield "Tools"
    yield from (f"  {name}: {path or 'not found'}" for name, path in facts.tools.items())
    if facts.hub_offline:
        yield "HF_HUB_OFFLINE is set: only folders and what the cache holds"
    yield "Commands"
    width = max(len(ability.command) for ability in diagnosis.abilities)
    for ability in diagnosis.abilities:
        yield f"  {'ok     ' if ability.ok else 'missing'}  {ability.command:{width}}  {ability.why}"
        if ability.fix:
            yield f"  {'':7}  {'':{width}}  {ability.fix}"
    for finding in diagnosis.findings:
        yield f"warning: {finding.message}"
        yield f"hint: {finding.fix}"
    if diagnosis.model is not None:
        yield from _model_lines(diagnosis.model)


def _machine_lines(machine: "Machine") -> Iterator[str]:
    wsl = ", WSL" if machine.is_wsl else ""
    yield f"{machine.system} {machine.release} {machine.architecture}{wsl}, Python {machine.python}"
    total, available = (_gb(size) for size in (machine.ram.total_bytes, machine.ram.available_bytes))
    disk = f"{_gb(machine.disk_free_bytes)} of disk free"
    yield f"{machine.num_cpus} CPUs, {total} of RAM ({available} available), {disk}"
    for gpu in machine.gpus:
        memory = f"{_gb(gpu.total_bytes)} ({_gb(gpu.free_bytes)} free)"
        yield f"GPU {gpu.index}: {gpu.name}, {memory}, driver {gpu.driver}, sm {gpu.compute_capability}"
    if not machine.gpus:
        yield "no NVIDIA GPU"


def _model_lines(model: "ModelFacts") -> Iterator[str]:
    dtypes = ", ".join(f"{dtype}" for dtype in model.weights.dtypes)
    yield f"Model {model.folder}"
    yield f"  {model.weights.num_params:,} parameters, {_gb(model.weights.num_bytes)} ({dtypes})"
    yield f"  family: {model.family or 'unknown'}"
    if model.problem is not None:
        yield f"  warning: {model.problem.message}"
        yield f"  hint: {model.problem.fix}"
    for need in model.needs:
        more = " and a workspace" if need.what == "serve" else ""  # an engine says its own
        yield f"  to {need.what}, on each device: {_gb(need.num_bytes)}{more}, of {_gb(model.device_bytes)}"
        for part in need.parts:
            yield f"    {_gb(part.num_bytes):>9}  {part.name}: {part.formula}"


def _gb(num_bytes: int | None) -> str:
    return "unknown" if num_bytes is None else f"{num_bytes / 1e9:.1f} GB"
