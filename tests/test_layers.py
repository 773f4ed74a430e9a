"""The house's law of who may know whom, as an AST walk with a table."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import ochatctl

ROOT = Path(ochatctl.__file__).parent
LEVELS = {
    "errors": 0, "config": 0, "extras": 0, "files": 0, "lock": 0, "presets": 0,
    "chat": 1, "hub": 1, "hub_upload": 1, "memory": 1,
    "data": 2, "engine": 2,
    "train": 3, "serve": 3, "bench": 3, "vocab": 3, "base_model": 3, "doctor": 3,
    "cli": 4,
}  # fmt: skip
# Package -> the files or rooms that are its home.
HOMES = {
    "vllm": ["engine/vllm.py"],
    "deepspeed": ["train/strategies/deepspeed.py"],
    "typer": ["cli/"],
    "rich": ["cli/"],
    "starlette": ["serve/"],
    "uvicorn": ["serve/"],
    "msgspec": ["serve/protocol.py", "serve/decoding.py"],
    "httpx": ["engine/endpoint.py", "hub.py", "data/transfer.py"],
    "prometheus_client": ["serve/metrics.py"],
    "torch": ["train/", "vocab/", "base_model.py", "engine/hf"],
    "transformers": [
        "chat/tokenizer.py",
        "chat/families.py",
        "train/",
        "vocab/",
        "base_model.py",
        "engine/hf",
        "engine/grammar.py",
    ],
    "xgrammar": ["engine/grammar.py"],
    "peft": ["train/", "engine/hf"],
    "bs4": ["data/markdown.py"],
    "markdownify": ["data/markdown.py"],
    "huggingface_hub": ["hub.py", "hub_upload.py"],
}
HEAVY = {"torch", "transformers", "vllm", "deepspeed", "numpy", "pyarrow", "starlette", "uvicorn", "sentencepiece"}
STDLIB_AND_CLI = {"typer", "ochatctl"}


@functools.cache
def modules() -> list[tuple[str, ast.Module]]:
    paths = sorted(ROOT.rglob("*.py"))
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def imports(tree: ast.Module, *, top_level: bool = False) -> Iterator[tuple[str, int]]:
    """Give (dotted name, relative level) of each import; a `TYPE_CHECKING` block does not count as top level."""
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level
            if node.module == "ochatctl":
                yield from ((f"ochatctl.{alias.name}", 0) for alias in node.names)


def room(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def imported_rooms(tree: ast.Module) -> Iterator[str]:
    for name, _ in imports(tree):
        parts = name.split(".")
        if parts[0] == "ochatctl" and len(parts) > 1 and parts[1] not in ("__version__", "__init__"):
            yield parts[1]


def test_arrows_point_down_and_siblings_do_not_meet() -> None:
    seen = 0
    for name, tree in modules():
        own = room(name)
        if own in ("__init__", "__main__"):
            continue
        assert own in LEVELS, f"{name}: give the room `{own}` a level"
        for other in imported_rooms(tree):
            if other == own:
                continue
            seen += 1
            lower = LEVELS[other] < LEVELS[own] or LEVELS[own] == LEVELS[other] == 0
            assert lower, f"{name} imports ochatctl.{other}"
    assert seen > 20


def test_every_heavy_package_has_one_home() -> None:
    seen = set()
    for name, tree in modules():
        for imported, _ in imports(tree):
            package = imported.split(".")[0]
            if package in HOMES:
                seen.add(package)
                assert name.startswith(tuple(HOMES[package])), f"{name} imports {package}"
    assert {"typer", "rich", "transformers"} <= seen


def test_the_command_line_imports_only_light_modules_at_the_top() -> None:
    import sys

    for name, tree in modules():
        if not name.startswith("cli/"):
            continue
        for imported, _ in imports(tree, top_level=True):
            package = imported.split(".")[0]
            assert package in STDLIB_AND_CLI or package in sys.stdlib_module_names, f"{name} imports {imported}"
            parts = imported.split(".")
            if package == "ochatctl" and len(parts) > 1:
                assert parts[1] == "cli" or LEVELS.get(parts[1], 0) == 0, f"{name} imports {imported} at the top"


def test_nobody_outside_the_command_line_prints_exits_or_reads_arguments() -> None:
    for name, tree in modules():
        # The loop is the program that a rank runs: `python -m ochatctl.train.loop run.json`.
        if name.startswith("cli/") or name in ("__main__.py", "train/loop.py"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "exit", "quit", "input"), f"{name}:{node.lineno}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                dotted = f"{node.value.id}.{node.attr}"
                assert dotted not in ("sys.argv", "sys.exit", "logging.basicConfig"), f"{name}:{node.lineno}: {dotted}"


def test_imports_are_absolute_and_no_room_is_a_junk_drawer() -> None:
    for name, tree in modules():
        assert not any(level for _, level in imports(tree)), f"{name}: a relative import"
        assert Path(name).name not in ("utils.py", "common.py", "helpers.py"), name
        assert not any(imported.split(".")[0] == "click" for imported, _ in imports(tree)), f"{name} imports click"


def test_the_trunk_knows_neither_torch_nor_numpy() -> None:
    for name, tree in modules():
        if name.startswith(("chat/", "data/")):
            forbidden = {"torch"} if name.startswith("data/") else {"torch", "numpy"}
            assert not forbidden & {imported.split(".")[0] for imported, _ in imports(tree)}, name
