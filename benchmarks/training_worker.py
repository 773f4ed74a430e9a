"""One contender of `training.py`, in a process of its own: `python training_worker.py WHAT TASK.json`.

A contender trains epoch after epoch of the same rows. Before each it waits for a line on standard input, so that the
parent can let several take turns; after each it prints what the epoch took. The peers' contenders import nothing of
ochatctl: a row is a list of ids and, for each id, whether it is learnt.
"""

import json
import os
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

MARK = "BENCH "


def main() -> None:
    what, task = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    contenders = {
        "ours": ours, "ours-compiled": ours, "padded": padded,
        "model": make_model, "resume": prepare_resume, "head": head,
        "trainer": trainer, "trainer-grouped": trainer, "trl": trl, "trl-packed": trl,
    }  # fmt: skip
    contenders[what](task, what)


def say(**table: Any) -> None:
    sys.stdout.flush()
    os.write(1, f"{MARK}{json.dumps(table)}\n".encode())


class Turns:
    """Waits before each epoch, and says what the last one took. The first is the warm-up: the parent leaves it out."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._is_cuda = task["device"] == "cuda"
        self._began: tuple[float, float] | None = None

    def next(self) -> None:
        if self._is_cuda:
            torch.cuda.synchronize()
        now, cpu = time.perf_counter(), time.process_time()
        if self._began is None:
            say(ready=True)
        else:
            say(seconds=now - self._began[0], cpu_seconds=cpu - self._began[1], peak_bytes=self.peak_bytes())
        if sys.stdin.readline() != "go\n":
            sys.stdout.flush()
            os._exit(0)
        self._began = time.perf_counter(), time.process_time()

    def peak_bytes(self) -> int:
        if self._is_cuda:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- ochatctl


def ours_config(task: dict[str, Any], **changes: Any) -> Any:
    from ochatctl.train.config import OptimConfig, TrainConfig

    values: dict[str, Any] = {
        "model_dir": Path(task["model_dir"]),
        "data_path": Path(task["data_path"]),
        "out_dir": Path(task["out_dir"]),
        "family": task.get("family"),
        "strategy": task["strategy"],
        "device": task["device"],
        "dtype": task["dtype"],
        "num_ranks": 1,
        "num_epochs": task["epochs"],
        "batch_tokens": task["bin_tokens"],
        "optim": OptimConfig(lr=1e-4),
        "save_every_epochs": 1_000_000,
        "num_threads": task["threads"],
        "recompute": task["recompute"],
    }
    return TrainConfig(**(values | changes))


def ours(task: dict[str, Any], what: str) -> None:
    """The loop of `ochatctl train` itself. Before each step it asks whether to stop: there it waits for its turn."""
    from ochatctl.data.dataset import open_dataset
    from ochatctl.train.course import plan_run
    from ochatctl.train.loop import run
    from ochatctl.train.records import METRICS_FILE

    config = ours_config(task, compile=what == "ours-compiled")
    config.out_dir.mkdir(parents=True, exist_ok=True)
    course = plan_run(config, open_dataset(config.data_path).lengths)
    first_steps = {1} | {planned.step + 1 for planned in course.steps() if planned.ends_epoch}

    class Stop:
        def __init__(self) -> None:
            self.turns, self.step = Turns(task), 0

        @property
        def is_on(self) -> bool:
            self.step += 1
            if self.step in first_steps:
                taken = (config.out_dir / METRICS_FILE).read_text().count("\n") - 1
                assert taken == self.step - 1, f"{taken} steps were taken, and {self.step - 1} counted"
                self.turns.next()
            return False

    run(config, Stop())  # type: ignore[arg-type]  # a StopSwitch by what the loop asks of it


def padded(task: dict[str, Any], what: str) -> None:
    """Our model, attention, loss and optimizer on micro-batches that are padded to their longest conversation.

    The padding stands behind a row and is a part of it, which under causal attention changes nothing of what is learnt.
    """
    from ochatctl.data.dataset import open_dataset
    from ochatctl.data.encode import IGNORED_LABEL, Row
    from ochatctl.data.packing import pack
    from ochatctl.train.loss import batch_loss
    from ochatctl.train.model import load_model
    from ochatctl.train.ranks import join_ranks
    from ochatctl.train.strategies.base import make_strategy

    def fill(row: Row, length: int) -> Row:
        def longer(values: Any, value: float) -> Any:
            return np.concatenate([values, np.full(length - len(values), value, dtype=values.dtype)])

        ids, labels = longer(row.input_ids, 0), longer(row.labels, IGNORED_LABEL)
        return Row(input_ids=ids, labels=labels, loss_weights=longer(row.loss_weights, 0.0))

    config = ours_config(task)
    ranks = join_ranks(config)
    strategy = make_strategy(load_model(config), config, ranks)
    dataset = open_dataset(config.data_path)
    order, draw, turns = list(range(len(dataset.lengths))), random.Random(0), Turns(task)
    while True:
        turns.next()
        draw.shuffle(order)
        for start in range(0, len(order), task["micro_batch"]):
            own = [dataset.row(row) for row in order[start : start + task["micro_batch"]]]
            length = max(len(row.input_ids) for row in own)
            weight = sum(float(row.loss_weights.sum()) for row in own)
            batch = pack([fill(row, length) for row in own], step_loss_weight=weight)
            strategy.backward(batch_loss(strategy.model, batch, ranks.device), is_last=True)
            strategy.step(1e-4)


# ---- the peers


def read_rows(task: dict[str, Any]) -> list[dict[str, Any]]:
    table = np.load(task["rows_path"])
    bounds = np.cumsum(table["lengths"])[:-1]
    pairs = zip(np.split(table["ids"], bounds), np.split(table["learnt"], bounds), strict=True)
    return [{"input_ids": ids.tolist(), "learnt": learnt.tolist()} for ids, learnt in pairs]


def common_arguments(task: dict[str, Any]) -> dict[str, Any]:
    """What both trainers are told: the precision, recomputation, batch and device that ours has, and no extras."""
    is_half = task["dtype"] == "bfloat16"
    return {
        "output_dir": task["out_dir"], "per_device_train_batch_size": task["micro_batch"],
        "num_train_epochs": task["epochs"], "learning_rate": 1e-4, "bf16": is_half,
        "gradient_checkpointing": task["recompute"] == "full", "use_cpu": task["device"] == "cpu",
        "save_strategy": "no", "eval_strategy": "no", "logging_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "seed": 0,
    }  # fmt: skip


def take_turns(task: dict[str, Any]) -> Any:
    from transformers import TrainerCallback

    turns = Turns(task)

    class Gate(TrainerCallback):  # type: ignore[misc]  # untyped here
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            turns.next()

    return Gate()


def load_peer_model(task: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(task["model_dir"], dtype=torch.float32)


def load_peer_tokenizer(task: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(task["model_dir"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def trainer(task: dict[str, Any], what: str) -> None:
    """transformers' Trainer with its own padding collator, and once more with lengths grouped."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    rows = [
        {"input_ids": row["input_ids"], "labels": masked(row), "length": len(row["input_ids"])}
        for row in read_rows(task)
    ]
    grouped = {"train_sampling_strategy": "group_by_length"} if what == "trainer-grouped" else {}
    done = Trainer(
        model=load_peer_model(task),
        args=TrainingArguments(**common_arguments(task), **grouped),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(load_peer_tokenizer(task), padding="longest"),
        callbacks=[take_turns(task)],
    )
    done.train()


def masked(row: dict[str, Any]) -> list[int]:
    return [token if learnt else -100 for token, learnt in zip(row["input_ids"], row["learnt"], strict=True)]


def trl(task: dict[str, Any], what: str) -> None:
    """TRL's SFTTrainer, with the attention that it takes by itself; packed rows are `max_length` long."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_list([{"input_ids": row["input_ids"], "labels": masked(row)} for row in read_rows(task)])
    is_packed = what == "trl-packed"
    arguments = common_arguments(task)
    if is_packed:
        # As many conversations an optimizer step as the others take.
        arguments["per_device_train_batch_size"] = max(1, round(task["bin_tokens"] / task["context"]))
    SFTTrainer(
        model=load_peer_model(task),
        args=SFTConfig(**arguments, max_length=task["context"], packing=is_packed),
        train_dataset=rows,
        processing_class=load_peer_tokenizer(task),
        callbacks=[take_turns(task)],
    ).train()


# ---- the rest


def make_model(task: dict[str, Any], what: str) -> None:
    """Write a Llama of random weights, beside the tokenizer that stands in the folder already."""
    from transformers import AutoConfig, AutoModelForCausalLM

    dtype = torch.bfloat16 if task["dtype"] == "bfloat16" else torch.float32
    config = AutoConfig.from_pretrained(task["model_dir"])
    # A size at a time: keys that a size does not name keep what the folder says.
    for key, value in task["shape"].items():
        setattr(config, key, value)
    config.max_position_embeddings = task["context"]
    with torch.device(task["device"]):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for stale in Path(task["model_dir"]).glob("*.safetensors*"):
        stale.unlink()
    model.save_pretrained(task["model_dir"])
    say(parameters=sum(parameter.numel() for parameter in model.parameters()))


def prepare_resume(task: dict[str, Any], what: str) -> None:
    """Write the `run.json` of a run that is to be interrupted, or gone on with."""
    from ochatctl.config import write_run

    changes: dict[str, Any] = {"num_epochs": 2, "out_dir": Path(task["resume_dir"])}
    if task.get("resume_from"):
        changes["resume_from"] = Path(task["resume_from"])
    config = ours_config(task, **changes)
    config.out_dir.mkdir(parents=True, exist_ok=True)
    write_run(config.out_dir / "run.json", config)
    say(run=str(config.out_dir / "run.json"))


def head(task: dict[str, Any], what: str) -> None:
    """What the output layer and the loss take above the hidden states and the weight, chunked or plain."""
    from ochatctl.train.linear_loss import linear_cross_entropy, plain_cross_entropy

    wants = task["head"]
    is_cuda = task["device"] == "cuda"
    dtype = torch.bfloat16 if is_cuda else torch.float32
    T, V, D = wants["tokens"], wants["vocab"], wants["hidden"]

    def take(num_tokens: int, vocab: int, width: int) -> float:
        options: dict[str, Any] = {"device": task["device"], "dtype": dtype, "requires_grad": True}
        hidden_TD = torch.randn(num_tokens, width, **options)
        weight_VD = (torch.randn(vocab, width, device=task["device"], dtype=dtype) / width**0.5).requires_grad_()
        labels_T = torch.randint(vocab, (num_tokens,), device=task["device"])
        weights_T = torch.ones(num_tokens, device=task["device"])
        if is_cuda:
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if is_cuda else resident_bytes()
        if wants["way"] == "chunked":
            loss = linear_cross_entropy(hidden_TD, weight_VD, labels_T, weights_T).weighted_sum
        else:
            loss = plain_cross_entropy(hidden_TD @ weight_VD.t(), labels_T, weights_T).weighted_sum
        (loss / num_tokens).backward()
        if is_cuda:
            torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() if is_cuda else peak_resident_bytes()) - before

    take(8, 64, 16)  # threads, workspaces and kernels are made here
    if not is_cuda:
        Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    num_bytes = take(T, V, D)
    say(bytes=num_bytes, seconds=time.perf_counter() - began)


def resident_bytes() -> int:
    return status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    return status_bytes("VmHWM")


def status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"no {key}: this part is for Linux")


if __name__ == "__main__":
    main()
