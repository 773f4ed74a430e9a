"""Resume checkpoints on disk: what is whole, what is kept, and which run may go on from one. No process is started."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ochatctl.config import write_run
from ochatctl.errors import ConfigError, DataError, UsageProblem
from ochatctl.files import write_json
from ochatctl.train import resume
from ochatctl.train.choose_resume import Choice, choose_resume
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.course import Progress, plan_course
from ochatctl.train.disk import disk_need, resume_bytes
from ochatctl.train.reporter import cut_metrics
from ochatctl.train.request import BatchRequest, OptimRequest, TrainRequest
from ochatctl.train.resume import Manifest, describe_part, last_whole, open_checkpoint
from ochatctl.train.save_every import SaveEvery, read_save_every

LENGTHS = np.array([3, 9, 4, 7, 5, 8, 6, 2] * 4)


def config_of(out: Path, **changes: object) -> TrainConfig:
    base = TrainConfig(
        model_dir=out.parent / "base",
        data_path=out.parent / "chats.train.parquet",
        out_dir=out,
        family=None,
        strategy="fsdp",
        device="cpu",
        dtype="float32",
        num_ranks=2,
        num_epochs=3,
        batch_tokens=16,
        optim=OptimConfig(lr=1e-3),
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # by name


def progress_at(config: TrainConfig, step: int) -> Progress:
    course = plan_course(
        LENGTHS,
        num_epochs=config.num_epochs,
        bins_per_step=config.bins_per_step,
        bin_tokens=config.batch_tokens,
        seed=config.seed,
    )
    return next(planned.progress for planned in course.steps() if planned.step == step)


def save(config: TrainConfig, step: int) -> Path:
    """Write a checkpoint as the ranks do, of a few bytes."""
    part = resume.part_dir(config.out_dir, step)
    (part / "shards").mkdir(parents=True)
    files = [part / "rng_0.pt", part / "shards" / "__0_0.distcp"]
    for file in files:
        file.write_bytes(f"{file.name} of step {step}".encode())
    manifest = Manifest(
        strategy=config.strategy,
        ranks=config.num_ranks,
        progress=progress_at(config, step),
        num_steps=30,
        seconds=1.5,
        parts=tuple(describe_part(part, file) for file in files),
    )
    return resume.finish(config.out_dir, manifest, keep=config.keep)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """An interrupted run with two checkpoints."""
    config = config_of(tmp_path / "out", keep=2)
    config.out_dir.mkdir()
    write_run(config.out_dir / "run.json", config)
    for step in (4, 8):
        save(config, step)
    return config


def choose(config: TrainConfig, **asked: object) -> tuple[Choice, list[str]]:
    notes: list[str] = []
    request = replace(TrainRequest(), **asked)  # type: ignore[arg-type]  # by name
    return choose_resume(request, config, notes), notes


def test_the_last_checkpoint_is_gone_on_from_and_nothing_is_touched(config: TrainConfig) -> None:
    before = sorted(config.out_dir.rglob("*"))
    choice, notes = choose(config)
    assert choice.config.resume_from == config.out_dir / "resume" / "step_8"
    assert choice.point is not None
    assert choice.point.manifest.progress == progress_at(config, 8)
    assert notes == [f"going on after step 8 of 30, from `{choice.point.path}`"]
    assert sorted(config.out_dir.rglob("*")) == before


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "shards" / "__0_0.distcp").write_bytes(b"short"), "has 5 bytes of 22"),
        (lambda folder: (folder / "rng_0.pt").write_bytes(b"RNG_0.pt of step 8"), "`rng_0.pt` is not what was written"),
        (lambda folder: (folder / "rng_0.pt").unlink(), "`rng_0.pt` is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "has no `manifest.json`"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "is not of format `ochatctl-resume`"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_skipped(damage: object, named: str, config: TrainConfig) -> None:
    damage(config.out_dir / "resume" / "step_8")  # type: ignore[operator]
    choice, notes = choose(config)
    assert choice.point is not None
    assert choice.point.path.name == "step_4"
    assert "step_8" in notes[0]
    assert named in notes[0]
    assert notes[0].endswith("it is skipped")


def test_a_save_that_was_cut_short_is_named_and_skipped(config: TrainConfig) -> None:
    (config.out_dir / "resume" / ".step_9.part" / "shards").mkdir(parents=True)
    choice, notes = choose(config)
    assert choice.point is not None
    assert choice.point.path.name == "step_8"
    assert "`.step_9.part`" in notes[0].replace(f"{config.out_dir}/resume/", "")
    resume.remove_unfinished(config.out_dir)
    assert sorted(path.name for path in (config.out_dir / "resume").iterdir()) == ["step_4", "step_8"]


def test_a_newer_format_is_refused_with_both_versions(config: TrainConfig) -> None:
    path = config.out_dir / "resume" / "step_8"
    table = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    assert list(table)[:2] == ["format", "version"]
    write_json(path / "manifest.json", {**table, "version": 2})
    with pytest.raises(DataError, match="version 2 of `ochatctl-resume`, and this ochatctl reads up to 1"):
        open_checkpoint(path)


def test_where_every_checkpoint_is_damaged_the_run_does_not_quietly_start_again(config: TrainConfig) -> None:
    for step in (4, 8):
        (config.out_dir / "resume" / f"step_{step}" / "rng_0.pt").unlink()
    with pytest.raises(DataError, match="every checkpoint there is damaged") as caught:
        choose(config)
    assert caught.value.message.count("`rng_0.pt` is missing") == 2
    assert caught.value.hint.endswith("--resume no --yes")


def test_only_the_oldest_checkpoints_are_removed(config: TrainConfig) -> None:
    save(config, 9)
    assert sorted(path.name for path in (config.out_dir / "resume").iterdir()) == ["step_8", "step_9"]
    # A run that went back to step 4 and is at 6 now has left those of 8 and 9 behind.
    save(config, 6)
    assert sorted(path.name for path in (config.out_dir / "resume").iterdir()) == ["step_6", "step_9"]
    save(config, 7)
    assert sorted(path.name for path in (config.out_dir / "resume").iterdir()) == ["step_6", "step_7"]


def test_a_changed_run_is_refused_by_its_keys(config: TrainConfig) -> None:
    changed = replace(config, seed=5, optim=replace(config.optim, weight_decay=0.0))
    with pytest.raises(ConfigError) as caught:
        choose(changed)
    assert "`optim.weight_decay` (0.1 -> 0.0)" in caught.value.message
    assert "`seed` (0 -> 5)" in caught.value.message
    # What changes nothing that is learnt is free, and what nobody asks for stays as it was.
    free = replace(config, keep=3, save_every_steps=2, grace_seconds=5.0, optim=OptimConfig(lr=9.0))
    assert choose(free)[0].config.optim.lr == config.optim.lr
    with pytest.raises(ConfigError, match=r"`optim.lr` \(0.001 -> 9.0\)"):
        choose(free, optim=OptimRequest(lr=9.0))


def test_fsdp_goes_on_with_another_number_of_ranks_and_keeps_the_step_if_it_can(config: TrainConfig) -> None:
    choice, notes = choose(replace(config, num_ranks=1, batch_tokens=99))
    assert (choice.config.batch_tokens, choice.config.accumulation_steps) == (16, 2)
    assert len(notes) == 2
    assert "on 1 rank, after 2" in notes[1]
    choice, notes = choose(replace(config, num_ranks=3))
    assert choice.config.bins_per_step == 3
    assert "the rows that epoch 2 has left are planned again" in notes[2]
    asked = BatchRequest(tokens=16, accumulation=1)
    assert "planned again" in choose(replace(config, num_ranks=1), batch=asked)[1][2]


def test_deepspeed_refuses_another_number_of_ranks(config: TrainConfig) -> None:
    config = replace(config, strategy="deepspeed")
    write_run(config.out_dir / "run.json", config)
    with pytest.raises(ConfigError, match="written by 2 ranks, and DeepSpeed goes on with as many only") as caught:
        choose(replace(config, num_ranks=1))
    assert "`--gpus 2`" in caught.value.hint
    assert choose(config)[0].point is not None


def test_a_finished_run_says_so_and_only_no_with_yes_starts_anew(config: TrainConfig) -> None:
    (config.out_dir / "ep_3").mkdir()
    choice, notes = choose(config, yes=True)
    assert choice.is_finished
    assert "finished" in notes[-1]
    with pytest.raises(ConfigError, match=r"`epochs` \(3 -> 4\)") as refused:
        choose(replace(config, num_epochs=4))
    assert f"`--model {config.out_dir}/ep_N` trains its model further" in refused.value.hint
    with pytest.raises(UsageProblem, match="holds `ep_3` of an earlier run") as caught:
        choose(config, resume="no")
    assert caught.value.hint.endswith("--resume no --yes")
    choice, _ = choose(config, resume="no", yes=True)
    assert not choice.is_finished
    assert choice.config.resume_from is None


def test_a_checkpoint_may_be_named(config: TrainConfig, tmp_path: Path) -> None:
    path = config.out_dir / "resume" / "step_4"
    assert choose(config, resume=str(path))[0].config.resume_from == path
    elsewhere = replace(config, out_dir=tmp_path / "other")
    assert choose(elsewhere, resume=str(path))[0].config.resume_from == path
    with pytest.raises(ConfigError, match=f"the run in `{config.out_dir}` was started with other values: `seed`"):
        choose(replace(elsewhere, seed=7), resume=str(path))
    with pytest.raises(UsageProblem, match="is a run, not one of its checkpoints") as caught:
        choose(elsewhere, resume=str(config.out_dir))
    assert caught.value.hint.endswith(f"--resume {config.out_dir}/resume/step_8")
    (path / "rng_0.pt").unlink()
    with pytest.raises(DataError, match=r"`rng_0\.pt` is missing"):
        choose(config, resume=str(path))
    with pytest.raises(UsageProblem, match="no such checkpoint"):
        choose(config, resume="atuo")


def test_a_run_that_saved_nothing_starts_again(tmp_path: Path) -> None:
    config = config_of(tmp_path / "out")
    assert choose(config) == (Choice(config=config), [])
    config.out_dir.mkdir()
    write_run(config.out_dir / "run.json", replace(config, seed=9))
    choice, notes = choose(config)
    assert choice == Choice(config=config)
    assert "starts again from the beginning" in notes[0]


def test_metrics_are_cut_after_the_step_that_is_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    header = '{"format": "ochatctl-metrics", "version": 1}\n'
    steps = [json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(1, 6)]
    path.write_text(header + "".join(steps) + '{"step": 6, "lo', encoding="utf-8")
    cut_metrics(path, after_step=3)
    assert path.read_text(encoding="utf-8") == header + "".join(steps[:3])
    cut_metrics(path, after_step=0)
    assert path.read_text(encoding="utf-8") == header


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("1epoch", SaveEvery()),
        ("3", SaveEvery(epochs=3)),
        ("500steps", SaveEvery(steps=500)),
        ("30m", SaveEvery(seconds=1800.0)),
        ("2epochs,1.5h,1step", SaveEvery(epochs=2, steps=1, seconds=5400.0)),
    ],
)
def test_save_every_reads_epochs_steps_and_times(text: str, means: SaveEvery) -> None:
    assert read_save_every(text) == means


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5steps", "5 weeks", "1m,2m", "m", "epoch"])
def test_any_other_time_to_save_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time to save at"):
        read_save_every(text)


def test_the_disk_need_counts_what_is_not_there_yet(tmp_path: Path) -> None:
    config = config_of(tmp_path / "out", keep=2)
    each = resume_bytes(config, 1000)
    assert each == 12_000
    assert resume_bytes(replace(config, strategy="deepspeed", dtype="bfloat16"), 1000) == 14_000
    assert disk_need(config, num_parameters=1000, model_bytes=5) == 3 * 5 + 3 * each
    # Saved once, at the end, there is nothing in between to go on from.
    assert disk_need(replace(config, save_every_epochs=3), num_parameters=1000, model_bytes=5) == 5
    (config.out_dir / "ep_1").mkdir(parents=True)
    going_on = replace(config, resume_from=config.out_dir / "resume" / "step_9")
    assert disk_need(going_on, num_parameters=1000, model_bytes=5) == 2 * 5 + 2 * each


def test_several_nodes_need_a_place_to_meet(tmp_path: Path) -> None:
    for place in (None, "localhost"):
        with pytest.raises(ConfigError, match=r"`--nodes 2` needs `--rdzv HOST:PORT`"):
            config_of(tmp_path, num_nodes=2, rendezvous=place)
    assert config_of(tmp_path, num_nodes=2, rendezvous="localhost:1").is_on_one_machine
    with pytest.raises(ConfigError, match="`num_ranks` is `3`"):
        config_of(tmp_path, num_nodes=2, num_ranks=3, rendezvous="node0:1")


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert last_whole(tmp_path) == (None, [])


def test_what_may_change_on_the_way_is_a_key_of_the_config() -> None:
    assert set(resume.FREE_KEYS | resume.RANK_KEYS) <= set(TrainConfig.__dataclass_fields__)
