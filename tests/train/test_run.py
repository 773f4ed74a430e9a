"""Whole runs of `ochatctl train` on two processes, against the same training written out plainly.

One launch proves one strategy: two ranks == one rank, accumulation == one big batch, packed == one by one, the
clipping, the schedule and the saved folder.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from training_for_tests import FAMILY, tiny_config, write_base, write_data

from ochatctl.chat.families import load_family, read_card
from ochatctl.data.dataset import open_dataset, split_path
from ochatctl.data.packing import plan_epoch
from ochatctl.train.resume import open_checkpoint

SEED, EPOCHS, LR, BATCH_TOKENS, RANKS, ACCUMULATION = 3, 2, 3e-3, 160, 2, 2
SAVES, RESUMED_AFTER, EVAL_EVERY = "2epochs,2steps", 2, 3
QUIET = {"OMP_NUM_THREADS": "1"}
# What differs between two runs that are the same.
TIMED = {"seconds", "tokens_per_second", "step_seconds", "stall_seconds", "eta_seconds", "memory_bytes"}
STRATEGIES = [
    pytest.param(("fsdp",), id="fsdp"),
    *(
        pytest.param(("deepspeed", "--zero", str(stage)), id=f"zero{stage}", marks=pytest.mark.slow)
        for stage in (0, 2, 3)
    ),
    pytest.param(("deepspeed", "--zero", "3", "--offload", "all"), id="zero3-offload", marks=pytest.mark.slow),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    base: Path
    prefix: Path
    out: Path
    flags: tuple[str, ...]
    result: dict[str, Any]
    steps: list[dict[str, Any]]
    evals: list[dict[str, Any]]


def command(base: Path, prefix: Path, out: Path, *more: str) -> list[str]:
    words = ["--model", str(base), "--data", str(prefix), "--out", str(out), "--cpu"]
    return [sys.executable, "-m", "ochatctl", "train", *words, *more]


@pytest.fixture(scope="module", params=STRATEGIES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    if request.param[0] == "deepspeed":
        pytest.importorskip("deepspeed")
    folder = tmp_path_factory.mktemp("run")
    base = write_base(folder / "base", config=tiny_config(tie_word_embeddings=True))
    prefix = write_data(folder / "chats", base, num_rows=40)
    write_data(prefix, base, num_rows=7, seed=1, split="eval")
    flags = (
        *("--strategy", *request.param, "--keep", "9"),
        *("--gpus", str(RANKS), "--accumulation", str(ACCUMULATION), "--batch-tokens", str(BATCH_TOKENS)),
        *("--epochs", str(EPOCHS), "--lr", str(LR), "--seed", str(SEED), "--save-every", SAVES, "--json"),
        *("--eval-every", str(EVAL_EVERY)),
    )
    done = subprocess.run(
        command(base, prefix, folder / "out", *flags),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **QUIET},
    )
    assert done.returncode == 0, done.stderr
    return Run(
        base=base,
        prefix=prefix,
        out=folder / "out",
        flags=flags,
        result=json.loads(done.stdout),
        steps=read_metrics(folder / "out", "loss"),
        evals=read_metrics(folder / "out", "eval_loss"),
    )


def read_metrics(out: Path, key: str) -> list[dict[str, Any]]:
    """Give the lines that have `key`: `loss` are steps, `eval_loss` evaluations."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {"format": "ochatctl-metrics", "version": 1}
    return [line for line in lines[1:] if key in line]


def untimed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def plain_training(run: Run) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """The same run on one process, each conversation by itself; give losses, gradient norms and weights."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # more only get in each other's way in a model of this size
    dataset = open_dataset(split_path(run.prefix, "train"))
    model = AutoModelForCausalLM.from_pretrained(run.base, dtype=torch.float32, attn_implementation="eager").train()
    vectors = [p for p in model.parameters() if p.ndim == 1]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=1e-5,
    )
    losses, norms = [], []
    for epoch in range(EPOCHS):
        plan = plan_epoch(
            dataset.lengths, bin_tokens=BATCH_TOKENS, bins_per_step=RANKS * ACCUMULATION, seed=SEED, epoch=epoch
        )
        for bins in plan.steps:
            rows = [dataset.row(index) for bin_rows in bins for index in bin_rows]
            weight = sum(float(row.loss_weights.sum()) for row in rows)
            total = torch.zeros(())
            for row in rows:
                logits = model(input_ids=torch.tensor(row.input_ids).long()[None], use_cache=False).logits[0]
                each = F.cross_entropy(logits, torch.tensor(row.labels).long(), reduction="none")
                total = total + (each * torch.tensor(row.loss_weights)).sum() / weight
            total.backward()
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
            for group in optimizer.param_groups:
                group["lr"] = run.steps[len(losses)]["lr"]
            optimizer.step()
            optimizer.zero_grad()
            losses.append(total.item())
    return losses, norms, model.state_dict()


def test_two_ranks_with_accumulation_equal_one_process_conversation_by_conversation(run: Run) -> None:
    losses, norms, weights = plain_training(run)
    assert len(losses) == len(run.steps) >= 4
    assert losses[0] - losses[-1] > 0.3, "nothing was learnt, so nothing is proved"
    assert [step["loss"] for step in run.steps] == pytest.approx(losses, rel=1e-4)
    # Before clipping: a gradient that is twice too small, or too large, would show here and nowhere else.
    assert [step["grad_norm"] for step in run.steps] == pytest.approx(norms, rel=1e-3)
    assert max(norms) > 1.0

    from safetensors.torch import load_file

    saved = load_file(run.out / f"ep_{EPOCHS}" / "model.safetensors")
    start = load_file(run.base / "model.safetensors")
    assert set(saved) == set(start)
    for name, value in saved.items():
        moved = (weights[name] - start[name]).abs().max()
        assert (value - weights[name]).abs().max() <= max(2e-3 * moved, 1e-6), name


def test_evaluation_is_the_mean_over_all_held_out_conversations(run: Run) -> None:
    """Of the saved model, one conversation after the other; the laws above hold although it ran between the steps."""
    from transformers import AutoModelForCausalLM

    assert [line["step"] for line in run.evals] == [*range(EVAL_EVERY, len(run.steps), EVAL_EVERY), len(run.steps)]
    assert run.evals[0]["eval_loss"] > run.evals[-1]["eval_loss"]
    model = AutoModelForCausalLM.from_pretrained(run.out / f"ep_{EPOCHS}", dtype=torch.float32).eval()
    held_out = open_dataset(split_path(run.prefix, "eval"))
    sums: dict[str, list[float]] = {"GPT4": [0.0] * 4, "GPT3": [0.0] * 4}
    for row in (held_out.row(index) for index in range(len(held_out))):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor(row.input_ids).long()[None]).logits[0]
        labels, weights = torch.tensor(row.labels).long(), torch.tensor(row.loss_weights)
        each = F.cross_entropy(logits, labels, reduction="none") * weights
        right = (logits.argmax(dim=1) == labels)[weights != 0]
        name = "GPT3" if row.loss_weights.max() < 0.5 else "GPT4"
        for at, value in enumerate((each.sum(), weights.sum(), right.sum(), len(right))):
            sums[name][at] += float(value)
    last = run.evals[-1]
    loss, weight, right, tokens = (sum(line[at] for line in sums.values()) for at in range(4))
    assert last["eval_loss"] == run.result["eval_loss"] == pytest.approx(loss / weight, rel=1e-5)
    assert (last["eval_accuracy"], last["tokens"]) == (pytest.approx(right / tokens), tokens)
    assert last["class_losses"] == pytest.approx({name: line[0] / line[1] for name, line in sums.items()}, rel=1e-5)
    assert last["class_accuracies"] == pytest.approx({name: line[2] / line[3] for name, line in sums.items()})


def test_a_step_tells_its_classes_its_accuracy_and_what_it_took(run: Run) -> None:
    for step in run.steps:
        low, high = sorted(step["class_losses"].values())
        assert set(step["class_losses"]) == {"GPT4", "GPT3"}
        assert low < step["loss"] < high
        assert 0 < step["stall_seconds"] < step["step_seconds"] < step["seconds"]
        assert step["mfu"] is None, "the peak of a CPU is not known"
        assert step["memory_bytes"] > 1e8
    assert run.steps[0]["eta_seconds"] > run.steps[-1]["eta_seconds"] == 0
    assert run.steps[-1]["accuracy"] > run.steps[0]["accuracy"]


def test_the_learning_rate_ends_where_it_says(run: Run) -> None:
    lrs = [step["lr"] for step in run.steps]
    assert LR * 0.9 < max(lrs) <= LR
    assert lrs[-1] == pytest.approx(LR * 0.1)
    assert [step["step"] for step in run.steps] == list(range(1, len(lrs) + 1))


def test_every_token_is_counted_once_an_epoch(run: Run) -> None:
    dataset = open_dataset(split_path(run.prefix, "train"))
    assert sum(step["tokens"] for step in run.steps) == EPOCHS * int(dataset.lengths.sum())


def test_the_saved_folder_is_a_model_of_its_family(run: Run) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    saved = run.out / f"ep_{EPOCHS}"
    assert run.result["checkpoints"] == [str(saved)], "--save-every 2 saves once in two epochs"
    assert [path.name for path in run.out.glob("*ep_*")] == [saved.name]
    family, tokenizer = load_family(saved)
    _, before = load_family(run.base)
    assert family.name == FAMILY
    card = read_card(saved)
    assert card is not None
    assert card.conditions == open_dataset(split_path(run.prefix, "train")).conditions
    for name in ("tokenizer.model", "tokenizer_config.json", "added_tokens.json"):
        assert (saved / name).read_bytes() == (run.base / name).read_bytes()
    for text in ("Hello  there", "    indented\tcode\n", "naïve 🙂 <|end_of_turn|>"):
        assert tokenizer.encode_text(text) == before.encode_text(text)
        ours, theirs = (AutoTokenizer.from_pretrained(folder)(text).input_ids for folder in (saved, run.base))
        assert ours == theirs
    assert (saved / "model.safetensors").stat().st_mode == (saved / "config.json").stat().st_mode
    model = AutoModelForCausalLM.from_pretrained(saved)
    eot = family.template.eot_id(tokenizer)
    ends = model.generation_config.eos_token_id
    assert eot in (ends if isinstance(ends, list) else [ends])
    assert model.dtype == torch.float32
    assert model.config.use_cache is True


def test_checkpoints_to_resume_from_are_written_between_the_steps(run: Run) -> None:
    found = sorted(path.name for path in (run.out / "resume").iterdir())
    assert found == sorted(f"step_{step}" for step in range(2, len(run.steps), 2))
    assert all(open_checkpoint(run.out / "resume" / name).num_bytes > 100_000 for name in found)


def killed(run: Run, out: Path) -> Path:
    """Give what is on disk when a run is killed after the step that its one checkpoint stands at."""
    shutil.copytree(run.out, out)
    shutil.rmtree(out / f"ep_{EPOCHS}")
    for path in (out / "resume").iterdir():
        if path.name != f"step_{RESUMED_AFTER}":
            shutil.rmtree(path)
    return out


@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted_to_the_last_digit(run: Run, tmp_path: Path) -> None:
    """The same command again, over what is on disk when a run is killed after step 2 and before step 4."""
    out = killed(run, tmp_path / "out")
    done = subprocess.run(
        # More evaluations than before change nothing in the steps.
        command(run.base, run.prefix, out, *run.flags, "--eval-every", "1"),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **QUIET},
    )
    assert done.returncode == 0, done.stderr
    assert f"going on after step {RESUMED_AFTER} of {len(run.steps)}" in done.stderr
    assert len(run.steps) > RESUMED_AFTER + 2
    assert untimed(read_metrics(out, "loss")) == untimed(run.steps)
    evals = {line["step"]: line for line in untimed(read_metrics(out, "eval_loss"))}
    assert sorted(evals) == list(range(RESUMED_AFTER, len(run.steps) + 1)), "after the checkpoint too"
    assert [evals[line["step"]] for line in run.evals] == untimed(run.evals), "the same weights, the same figures"
    weights = f"ep_{EPOCHS}/model.safetensors"
    assert (out / weights).read_bytes() == (run.out / weights).read_bytes()


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_with_fsdp_and_is_refused_with_deepspeed(run: Run, tmp_path: Path) -> None:
    out = killed(run, tmp_path / "out")
    done = subprocess.run(
        command(run.base, run.prefix, out, *run.flags, "--gpus", "1", "--accumulation", str(RANKS * ACCUMULATION)),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **QUIET},
    )
    if "fsdp" not in run.flags:
        assert done.returncode == 3
        assert f"`--gpus {RANKS}`" in done.stderr
        assert untimed(read_metrics(out, "loss")) == untimed(run.steps), "nothing was touched"
        return
    assert done.returncode == 0, done.stderr
    assert f"on 1 rank, after {RANKS}" in done.stderr
    steps = read_metrics(out, "loss")
    assert sum(step["tokens"] for step in steps) == sum(step["tokens"] for step in run.steps)
    assert len(steps) == len(run.steps) > RESUMED_AFTER
    # One rank does in turn what two did at once: the same up to the order of a sum.
    assert [step["loss"] for step in steps] == pytest.approx([step["loss"] for step in run.steps], rel=1e-5)


@pytest.mark.slow
def test_a_run_without_evaluation_has_the_same_losses_to_the_last_digit(run: Run, tmp_path: Path) -> None:
    if "fsdp" not in run.flags:
        pytest.skip("a resumed run, with every strategy, evaluates more often and has the same losses")
    assert len(run.evals) > 1
    assert run.evals[0]["step"] < len(run.steps), "an evaluation stands between the steps"
    done = subprocess.run(
        command(run.base, run.prefix, tmp_path / "out", *run.flags, "--eval-every", "no", "--save-every", "2epochs"),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **QUIET},
    )
    assert done.returncode == 0, done.stderr
    assert read_metrics(tmp_path / "out", "eval_loss") == []
    assert untimed(read_metrics(tmp_path / "out", "loss")) == untimed(run.steps)
