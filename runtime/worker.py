"""The engine's own process: `python -m runtime.worker IN OUT`, two inherited pipes. Started by runtime.engine only.

The vendor's libraries print to fd 1, call exit() and crash; here they may, and the log tells what happened.
Messages are (call, arguments); replies ("ok", result), ("user", what, where, remedy) or ("error", text).
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from contract.errors import UserError
from contract.graphs import GraphSpec
from runtime import embedding
from runtime.bmrt import BmError
from runtime.decoder import Decoder
from runtime.device import Device
from runtime.wire import PATIENCE, receive, send

_IDLE_AFTER = 0.05  # seconds; longer than anybody thinks between two tokens
_LOG_BYTES = 1 << 20  # the libraries print at every launch; beyond this the log starts over


class _Worker:
    def __init__(self, device: Device, bmodel: Path) -> None:
        self._device, self._bmodel = device, bmodel
        self._decoder: Decoder | None = None
        self.run = device.run

    def nets(self) -> dict[str, GraphSpec]:
        return {name: net.spec for name, net in self._device.nets.items()}

    def decoder(self, call: str, *arguments: Any) -> Any:
        """Makes one when it is first asked for something."""
        self._decoder = self._decoder or Decoder(self._device, embedding.find(self._bmodel, self.nets()))
        return getattr(self._decoder, call)(*arguments)


def main(inbox: BinaryIO, outbox: BinaryIO) -> None:
    _line_buffered()
    threading.Thread(target=_end_with_the_parent, args=(outbox.fileno(),), daemon=True).start()
    libraries, bmodel, first, devices, share_mem = receive(inbox)
    try:
        device = Device(libraries, bmodel, first, devices, share_mem)
    except (UserError, BmError, OSError) as error:
        send(outbox, _failure(error))
        return
    try:
        send(outbox, ("ok", None))
        _serve(_Worker(device, bmodel), inbox, outbox)
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone; nothing to tell anybody
    finally:
        device.close()


def _end_with_the_parent(outbox: int) -> None:
    """A parent that was killed closes its end of the pipe, and a launch that runs then may go on for minutes."""
    poll = select.poll()
    poll.register(outbox, 0)  # errors are always told: here, that nobody can read any more
    poll.poll()
    time.sleep(PATIENCE)
    os._exit(1)


def _serve(worker: _Worker, inbox: BinaryIO, outbox: BinaryIO) -> None:
    calls: dict[str, Callable[..., Any]] = {
        "nets": worker.nets,
        "run": worker.run,
        "decoder": worker.decoder,
    }
    while True:
        call, arguments = _next(inbox)
        try:
            send(outbox, ("ok", calls[call](*arguments)))
        except (UserError, BmError) as error:
            send(outbox, _failure(error))
        if os.fstat(1).st_size > _LOG_BYTES:
            os.ftruncate(1, 0)


def _next(inbox: BinaryIO) -> Any:
    """Waits for a message. The simulator's threads spin for work that never comes: after a while they are let nap."""
    try:
        idle = ctypes.c_int.in_dll(ctypes.CDLL(None), "hf2bmodel_idle")  # of yield.c
    except ValueError:
        return receive(inbox)
    if not select.select([inbox], [], [], _IDLE_AFTER)[0]:
        idle.value = 1
        select.select([inbox], [], [])
        idle.value = 0
    return receive(inbox)


def _failure(error: Exception) -> tuple[str, ...]:
    return ("user", error.what, error.where, error.remedy) if isinstance(error, UserError) else ("error", str(error))


def _line_buffered() -> None:
    """So that a crash does not take the library's last words with it."""
    libc = ctypes.CDLL(None)
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, 1, 0)  # 1 is _IOLBF


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[1]), "rb") as inbox, os.fdopen(int(sys.argv[2]), "wb") as outbox:
        main(inbox, outbox)
