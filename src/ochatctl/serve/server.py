"""Run the server: the engine first, then the port, until a signal or the engine's death.

in: ServeConfig, out: a process that listens
"""

import asyncio
import contextlib
import gc
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from starlette.applications import Starlette

from ochatctl.engine.base import Engine
from ochatctl.errors import EnvironmentProblem, RunError, UsageProblem
from ochatctl.serve.app import Outside
from ochatctl.serve.config import LimitConfig, TlsConfig
from ochatctl.serve.connection import connection_class
from ochatctl.serve.protocol import RequestError

_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
_WATCH_SECONDS = 0.25
_LOOK_SECONDS = 0.05
# For answers that are over to be sent, once the time to drain is.
_LAST_SECONDS = 1
_PORTS_TRIED = 100


class Interrupted(Exception):
    """Ctrl-C ended the server."""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    return host in _LOOPBACK_HOSTS or host.startswith("127.")


def check_port(host: str, port: int) -> None:
    """Stop before a model is loaded where the port is taken.

    Raises:
        EnvironmentProblem: names a free one.
    """
    for listener in bind(host, port):
        listener.close()


def check_tls(tls: TlsConfig) -> None:
    """Stop before a model is loaded where a certificate cannot be used.

    Raises:
        UsageProblem: a key without a certificate.
        EnvironmentProblem: a file is missing, not readable, not PEM, or the two do not belong together.
    """
    if tls.certfile is None:
        if tls.keyfile is not None:
            raise UsageProblem("`--ssl-keyfile` needs `--ssl-certfile`", hint="ochatctl serve --help")
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # A key with a passphrase would be asked for on a terminal that is not there.
        context.load_cert_chain(tls.certfile, tls.keyfile, password="")
    except OSError as error:  # ssl's own errors are such
        why = error.strerror or str(error)
        raise EnvironmentProblem(
            f"`--ssl-certfile {tls.certfile}` with its key cannot be used: {why}",
            hint="both in PEM, the key without a passphrase",
        ) from error


def bind(host: str, port: int) -> list[socket.socket]:
    """Give a socket for each address of a host, bound and not yet listening.

    Raises:
        EnvironmentProblem: the port is taken (names a free one), or the address is not this machine's.
    """
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise EnvironmentProblem(f"`--host {host}` is no address: {error}", hint="try `--host localhost`") from error
    out: list[socket.socket] = []
    problem: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(infos):
        try:
            # All addresses of a host share one port, also where the system chooses it.
            chosen = out[0].getsockname()[1] if out else port
            out.append(_bound(family, kind, protocol, (address[0], chosen, *address[2:])))
        except PermissionError as error:
            problem = error
            break
        except OSError as error:
            # A name may have an address (`::1`) that this machine has not.
            problem = error
            if _is_taken(error):
                break
    if out and (problem is None or not (_is_taken(problem) or isinstance(problem, PermissionError))):
        return out
    for listener in out:
        listener.close()
    assert problem is not None, "a host has at least one address"
    if _is_taken(problem):
        free = next((p for p in range(port + 1, min(port + _PORTS_TRIED, 65_535)) if _is_free(host, p)), 0)
        raise EnvironmentProblem(f"port {port} of `{host}` is in use", hint=f"`--port {free}` is free")
    raise EnvironmentProblem(f"`{host}` port {port}: {problem.strerror}", hint="choose another `--host` or `--port`")


def settle() -> None:
    """Leave all that is loaded by now out of the garbage collector's rounds, and have fewer of them.

    A round over the modules of a model's libraries holds every stream up for a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def run_app(
    app: Starlette,
    sockets: Sequence[socket.socket],
    *,
    limits: LimitConfig,
    on_ready: Callable[[], None],
    on_hangup: Callable[[], None] = lambda: None,
    tls: TlsConfig | None = None,
    forwarded_allow_ips: str = "127.0.0.1",
) -> None:
    """Listen until SIGTERM or Ctrl-C, finish what is under way, and return. SIGHUP calls `on_hangup`.

    While it finishes, the port stays open: `/ready` and whatever is new get 503, `/health` 200.

    Raises:
        Interrupted: it was Ctrl-C.
        RunError: the engine died.
    """
    outside: Outside = app.state.outside
    config = uvicorn.Config(
        app,
        http=connection_class(limits, outside.refused),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        backlog=2048,
        forwarded_allow_ips=forwarded_allow_ips,
        ssl_certfile=tls.certfile if tls else None,
        ssl_keyfile=tls.keyfile if tls else None,
    )
    server = _Server(config)
    with server.handling_signals(), _hangup(on_hangup):
        serving = asyncio.create_task(server.serve(sockets=list(sockets)))
        watching = asyncio.create_task(_watch(outside.engine))
        draining = asyncio.create_task(_drain(server, outside, limits.drain_timeout_seconds))
        ready = asyncio.create_task(_when_started(server, on_ready))
        try:
            await asyncio.wait({serving, watching, draining}, return_when=asyncio.FIRST_COMPLETED)
            outside.gate.shut()
            # What is left has had its time, or an error that it is to be told.
            config.timeout_graceful_shutdown = _LAST_SECONDS
            server.should_exit = True
            await serving
            if server.force_exit:
                # uvicorn leaves both behind where it is told to hurry.
                for task in server.server_state.tasks:
                    task.cancel()
                await server.lifespan.shutdown()
        finally:
            for task in (ready, watching, draining):
                task.cancel()
            deaths = await asyncio.gather(watching, ready, draining, return_exceptions=True)
    for death in deaths:
        if isinstance(death, RunError):
            raise death
    if server.received == signal.SIGINT:
        raise Interrupted


async def _drain(server: "_Server", outside: Outside, timeout_seconds: float) -> None:
    """Wait for a signal, then for the requests that are inside."""
    while server.received is None:
        await asyncio.sleep(_LOOK_SECONDS)
    outside.gate.shut()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            while outside.gate.num_inside and not server.force_exit:
                await asyncio.sleep(_LOOK_SECONDS)
    outside.engine.end_all(RequestError(503, "the server is shutting down", code="shutting_down"))


class _Server(uvicorn.Server):
    """uvicorn's server, but for its signals: it would raise SIGTERM once more at the end, and never exit with 0."""

    received: int | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Let a first signal drain and a second abort."""
        old = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        if self.received is not None:
            self.force_exit = True
        self.received = number


@contextlib.contextmanager
def no_hangup() -> Iterator[None]:
    """Let SIGHUP pass while nothing listens to it: a reload or a rotated log must not end a server that loads."""
    if not _can_hang_up():
        yield
        return
    # A handler, and not SIG_IGN, which child processes would inherit.
    old = signal.signal(signal.SIGHUP, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, old)


def _can_hang_up() -> bool:
    return hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def _hangup(callback: Callable[[], None]) -> Iterator[None]:
    """Call back at SIGHUP, on the event loop and so between two steps of it."""
    if not _can_hang_up():
        yield
        return
    loop = asyncio.get_running_loop()
    old = signal.getsignal(signal.SIGHUP)
    loop.add_signal_handler(signal.SIGHUP, callback)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, old)


async def _watch(engine: Engine) -> None:
    while True:
        engine.check_alive()
        await asyncio.sleep(_WATCH_SECONDS)


async def _when_started(server: uvicorn.Server, on_ready: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    on_ready()


def _bound(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _is_free(host: str, port: int) -> bool:
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        _bound(infos[0][0], infos[0][1], infos[0][2], infos[0][4]).close()
    except OSError:
        return False
    return True


def _is_taken(error: OSError) -> bool:
    import errno

    return error.errno == errno.EADDRINUSE
