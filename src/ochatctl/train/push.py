"""`ochatctl push`: a trained model's folder -> a repository on the hub, with a card written from `run.json`.

in: an `ep_N` folder or a run's, out: a PushPlan, which says everything that would be sent; then the commit.

The card names models and data sets, never a path of the machine that trained them.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.chat.families import Family, load_family
from ochatctl.errors import ConfigError, UsageProblem
from ochatctl.files import read_json
from ochatctl.hub import chat_model
from ochatctl.hub_upload import Uploaded, hub_name_of, licence_of, upload_model
from ochatctl.train.config import RUN_FILE

_REPO = re.compile(r"([\w.-]+/)?[\w.-]+")
_CARD_FILE = "README.md"
# Source: the limitations that OpenChat states of its own models.
_LIMITATIONS = """\
- It is bound by the limits of its foundation model: complex reasoning, mathematics and arithmetic, programming.
- It may state what does not exist or is not so ("hallucination"): check what matters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PushPlan:
    """What would be sent. `card` is None where the folder has a `README.md` of its own, which is sent as it is."""

    repo: str
    private: bool
    model_dir: Path
    files: tuple[Path, ...]
    num_bytes: int
    card: str | None
    notes: tuple[str, ...]


def prepare_push(folder: Path, repo: str, *, public: bool = False) -> PushPlan:
    """Decide what is sent; touch neither the folder nor the hub.

    Raises:
        UsageProblem: the name is no `owner/name`, or there is no such folder.
        ConfigError: the folder holds no model.
    """
    if not _REPO.fullmatch(repo):
        raise UsageProblem(f"`{repo}` is not a name on the hub", hint="such as `owner/name`")
    if not folder.is_dir():
        raise UsageProblem(f"`{folder}` is no folder", hint="give the folder that `ochatctl train` saved, `RUN/ep_N`")
    model_dir = chat_model(str(folder)).absolute()
    if not (model_dir / "config.json").is_file() or not list(model_dir.glob("*.safetensors")):
        raise ConfigError(f"`{model_dir}` holds no model", hint="a model folder has `config.json` and `*.safetensors`")
    files = tuple(sorted(path for path in model_dir.iterdir() if path.is_file() and not path.name.startswith(".")))
    family, _ = load_family(model_dir)
    notes: list[str] = []
    card = None
    if (model_dir / _CARD_FILE).is_file():
        notes.append(f"the folder's own `{_CARD_FILE}` is the model card")
    else:
        card = model_card(model_dir, family, repo, notes)
    return PushPlan(
        repo=repo,
        private=not public,
        model_dir=model_dir,
        files=files,
        num_bytes=sum(path.stat().st_size for path in files),
        card=card,
        notes=tuple(notes),
    )


def push(plan: PushPlan, *, replace: bool = False) -> Uploaded:
    """Send it.

    Raises:
        UsageProblem: the repository holds files and `replace` is not set, or is public against the plan.
        RemoteError: the hub failed.
    """
    return upload_model(plan.repo, plan.files, plan.card, private=plan.private, replace=replace)


def model_card(model_dir: Path, family: Family, repo: str, notes: list[str]) -> str:
    """Write the card from what the run's `run.json` says; say in `notes` what is not known."""
    run: dict[str, Any] = {}
    if (model_dir.parent / RUN_FILE).is_file():
        run = read_json(model_dir.parent / RUN_FILE)
    else:
        notes.append(f"no `{RUN_FILE}` beside the model: the card does not say how it was trained")
    base_dir = Path(run["model_dir"]) if isinstance(run.get("model_dir"), str) else None
    base = hub_name_of(base_dir) if base_dir else None
    licence = licence_of(base_dir) if base_dir else {}
    if not licence:
        notes.append("the base model's licence is not known: the card names none; add one before you publish")
    if run and not base:
        notes.append("the base model is a folder of this machine: the card does not name it")
    head = ["---", *(f"{key}: {value}" for key, value in licence.items())]
    head += [f"base_model: {base}"] if base else []
    head += ["library_name: transformers", "pipeline_tag: text-generation", "tags: [ochatctl, openchat]", "---"]
    condition = family.template.inference_condition
    body = [
        f"# {repo.split('/')[-1]}",
        f"A chat model of the family `{family.name}`"
        + (f", trained from [{base}](https://huggingface.co/{base})" if base else "")
        + ", made with ochatctl.",
        "## Use",
        "The chat template is `chat_template.jinja`; a turn ends with `"
        + family.template.eot
        + "`."
        + (f" Answers are conditioned on `{condition}`." if condition else ""),
        f"```\nochatctl serve --model {repo}\n```",
        *(["## Training", *_recipe(run)] if run else []),
        "## Limitations",
        _LIMITATIONS,
    ]
    return "\n".join(head) + "\n\n" + "\n\n".join(body) + "\n"


def _recipe(run: dict[str, Any]) -> list[str]:
    optim = run.get("optim", {})
    bins = run.get("num_ranks", 1) * run.get("accumulation_steps", 1)
    rows = {
        "data set": Path(str(run.get("data_path", ""))).name,
        "epochs": run.get("num_epochs"),
        "tokens a step, at most": f"{bins * run.get('batch_tokens', 0):,}",
        "learning rate": f"{optim.get('lr', 0):.3g}, cosine to {optim.get('min_lr_ratio', 0):g} of it, "
        f"warm-up {optim.get('warmup_ratio', 0):.0%}",
        "AdamW": f"betas {optim.get('betas')}, eps {optim.get('eps')}, weight decay {optim.get('weight_decay')}",
        "gradient norm, at most": optim.get("max_grad_norm"),
        "precision": run.get("dtype"),
    }
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items() if value is not None)]
    return ["\n".join(lines)]
