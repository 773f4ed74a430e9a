"""Presets, `--set` and the order in which values win."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ochatctl.cli.app import app
from ochatctl.cli.commands import register
from ochatctl.config import build
from ochatctl.errors import ConfigError
from ochatctl.extras import has
from ochatctl.presets import leaves, load_preset, merge, names, read_set
from ochatctl.train.request import TrainRequest, flat
from ochatctl.train.settings import read_request

register(app)


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_every_preset_loads_and_says_what_it_is() -> None:
    assert {"openchat-v3.2-super", "single-gpu", "lora", "qlora", "70b", "laptop"} <= set(names())
    for name in names():
        preset = load_preset(name)
        assert preset.description
        assert preset.table
        assert preset.command in ("train", "serve")
        if preset.command == "train":
            build(TrainRequest, preset.table, where=name)


def test_openchats_preset_is_its_table() -> None:
    request = read_request(preset="openchat-v3.2-super")
    assert (request.model, request.data) == (
        "imone/LLaMA2_13B_with_EOT_token",
        "openchat/openchat_sharegpt_v3:openchat_v3.2_super",
    )
    assert (request.batch.step_tokens, request.epochs, request.optim.lr) == (64 * 4096, 5, None)
    assert (request.optim.betas, request.optim.eps, request.optim.weight_decay) == ((0.9, 0.95), 1e-5, 0.1)
    assert (request.optim.min_lr_ratio, request.optim.warmup_ratio, request.optim.max_grad_norm) == (0.1, 0.05, 1.0)


def test_a_later_source_wins_and_is_named() -> None:
    request = read_request(
        preset="laptop", sets=("epochs=4", "optim.lr=1e-4", "seed=3"), flags={"lr": 2e-5, "batch_tokens": 512}
    )
    assert (request.cpu, request.epochs, request.seed, request.optim.lr) == (True, 4, 3, 2e-5)
    assert (request.batch.step_tokens, request.batch.tokens) == (8192, 512)
    assert request.base is not None
    sources = request.base.sources
    assert sources["cpu"] == "preset laptop"
    assert sources["epochs"] == "--set"
    assert sources["optim.lr"] == "--lr"
    assert sources["batch.tokens"] == "--batch-tokens"
    assert "optim.eps" not in sources


def test_the_command_of_a_request_makes_the_same_request() -> None:
    import shlex

    sets = ("optim.betas=[0.8, 0.9]", "lora=r=8,alpha=16")
    request = read_request(preset="laptop", sets=sets, flags={"epochs": 7, "out": Path("a b")})
    words = shlex.split(request.command(model="m"))
    assert words[:2] == ["ochatctl", "train"]
    assert words[2:8] == ["--preset", "laptop", "--set", sets[0], "--set", sets[1]]
    assert words[8:] == ["--model", "m", "--out", "a b", "--epochs", "7"]


@pytest.mark.parametrize(
    ("preset", "sets", "message"),
    [
        ("lorra", (), "no preset `lorra`; did you mean `lora`"),
        ("absent.toml", (), "absent.toml: no such file"),
        (None, ("epoch=3",), "--set: unknown key `epoch`; did you mean `epochs`"),
        (None, ("optim.learning_rate=3",), "`optim`: unknown key `learning_rate`"),
        (None, ("epochs=many",), "`epochs` is `many`, which is not a `int`"),
        (None, ("epochs=0",), "`epochs` is `0`, not at least 1"),
        (None, ("epochs=2.5",), "`epochs` is `2.5`"),
        (None, ("epochs",), "is not of the form `key=value`"),
        (None, ("base=1",), "unknown key `base`"),
        (None, ("batch=1",), "`batch` is `1`, which is not a table"),
        (None, ("strategy=horovod",), "not one of `auto`, `deepspeed`, `fsdp`"),
    ],
)
def test_what_a_preset_cannot_hold_is_refused(preset: str | None, sets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_request(preset=preset, sets=sets)
    assert message in str(caught.value)


def test_a_users_own_file_is_a_preset_and_one_for_another_command_is_not(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(load_preset("lora").text.replace("epochs = 3", "epochs = 9"))
    assert read_request(preset=str(mine)).epochs == 9
    mine.write_text('command = "serve"\nport = 1')
    with pytest.raises(ConfigError, match="is for `ochatctl serve`"):
        read_request(preset=str(mine))


@pytest.mark.parametrize(
    ("text", "key", "table"),
    [
        ("optim.lr=2e-5", "optim.lr", {"optim": {"lr": 2e-5}}),
        ("a = [1, 2]", "a", {"a": [1, 2]}),
        ("a=word", "a", {"a": "word"}),
        ("a=r=1,b=2", "a", {"a": "r=1,b=2"}),
        ("a=true", "a", {"a": True}),
        ("a=1\nb=2", "a", {"a": "1\nb=2"}),
    ],
)
def test_a_set_value_is_toml_and_a_word_is_a_string(text: str, key: str, table: dict[str, Any]) -> None:
    assert read_set(text) == (key, table)


def test_tables_are_laid_over_each_other() -> None:
    merged = merge([{"a": 1, "t": {"x": 1, "y": 1}}, {"t": {"y": 2}}, {"b": 3}])
    assert merged == {"a": 1, "b": 3, "t": {"x": 1, "y": 2}}
    assert leaves(merged) == ["a", "t.x", "t.y", "b"]


def test_what_presets_prints_is_a_preset(tmp_path: Path) -> None:
    listed = call("presets").stdout
    assert all(name in listed for name in names())
    mine = tmp_path / "mine.toml"
    mine.write_text(call("presets", "openchat-v3.2-super").stdout)
    assert flat(read_request(preset=str(mine))) == flat(read_request(preset="openchat-v3.2-super"))
    assert call("presets", "lorra").exit_code == 3


@pytest.mark.skipif(has("bitsandbytes"), reason="bitsandbytes is installed")
def test_what_needs_an_extra_that_is_not_installed_says_which(tmp_path: Path) -> None:
    words = ("--model", "m", "--data", "d", "--out", str(tmp_path / "o"), "--cpu", "--set")
    for more in (("quantize=nf4", "--lora", "r=4,alpha=8"), ("optim.optimizer=adamw8bit",)):
        result = call("train", *words, *more)
        assert result.exit_code == 5
        assert "ochatctl[quant]" in result.stderr
