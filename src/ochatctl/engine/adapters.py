"""LoRA adapters that one engine serves beside its base, each under a name of its own.

in: `NAME=PATH` as typed, out: adapters that are known to fit the base's family
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ochatctl.chat.families import Family, read_card
from ochatctl.errors import ConfigError, EnvironmentProblem, RemoteError, UsageProblem
from ochatctl.files import read_json
from ochatctl.hub import ADAPTER_FILE, adapter_base, chat_model

_EXAMPLE = "--adapter support=run/ep_3"


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """One set of adapters: what clients call it, where it is, and the rank of its matrices."""

    name: str
    folder: Path
    rank: int


def read_adapter_flags(texts: Iterable[str]) -> dict[str, str]:
    """Read `NAME=PATH` each; a path is a folder, a training run's folder, or a hub id.

    Raises:
        UsageProblem: no `=` in it, or a name twice.
    """
    out: dict[str, str] = {}
    for text in texts:
        name, _, path = (part.strip() for part in text.partition("="))
        if not name or not path:
            raise UsageProblem(f"`--adapter {text}` is not `NAME=PATH`", hint=_EXAMPLE)
        if name in out:
            raise UsageProblem(f"`--adapter {name}=...` is given twice", hint=_EXAMPLE)
        out[name] = path
    return out


def find_adapters(named: Mapping[str, str], family: Family) -> tuple[Adapter, ...]:
    """Find the folders of adapters, and read what an engine must know before it loads them.

    Raises:
        ConfigError: no adapters there, or such as were trained for another family.
        EnvironmentProblem: adapters of a kind that no engine here can choose request by request.
        RemoteError: the hub cannot be reached, or refuses.
    """
    return tuple(_find(name, path, family) for name, path in named.items())


def _find(name: str, path: str, family: Family) -> Adapter:
    try:
        folder = chat_model(path)
    except (ConfigError, RemoteError) as error:
        raise type(error)(f"`--adapter {name}=...`: {error.message}", hint=error.hint) from error
    if adapter_base(folder) is None:
        raise ConfigError(
            f"`--adapter {name}={path}`: it holds no adapters: it has no `{ADAPTER_FILE}`",
            hint=f"a whole model is served by itself: ochatctl serve --model {path}",
        )
    card = read_card(folder)
    if card is not None and card.model_type not in family.names:
        raise ConfigError(
            f"`--adapter {name}={path}`: it was trained as `{card.model_type}`, and the model is `{family.name}`",
            hint=f"ochatctl serve --model {path}",
        )
    table = read_json(folder / ADAPTER_FILE)
    kind = str(table.get("peft_type"))
    odd = [key for key in ("modules_to_save", "use_dora", "trainable_token_indices") if table.get(key)]
    if kind != "LORA" or odd:
        what = f"beside low ranks it has `{odd[0]}`" if kind == "LORA" else f"it is `{kind}`, not `LORA`"
        raise EnvironmentProblem(
            f"`--adapter {name}={path}`: {what}, which cannot be chosen request by request",
            hint=f"ochatctl merge {folder} --out {folder}-merged",
        )
    ranks = [table.get("r"), *(table.get("rank_pattern") or {}).values()]
    return Adapter(name=name, folder=folder, rank=max(rank for rank in ranks if isinstance(rank, int)))
