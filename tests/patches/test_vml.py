"""torch's first call of an elementwise function is made before it can be shared out among threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from patches import vml

pytestmark = pytest.mark.slow

FIRST = """
import sys
from pathlib import Path
from exporters import reference, remote, spec
from exporters.architecture import find
from exporters.model import Decoder
from patches import vml

folder = Path(sys.argv[1])
read = spec.read(folder)
{call}
assert vml.settle.cache_info().misses == 1
"""


class Seen(TorchDispatchMode):
    """The functions called, with what dtype and how many elements."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: set[tuple[str, torch.dtype, int]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if args and isinstance(args[0], torch.Tensor):
            self.calls.add((func._schema.name.removeprefix("aten::"), args[0].dtype, args[0].numel()))
        return func(*args, **(kwargs or {}))


def test_each_is_called_on_one_element() -> None:
    with Seen() as seen:
        vml.settle.__wrapped__()
    names = vml.FUNCTIONS.split()
    calls = {call for call in seen.calls if call[0] in names}
    assert calls == {(name, dtype, 1) for name in names for dtype in (torch.float32, torch.float64)}


@pytest.mark.parametrize(
    "call",
    ["Decoder(folder)", "reference.run(folder, find(read.model_type), read, 'hello', 2, 16)"],
    ids=["export", "reference"],
)
def test_before_a_model_computes(call: str, checkpoint: Callable[[str], Path]) -> None:
    words = [sys.executable, "-c", FIRST.format(call=call), str(checkpoint("qwen2"))]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
