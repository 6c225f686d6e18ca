"""Worker processes: one thread, and none is left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from cacsnet.workers import worker_pool

SCRIPT = """
import os, sys, time
from cacsnet.workers import worker_pool

def main():
    with worker_pool(2) as pool:
        print(*{*pool.map(pid, range(8), chunksize=1)}, flush=True)
        pool.submit(time.sleep, 60).result()

from tests_workers_helper import pid
if __name__ == "__main__":
    main()
"""


def test_workers_have_one_thread_each():
    with worker_pool(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "tests_workers_helper.py").write_text("import os\ndef pid(_):\n    return os.getpid()\n", encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.getcwd(), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as parent:
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert workers
        assert all(alive(number) for number in workers)
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while any(alive(number) for number in workers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(alive(number) for number in workers)


def alive(number):
    """Not ended; a zombie has."""
    try:
        with open(f"/proc/{number}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
