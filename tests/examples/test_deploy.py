"""`examples/deploy/`: each file is parsed, its `ochatctl` line by the command line itself, and fits the defaults."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from command_lines_for_tests import documented_lines, parse

from ochatctl.serve.auth import PUBLIC_PATHS
from ochatctl.serve.config import LimitConfig

DEPLOY = Path(__file__).parent.parent.parent / "examples" / "deploy"
LIMITS = LimitConfig()
# (words of a directive, its block or None)
Directive = tuple[list[str], "list[Any] | None"]


def text(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def nginx(source: str) -> list[Directive]:
    tokens = re.findall(r'"[^"]*"|[{};]|[^\s{};"]+', re.sub(r"#.*", "", source))

    def block(position: int) -> tuple[list[Directive], int]:
        out: list[Directive] = []
        words: list[str] = []
        while position < len(tokens):
            token = tokens[position]
            position += 1
            if token == ";":
                assert words
                out.append((words, None))
                words = []
            elif token == "{":
                assert words
                inner, position = block(position)
                out.append((words, inner))
                words = []
            elif token == "}":
                assert not words, f"no `;` after {words}"
                return out, position
            else:
                words.append(token)
        assert not words
        return out, position

    found, position = block(0)
    assert position == len(tokens), "a brace too many"
    return found


def caddy(source: str) -> list[Directive]:
    """A Caddyfile ends its directives with the line; blocks open at a line's end and close on a line of their own."""
    lines = [line for line in (re.sub(r"(^|\s)#.*", "", raw).strip() for raw in source.splitlines()) if line]
    return nginx("\n".join(line if line.endswith("{") or line == "}" else f"{line};" for line in lines))


def inside(directives: list[Directive], *first: str) -> list[Directive]:
    (block,) = (inner for words, inner in directives if words[: len(first)] == list(first))
    assert block is not None
    return block


def seconds(value: str) -> float:
    return float(value.removesuffix("s"))


def test_nginx_hands_events_on_and_waits_as_long_as_the_server() -> None:
    found = nginx(text("nginx.conf"))
    server = inside(found, "server")
    assert ["client_max_body_size", "4m"] in [words for words, _ in server]
    at = {words[0]: words[1:] for words, _ in inside(server, "location", "/")}
    assert (at["proxy_buffering"], at["proxy_http_version"], at["proxy_next_upstream"]) == (["off"], ["1.1"], ["off"])
    assert seconds(at["proxy_read_timeout"][0]) >= LIMITS.first_token_timeout_seconds
    upstream = at["proxy_pass"][0].removeprefix("http://")
    assert ["server", "127.0.0.1:18888"] in [words for words, _ in inside(found, "upstream", upstream)]


def test_caddy_hands_events_on_and_waits_as_long_as_the_server() -> None:
    site = inside(caddy(text("Caddyfile")), "chat.example.com")
    proxy = inside(site, "reverse_proxy", "127.0.0.1:18888")
    at = {words[0]: words[1:] for words, inner in proxy if inner is None}
    assert "flush_interval" not in at
    assert at["health_uri"][0] in PUBLIC_PATHS
    transport = dict(words for words, _ in inside(proxy, "transport", "http"))
    assert seconds(transport["response_header_timeout"]) >= LIMITS.first_token_timeout_seconds
    # The server's own limit is the one that a client is told of.
    assert "request_body" not in {words[0] for words, _ in site}


def test_systemd_restarts_a_dead_engine_and_lets_answers_end() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text("ochatctl.service"))
    assert unit.sections() == ["Unit", "Service", "Install"]
    service = unit["Service"]
    parse(service["ExecStart"].replace("/opt/ochatctl/bin/", ""))
    assert service["Restart"] == "on-failure"
    assert "7" not in service["RestartPreventExitStatus"].split()
    assert float(service["TimeoutStopSec"]) > LIMITS.drain_timeout_seconds
    assert service["ExecReload"].startswith("/bin/kill -HUP")
    assert "HOME=/var/lib/ochatctl" in service["Environment"].split()
    # Both would keep the GPUs from it.
    assert not {"PrivateDevices", "ProtectClock"} & set(service)


def test_kubernetes_knows_loading_draining_and_dead_apart() -> None:
    yaml = pytest.importorskip("yaml")
    deployment, service = yaml.safe_load_all(text("kubernetes.yaml"))
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/health", "readiness": "/ready", "liveness": "/health"}
    assert set(paths.values()) <= PUBLIC_PATHS
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > pause + LIMITS.drain_timeout_seconds
    assert f"--uid {spec['securityContext']['runAsUser']} " in text("Dockerfile.cuda")
    parse(shlex.join(["ochatctl", *container["args"]]))
    names = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("name", ["Dockerfile.cuda", "Dockerfile.cpu"])
def test_an_image_runs_the_server_as_nobody_special_and_passes_signals_on(name: str) -> None:
    source = "\n".join(line for line in text(name).splitlines() if not line.startswith("#"))
    lines = [line for line in source.replace("\\\n", " ").splitlines() if line.strip()]
    found = [tuple(line.split(maxsplit=1)) for line in lines]
    known = {"FROM", "RUN", "COPY", "USER", "ENV", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD", "ARG", "HEALTHCHECK"}
    assert {word for word, _ in found} <= known
    assert found[0][0] == "FROM"
    last = dict(found)
    assert last["USER"] == "ochatctl"
    entry, arguments = json.loads(last["ENTRYPOINT"]), json.loads(last["CMD"])
    assert entry == ["/opt/ochatctl/bin/ochatctl"]
    assert arguments[-2:] == ["--host", "0.0.0.0"]
    parse(shlex.join(["ochatctl", *arguments]))
    assert last["EXPOSE"] == "18888"
    # A volume over a folder that its user has not made would be root's.
    assert found.index(("RUN", f"mkdir {last['VOLUME']}")) > found.index(("USER", "ochatctl"))
    check = json.loads(last["HEALTHCHECK"].partition("CMD")[2])
    assert check[:2] == ["/opt/ochatctl/bin/python", "-c"]
    compile(check[2], name, "exec")
    assert re.search(r"127\.0\.0\.1:18888(/\w+)'", check[2])[1] in PUBLIC_PATHS  # type: ignore[index]  # else it fails


@pytest.mark.parametrize("name", ["Dockerfile.cuda", "Dockerfile.cpu"])
def test_an_image_is_built_from_all_that_the_package_needs_and_nothing_else(name: str) -> None:
    lines = [line for line in text(f"{name}.dockerignore").splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((DEPLOY.parent.parent / "pyproject.toml").read_text())["project"]
    assert let_in == {"pyproject.toml", project["readme"], *project["license-files"], "src"}


def test_what_the_files_show_as_commands_parses() -> None:
    lines = documented_lines(DEPLOY / "README.md")
    for name in ("Caddyfile", "nginx.conf"):
        lines += documented_lines(DEPLOY / name)
    assert len(lines) >= 3
    for line in lines:
        parse(line)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_itself_finds_nothing_wrong(tmp_path: Path) -> None:
    unit = tmp_path / "ochatctl.service"
    unit.write_text(text("ochatctl.service").replace("/opt/ochatctl/bin/ochatctl", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, str(unit) in done.stderr) == (0, False), done.stderr
