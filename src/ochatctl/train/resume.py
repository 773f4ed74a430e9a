"""Resume checkpoints on disk: which are whole, which is the last, and whether a run may go on from it. No torch.

    OUT/resume/step_N/
        manifest.json     written last: where the run stands, and size and SHA-256 of each part
        rng_R.pt          the random state of rank R
        shards/           the strategy's own files: weights and optimizer, sharded over the ranks

While it is being written it is called `.step_N.part`. Whatever has the final name was whole when it got it.
"""

import concurrent.futures
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.config import build, to_table
from ochatctl.errors import ConfigError, DataError
from ochatctl.files import digest, read_json, write_json
from ochatctl.train.config import ASKED_AS, TrainConfig
from ochatctl.train.course import Progress

FORMAT = "ochatctl-resume"
VERSION = 1
RESUME_DIR = "resume"
SHARDS_DIR = "shards"
_MANIFEST = "manifest.json"
_HASHING_THREADS = 8

# What may change between a run and its continuation: none of it changes what is learnt, but for the number of ranks
# under FSDP2, where the rest of the epoch is planned again.
FREE_KEYS = {
    "out_dir", "num_threads", "save_every_epochs", "save_every_steps", "save_every_seconds", "keep", "grace_seconds",
    "timeout_seconds", "max_bad_steps", "selfcheck", "num_nodes", "node_rank", "rendezvous", "resume_from",
    "trust_remote_code", "lora_save", "recompute", "base_name",
    "eval_path", "eval_every_steps", "eval_every_epochs", "loggers",
}  # fmt: skip
RANK_KEYS = {"num_ranks", "accumulation_steps", "batch_tokens"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One file of a checkpoint, named relative to its folder."""

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a resume checkpoint holds. `seconds` were trained before it; `ranks` are those that wrote its shards."""

    format: str = FORMAT
    version: int = VERSION
    strategy: str
    ranks: int
    progress: Progress
    num_steps: int
    seconds: float
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumePoint:
    """A checkpoint that is whole."""

    path: Path
    manifest: Manifest

    @property
    def num_bytes(self) -> int:
        """What it takes on disk."""
        return sum(part.num_bytes for part in self.manifest.parts)


def step_dir(out_dir: Path, step: int) -> Path:
    """The final folder of a checkpoint."""
    return out_dir / RESUME_DIR / f"step_{step}"


def part_dir(out_dir: Path, step: int) -> Path:
    """The folder of a checkpoint that is being written, the same on all ranks."""
    return out_dir / RESUME_DIR / f".step_{step}.part"


def describe_part(folder: Path, file: Path) -> Part:
    """Bring a file to the disk and give its entry in the manifest."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    return Part(path=file.relative_to(folder).as_posix(), num_bytes=file.stat().st_size, sha256=digest(file))


def finish(out_dir: Path, manifest: Manifest, *, keep: int) -> Path:
    """Write the manifest, give the folder its final name, and remove the oldest beyond `keep`."""
    step = manifest.progress.step
    part, final = part_dir(out_dir, step), step_dir(out_dir, step)
    write_json(part / _MANIFEST, to_table(manifest))
    if final.exists():  # saved before, by a run that was resumed from an earlier one
        shutil.rmtree(final)
    part.rename(final)
    _sync_folder(final.parent)
    # Those of later steps are of a run that was gone back from: the first to go.
    others = sorted(_steps(out_dir), key=lambda path: (_number(path) > step, -_number(path)))
    for old in others[keep:]:
        # Out of sight first: a removal that is cut short must not look like a checkpoint.
        doomed = part_dir(out_dir, _number(old))
        old.rename(doomed)
        shutil.rmtree(doomed)
    return final


def remove_unfinished(out_dir: Path) -> None:
    """Remove what a save that was cut short has left."""
    for path in (out_dir / RESUME_DIR).glob(".step_*.part"):
        shutil.rmtree(path, ignore_errors=True)


def last_whole(out_dir: Path) -> tuple[ResumePoint | None, list[str]]:
    """Give the newest checkpoint that is whole, and a sentence for each newer one that is not."""
    skipped = []
    for path in (out_dir / RESUME_DIR).glob(".step_*.part"):
        skipped.append(f"`{path}` was not finished and is skipped")
    for path in _steps(out_dir):
        try:
            return open_checkpoint(path), skipped
        except DataError as error:
            skipped.append(f"{error.message}; it is skipped")
    return None, skipped


def open_checkpoint(path: Path, *, check_parts: bool = True) -> ResumePoint:
    """Read a checkpoint's manifest and hold its parts against it.

    Raises:
        DataError: names what is missing, cut off or changed, or the version that is too new.
    """
    manifest = _read_manifest(path)
    if not check_parts:
        return ResumePoint(path=path, manifest=manifest)
    with concurrent.futures.ThreadPoolExecutor(_HASHING_THREADS) as pool:
        for fault in pool.map(lambda part: _fault(path, part), manifest.parts):
            if fault:
                raise DataError(f"`{path}` is damaged: {fault}")
    return ResumePoint(path=path, manifest=manifest)


def check_config(old: TrainConfig, new: TrainConfig, point: ResumePoint | None) -> None:
    """Refuse to go on with a run as another one; without a point there is nothing to go on with but the same run.

    Raises:
        ConfigError: names the keys that differ, or the number of ranks that DeepSpeed needs.
    """
    before, after = _flat(to_table(old)), _flat(to_table(new))
    free = FREE_KEYS | (RANK_KEYS if _takes_any_ranks(new) or point is None else set())
    changed = [key for key in before | after if before.get(key) != after.get(key) and key not in free]
    if point and changed and set(changed) <= RANK_KEYS and old.num_ranks != new.num_ranks:
        raise ConfigError(
            f"`{point.path}` was written by {point.manifest.ranks} ranks, and {_bound_to_ranks(new)} goes on with as "
            f"many only, not with {new.num_ranks}",
            hint=f"the same command with `--gpus {point.manifest.ranks}`; `--strategy fsdp` runs take any number",
        )
    if changed:
        names = {key: ASKED_AS.get(key, key) for key in changed}
        named = ", ".join(f"`{names[key]}` ({before.get(key)} -> {after.get(key)})" for key in changed)
        run_dir = point.path.parents[1] if point else new.out_dir
        anew = "start anew: `--resume no --yes`" if run_dir == new.out_dir else "leave out `--resume`"
        further = f"`--model {shlex.quote(f'{run_dir}/ep_N')}` trains its model further"
        raise ConfigError(
            f"the run in `{run_dir}` was started with other values: {named}",
            hint=f"bring them back, name another `--out` ({further}), or {anew}",
        )


def _takes_any_ranks(config: TrainConfig) -> bool:
    return not _bound_to_ranks(config)


def _bound_to_ranks(config: TrainConfig) -> str:
    """Name what can go on with as many ranks as before only; nothing where any number will do."""
    if config.strategy == "deepspeed":
        return "DeepSpeed"
    if config.optim.optimizer == "adamw8bit":
        return "8-bit AdamW"
    return "" if config.compat is None else f"a plan of {config.compat}"


def _read_manifest(path: Path) -> Manifest:
    if not (path / _MANIFEST).is_file():
        raise DataError(f"`{path}` is no whole checkpoint: it has no `{_MANIFEST}`")
    table: Any = read_json(path / _MANIFEST)
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise DataError(f"`{path}`: `{_MANIFEST}` is not of format `{FORMAT}`")
    version = table.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise DataError(f"`{path}` has version {version} of `{FORMAT}`, and this ochatctl reads up to {VERSION}")
    try:
        return build(Manifest, table, where=str(path / _MANIFEST))
    except ConfigError as error:
        raise DataError(error.message) from error


def _fault(folder: Path, part: Part) -> str:
    file = folder / part.path
    if not file.is_file():
        return f"`{part.path}` is missing"
    size = file.stat().st_size
    if size != part.num_bytes:
        return f"`{part.path}` has {size} bytes of {part.num_bytes}"
    return "" if digest(file) == part.sha256 else f"`{part.path}` is not what was written"


def _steps(out_dir: Path) -> list[Path]:
    """Give the folders that have a final name, newest first."""
    found = [path for path in (out_dir / RESUME_DIR).glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
    return sorted(found, key=_number, reverse=True)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
