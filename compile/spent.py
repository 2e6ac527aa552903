"""What the compiler's tools themselves have no more use for while they still run.

model_deploy writes a net's weights three times: quantised, then where they will lie in memory, and in the bmodel, with
a file of MLIR after the second. Nothing reads the first after that. model_transform keeps the simplified ONNX until its
end and reads it only to compare, which we do not ask for; its first MLIR says that all of it was read (tpu-mlir
1.30.2). Each is as large as the weights.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_PERIOD = 0.05  # seconds; writing a gigabyte takes longer
# What is spent since when. ONNX of more than 2 GB has its weights in a file of their own.
_REMOVED = {"*_tpu_weights.npz": "*_final.mlir"}
# What the tool removes itself at its end is emptied: it asks whether the file is there, and fails if it then is not.
_EMPTIED = {"*_opt.onnx": "*_origin.mlir", "*_external_data": "*_origin.mlir"}


@contextlib.contextmanager
def swept(folder: Path) -> Iterator[None]:
    """While this lasts, take the bytes of what is spent out of `folder`."""
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
        for spent, since in (_REMOVED | _EMPTIED).items():
            with contextlib.suppress(FileNotFoundError):
                # It is opened before the compiler's work, and filled when that is done.
                if any(path.stat().st_size for path in folder.glob(since)):
                    for path in folder.glob(spent):
                        path.unlink() if spent in _REMOVED else os.truncate(path, 0)
