"""The known families, what a model folder says of its own in `openchat.json`, and how one without it is recognised."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ochatctl.chat.template import ChatTemplate
from ochatctl.chat.tokenizer import Tokenizer, load_tokenizer, not_loaded, require_tokenizer
from ochatctl.config import build, did_you_mean, read_toml, to_table
from ochatctl.errors import ConfigError
from ochatctl.files import read_json, write_json

CARD_NAME = "openchat.json"
CARD_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A template with what else goes with it."""

    name: str
    template: ChatTemplate
    context_tokens: int
    aliases: tuple[str, ...] = ()
    # Auto learning rate: 3e-4 x sqrt(supervised tokens a step / 4e6) / this. Source: OpenChat 3.6.1.
    lr_divisor: float = 1.0
    # What `add-eot` adds where the tokenizer lacks it; empty: the end-of-turn token and the tags.
    add_tokens: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that serves for it."""
        return (self.name, *self.aliases)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What `openchat.json` says: OpenChat's own key `model_type`, and beside it ours.

    `conditions` are those that were trained, with their supervised token counts; `family` is the whole family where it
    is the user's own.
    """

    model_type: str
    version: int = CARD_VERSION
    conditions: dict[str, int] = field(default_factory=dict)
    family: dict[str, Any] | None = None


_TURN = "<|end_of_turn|>"
_CLASSES = ("GPT4", "GPT3")
_LLAMA3_TAGS = ("<|start_header_id|>", "<|end_header_id|>")


def _openchat_3_5(**changes: Any) -> ChatTemplate:
    values: dict[str, Any] = {
        "user_prefix": "{condition} User:",
        "assistant_prefix": "{condition} Assistant:",
        "system_prefix": "",
        "inference_condition": "GPT4 Correct",
        "eot": _TURN,
    }
    return ChatTemplate(**(values | changes))


_ALL = (
    Family(
        name="openchat_v3.2",
        aliases=("openchat_v3.2_super",),
        context_tokens=4096,
        template=_openchat_3_5(inference_condition="GPT4"),
    ),
    Family(
        name="openchat_v3.1_llama2",
        aliases=("openchat_v3.1",),
        context_tokens=4096,
        template=ChatTemplate(
            user_prefix="User:",
            assistant_prefix="Assistant:",
            system_prefix="",
            condition_segment="Assistant is {condition}",
            inference_condition="GPT4",
            conditions=_CLASSES,
            eot=_TURN,
        ),
    ),
    Family(
        name="openchat_v2_llama2",
        context_tokens=4096,
        template=ChatTemplate(
            user_prefix="User:",
            assistant_prefix="Assistant {condition}:",
            system_prefix="",
            inference_condition="GPT4",
            conditions=_CLASSES,
            eot=_TURN,
        ),
    ),
    Family(
        name="openchat_llama2",
        context_tokens=4096,
        template=ChatTemplate(user_prefix="User:", assistant_prefix="Assistant:", system_prefix="", eot=_TURN),
    ),
    Family(
        name="openchat_v3.2_mistral",
        aliases=("openchat_3.5",),
        context_tokens=8192,
        lr_divisor=6.0,
        template=_openchat_3_5(),
    ),
    Family(
        name="openchat_v3.2_gemma_new",
        aliases=("openchat_3.5_gemma_new",),
        context_tokens=8192,
        lr_divisor=5.5,
        template=_openchat_3_5(eot="<end_of_turn>"),
    ),
    Family(
        name="openchat_3.6",
        context_tokens=8192,
        lr_divisor=5.3,
        template=ChatTemplate(
            user_prefix="<|start_header_id|>{condition} User<|end_header_id|>\n\n",
            assistant_prefix="<|start_header_id|>{condition} Assistant<|end_header_id|>\n\n",
            system_prefix="<|start_header_id|>System<|end_header_id|>\n\n",
            inference_condition="GPT4 Correct",
            eot="<|eot_id|>",
            tags=_LLAMA3_TAGS,
        ),
    ),
    Family(
        name="chatml",
        aliases=("chatml_8192",),
        context_tokens=8192,
        template=ChatTemplate(
            user_prefix="<|im_start|>user\n",
            assistant_prefix="<|im_start|>assistant\n",
            system_prefix="<|im_start|>system\n",
            eot="<|im_end|>",
            after_eot="\n",
            tags=("<|im_start|>",),
        ),
    ),
    Family(
        name="llama3_instruct",
        context_tokens=8192,
        lr_divisor=5.3,
        template=ChatTemplate(
            user_prefix="<|start_header_id|>user<|end_header_id|>\n\n",
            assistant_prefix="<|start_header_id|>assistant<|end_header_id|>\n\n",
            system_prefix="<|start_header_id|>system<|end_header_id|>\n\n",
            eot="<|eot_id|>",
            tags=_LLAMA3_TAGS,
        ),
    ),
    Family(
        name="zephyr",
        aliases=("zephyr_mistral",),
        context_tokens=8192,
        lr_divisor=6.0,
        add_tokens=("</s>",),  # its tags are text, as published
        template=ChatTemplate(
            user_prefix="<|user|>\n",
            assistant_prefix="<|assistant|>\n",
            system_prefix="<|system|>\n",
            eot="</s>",
            after_eot="\n",
            tags=("<|user|>", "<|assistant|>", "<|system|>"),
        ),
    ),
    Family(
        name="gemma_it",
        context_tokens=8192,
        lr_divisor=5.5,
        template=ChatTemplate(
            user_prefix="<start_of_turn>user\n",
            assistant_prefix="<start_of_turn>model\n",
            eot="<end_of_turn>",
            after_eot="\n",
            tags=("<start_of_turn>",),
        ),
    ),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
_BY_ANY_NAME = {name: family for family in _ALL for name in family.names}
_BUILT_IN_CONTROL_STRINGS = frozenset(text for family in _ALL for text in family.template.control_strings)


def get_family(name: str) -> Family:
    """Give a family by its name, an alias, or the path of a TOML file.

    Raises:
        ConfigError: unknown, with the names that are known.
    """
    if name in _BY_ANY_NAME:
        return _BY_ANY_NAME[name]
    if name.endswith(".toml"):
        return build(Family, read_toml(Path(name)), where=name)
    raise ConfigError(
        f"unknown family `{name}`{did_you_mean(name, _BY_ANY_NAME)}", hint="`ochatctl families` lists them"
    )


def family_tokenizer(model_dir: Path, family: Family, *, trust_remote_code: bool = False) -> Tokenizer:
    """Load a folder's tokenizer, with every string that a known family or this one inserts kept out of text."""
    strings = _BUILT_IN_CONTROL_STRINGS | set(family.template.control_strings)
    return load_tokenizer(model_dir, control_strings=strings, trust_remote_code=trust_remote_code)


def load_family(
    model_dir: Path, name: str | None = None, *, trust_remote_code: bool = False
) -> tuple[Family, Tokenizer]:
    """Give the family and the tokenizer of a model folder that is ready to train or serve.

    The family is the one named, else what `openchat.json` says, else the one whose rendering equals the folder's chat
    template.

    Raises:
        ConfigError: no family fits, or the tokenizer lacks the family's end-of-turn token.
    """
    family = get_family(name) if name else _family_of(model_dir)
    tokenizer = family_tokenizer(model_dir, family, trust_remote_code=trust_remote_code)
    if tokenizer.token_id(family.template.eot) is None:
        base, out = _base_and_out(model_dir)
        raise ConfigError(
            f"`{base}` has no `{family.template.eot}`, the end-of-turn token of `{family.name}`",
            hint=f"ochatctl add-eot {base} --out {out} --family {name or family.name}",
        )
    return family, tokenizer


def _base_and_out(model_dir: Path) -> tuple[str, str]:
    """Give what a user calls a base, and where one with an end-of-turn token may go: never into the hub's cache."""
    repo = model_dir.parent.parent.name
    if model_dir.parent.name == "snapshots" and repo.startswith("models--"):
        hub_id = repo.removeprefix("models--").replace("--", "/", 1)
        return hub_id, f"{hub_id.rpartition('/')[2]}-eot"
    return str(model_dir), f"{model_dir}-eot"


def missing_tokens(family: Family, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Give the tokens that `add-eot` adds for a family: those of its own that the tokenizer lacks."""
    wanted = family.add_tokens or family.template.control_strings
    return tuple(token for token in dict.fromkeys(wanted) if tokenizer.token_id(token) is None)


def read_card(model_dir: Path) -> ModelCard | None:
    """Give what `openchat.json` says, or None where there is none.

    Raises:
        ConfigError: malformed, or written by a newer version.
    """
    path = model_dir / CARD_NAME
    if not path.is_file():
        return None
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("model_type"), str):
        raise ConfigError(f"{path}: has no `model_type`")
    # OpenChat writes all its training arguments beside `model_type`; only our own keys are checked.
    known = {key: value[key] for key in ("model_type", "version", "conditions", "family") if key in value}
    if not isinstance(known.get("version", CARD_VERSION), int):
        known.pop("version")
    card = build(ModelCard, known, where=str(path))
    if card.version > CARD_VERSION:
        raise ConfigError(
            f"{path}: version {card.version} is newer than {CARD_VERSION}, which this ochatctl reads",
            hint="pip install -U ochatctl",
        )
    return card


def write_card(model_dir: Path, family: Family, *, conditions: dict[str, int]) -> None:
    """Write `openchat.json`."""
    own = None if FAMILIES.get(family.name) == family else to_table(family)
    card = ModelCard(model_type=family.name, conditions=conditions, family=own)
    write_json(model_dir / CARD_NAME, {key: value for key, value in to_table(card).items() if value is not None})


def write_chat_files(model_dir: Path, family: Family, tokenizer: Tokenizer, *, conditions: dict[str, int]) -> None:
    """Write the chat template and `openchat.json` of a model folder that we made."""
    jinja = family.template.to_jinja(dummy_prefix=tokenizer.dummy_prefix, bos=tokenizer.bos_token)
    (model_dir / "chat_template.jinja").write_text(jinja, encoding="utf-8")
    write_card(model_dir, family, conditions=conditions)


def _family_of(model_dir: Path) -> Family:
    card = read_card(model_dir)
    if card is None:
        return _detect(model_dir)
    if card.family is not None:
        return build(Family, card.family, where=str(model_dir / CARD_NAME))
    if card.model_type not in _BY_ANY_NAME:
        raise ConfigError(
            f"{model_dir / CARD_NAME}: unknown `model_type` `{card.model_type}`",
            hint="add `--family NAME`; `ochatctl families` lists them",
        )
    return _BY_ANY_NAME[card.model_type]


_PROBES: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello"}],
    [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi there"},
        {"role": "user", "content": "How are you?"},
    ],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue"},
        {"role": "user", "content": "Another"},
    ],
)


def _detect(model_dir: Path) -> Family:
    from transformers import AutoTokenizer

    require_tokenizer(model_dir)
    listed = f"the families are {', '.join(FAMILIES)}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir)
    except (OSError, ValueError) as error:
        raise not_loaded(model_dir) from error
    if not tokenizer.chat_template:
        raise ConfigError(
            f"`{model_dir}` has neither `{CARD_NAME}` nor a chat template, so its family is not known; {listed}",
            hint="add `--family NAME`",
        )
    # Once for all: what a rendering needs of it is no family's.
    ours = load_tokenizer(model_dir, control_strings=_BUILT_IN_CONTROL_STRINGS)
    theirs = [_render(tokenizer, tokenizer.chat_template, probe) for probe in _PROBES]
    nearest, same_where = None, ""
    for family in _ALL:
        for dummy_prefix in {ours.dummy_prefix, False}:
            jinja = family.template.to_jinja(dummy_prefix=dummy_prefix, bos=ours.bos_token)
            same = [text == _render(tokenizer, jinja, probe) for text, probe in zip(theirs, _PROBES, strict=True)]
            if all(same):
                return family
            # Both refusing a conversation is no likeness.
            alike = [text is not None and is_same for text, is_same in zip(theirs, same, strict=True)]
            if nearest is None and any(alike):
                nearest = family
                adds_system = alike == [probe[0]["role"] == "system" for probe in _PROBES]
                same_where = "which adds no system message" if adds_system else "the same for some conversations only"
    if nearest is None:
        raise ConfigError(
            f"`{model_dir}`: its chat template fits no known family; {listed}", hint="add `--family NAME`"
        )
    raise ConfigError(
        f"`{model_dir}`: its chat template fits no known family; nearest is `{nearest.name}`, {same_where}",
        hint=f"the same command with `--family {nearest.name}`; {listed}",
    )


def _render(tokenizer: Any, chat_template: str, messages: Sequence[dict[str, str]]) -> str | None:
    import jinja2

    try:
        text = tokenizer.apply_chat_template(
            list(messages), chat_template=chat_template, tokenize=False, add_generation_prompt=True
        )
    except jinja2.TemplateError:
        return None  # a template may refuse a system message; ours then must refuse it too
    return str(text)
