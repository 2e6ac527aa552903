"""The engine's process where its parent is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A call that goes on, as the simulator's prefill of a large model does: 13 minutes were seen after the parent's end.
BUSY = """
import ctypes, os, sys
from runtime import worker
worker.PATIENCE = 0.1
worker.receive = lambda inbox: ctypes.CDLL(None).sleep(600)
with os.fdopen(int(sys.argv[1]), "rb") as inbox, os.fdopen(int(sys.argv[2]), "wb") as outbox:
    print("busy", flush=True)
    worker.main(inbox, outbox)
"""


def test_a_busy_worker_ends_with_its_parent() -> None:
    requests, replies = os.pipe(), os.pipe()
    words = [sys.executable, "-c", BUSY, str(requests[0]), str(replies[1])]
    ends = requests[0], replies[1]
    with subprocess.Popen(words, cwd=ROOT, pass_fds=ends, stdout=subprocess.PIPE, text=True) as worker:
        for end in ends:
            os.close(end)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "busy\n"
        assert worker.poll() is None
        for end in (requests[1], replies[0]):  # what the kernel does for a parent that was killed
            os.close(end)
        try:
            assert worker.wait(30) == 1
        finally:
            worker.kill()
