"""Each allocation fails in turn: all of them, of which `make check` takes some. Needs no cluster, but time."""
import os
import subprocess
import tempfile

from cluster import HarnessError
from marks import bound, note, soak


@soak
@bound(900)
def test_memory__each_allocation_of_a_databases_life_fails__usable_and_no_false_success():
    program = os.path.join(os.environ.get("TEST_BIN", "tests"), "unit", "test_db_memory")
    with tempfile.TemporaryFile("w+") as out:
        done = subprocess.run([program], env=dict(os.environ, LITEFWD_SOAK="1"), stdout=out, stderr=subprocess.STDOUT, check=False)
        out.seek(0)
        text = out.read()
    if done.returncode:
        raise HarnessError(f"exit {done.returncode}:\n{text[-4000:]}")
    note("; ".join(line.strip("# ") for line in text.splitlines() if "allocations failed in turn" in line))
