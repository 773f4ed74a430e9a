"""`examples/clean_and_pack.py` runs as written."""

import os
import subprocess
import sys
from pathlib import Path

from tokenizers_for_tests import byte_bpe, write_fast

EXAMPLE = Path(__file__).parents[2] / "examples" / "clean_and_pack.py"


def test_the_example_cleans_packs_and_plans(tmp_path: Path) -> None:
    model = write_fast(tmp_path / "model", byte_bpe())
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(model), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["cleaned", "packed", "planned", "first batch"]
    assert lines[3].endswith("no padding")
