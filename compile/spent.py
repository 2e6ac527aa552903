"""What model_deploy itself has no more use for while it still runs.

It writes a net's weights three times: quantised, then where they will lie in memory, and in the bmodel, with a file of
MLIR after the second. Nothing reads the first after that (tpu-mlir 1.30.2, without --test_input). Of an embedding table
each is as large as the table.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

_PERIOD = 0.05  # seconds; writing a gigabyte takes longer
_SPENT, _SINCE = "*_tpu_weights.npz", "*_final.mlir"


@contextlib.contextmanager
def swept(folder: Path) -> Iterator[None]:
    """Remove the first from `folder` as soon as the second stands, while this lasts."""
    ended = threading.Event()
    thread = threading.Thread(target=_sweep, args=(folder, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _sweep(folder: Path, ended: threading.Event) -> None:
    while not ended.wait(_PERIOD):
        with contextlib.suppress(FileNotFoundError):
            # It is opened before the compiler's work, and filled when that is done.
            if any(path.stat().st_size for path in folder.glob(_SINCE)):
                for path in folder.glob(_SPENT):
                    path.unlink()
