"""Tables become dataclasses strictly, and cross a process unchanged."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ochatctl.config import build, read_run, read_toml, to_table, to_toml, write_run
from ochatctl.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Optim:
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    model: str
    epochs: int = 1
    cpu: bool = False
    out: Path = Path("out")
    strategy: Literal["auto", "fsdp"] = "auto"
    seed: int | None = None
    names: tuple[str, ...] = ()
    optim: Optim = Optim()
    weights: dict[str, float] = field(default_factory=dict)


configs = st.builds(
    Config,
    model=st.text(st.characters(exclude_categories=["Cs"])),
    epochs=st.integers(-(2**31), 2**31),
    cpu=st.booleans(),
    seed=st.none() | st.integers(0, 2**31),
    names=st.lists(st.text("abc\n\"'\\é", max_size=5), max_size=3).map(tuple),
    optim=st.builds(Optim, lr=st.floats(1e-9, 1e9)),
    weights=st.dictionaries(st.sampled_from(["GPT3", "GPT4"]), st.floats(0, 1)),
)


@given(configs)
def test_a_config_crosses_a_process_unchanged(config: Config) -> None:
    assert build(Config, to_table(config), where="x") == config


def test_run_json_reads_back_equal(tmp_path: Path) -> None:
    config = Config(model="m", out=Path("a/b"), seed=3)
    write_run(tmp_path / "run.json", config)
    assert read_run(Config, tmp_path / "run.json") == config
    with pytest.raises(ConfigError, match="cannot be read"):
        read_run(Config, tmp_path / "absent.json")


@given(configs)
def test_toml_reads_back_equal(config: Config) -> None:
    import tomllib

    assert build(Config, tomllib.loads(to_toml(to_table(config))), where="x") == config


BAD: list[tuple[dict[str, Any], str]] = [
    ({"model": "m", "epoch": 1}, "unknown key `epoch`; did you mean `epochs`?"),
    ({"model": "m", "zzz": 1}, "unknown key `zzz`"),
    ({}, "key `model` is missing"),
    ({"model": 1}, "`model` is `1`, which is not a `str`"),
    ({"model": "m", "epochs": 1.5}, "`epochs` is `1.5`, which is not a `int`"),
    ({"model": "m", "epochs": True}, "`epochs` is `True`"),
    ({"model": "m", "cpu": 1}, "`cpu` is `1`"),
    ({"model": "m", "strategy": "ddp"}, "`strategy` is `ddp`, not one of `auto`, `fsdp`"),
    ({"model": "m", "optim": {"lrr": 1}}, "`optim`: unknown key `lrr`; did you mean `lr`?"),
    ({"model": "m", "optim": {"betas": [0.9]}}, "`betas` is `[0.9]`, which is not a list of 2"),
    ({"model": "m", "optim": 3}, "`optim` is `3`, which is not a table"),
    ({"model": "m", "names": "abc"}, "`names` is `abc`, which is not a list"),
    ({"model": "m", "weights": {"GPT3": "x"}}, "GPT3 is `x`"),
]


@pytest.mark.parametrize(("table", "message"), BAD)
def test_a_typo_fails_and_names_the_place(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Config, table, where="run.toml")
    assert caught.value.message.startswith("run.toml")
    assert message in caught.value.message


def test_an_integer_serves_where_a_float_is_meant() -> None:
    assert build(Optim, {"lr": 1}, where="x").lr == 1.0


def test_toml_faults_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("a = \n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_toml(tmp_path / "absent.toml")
