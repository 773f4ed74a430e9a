"""ochat 3.2.2 in an environment of its own, for the benchmarks that run it beside ochatctl. Nothing of it is kept.

What both sides use (torch, numpy, pyarrow) is taken from the environment that runs the benchmark, so that a difference
is not one of versions; what ochat needs otherwise comes from PyPI at run time. transformers 4.33.3 is the newest of
ochat 3.2.2's days that runs on Python 3.11.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

OCHAT = "ochat==3.2.2"
NEEDS = ("transformers==4.33.3", "ray", "orjson", "sentencepiece", "protobuf<3.21", "numba", "tqdm")


def ochat_python(folder: Path, *, more: tuple[str, ...] = ()) -> Path:
    """Give the Python of an environment with ochat in it, made where it is not there yet."""
    python = folder / "bin" / "python"
    done = folder / "ready"
    if done.is_file() and {OCHAT, *NEEDS, *more} <= set(done.read_text().split()):
        return python
    print(f"making {folder}: {OCHAT} and {', '.join((*NEEDS, *more))} ...", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    import numpy

    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *NEEDS, *more, f"numpy=={numpy.__version__}"], check=True)
    subprocess.run([*pip, "--no-deps", OCHAT], check=True)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    # Read after the environment's own packages, which therefore win.
    (packages / "zz_outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done.write_text("\n".join((OCHAT, *NEEDS, *more)))
    return python


def versions(python: Path, *names: str) -> str:
    """Give `name version, name version` as that Python sees them."""
    code = "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    done = subprocess.run([str(python), "-c", code, *names], capture_output=True, text=True, check=True)
    return f"Python {sys.version.split()[0]}, {done.stdout.strip()}"
