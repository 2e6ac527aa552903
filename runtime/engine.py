"""A bmodel that can be run: its nets by name, and conversations over them. The vendor's library runs in a child
process, so that its exit(), abort() or segmentation fault becomes an EngineDied here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from contract import manifest
from contract.errors import UserError
from contract.graphs import BLOCK_CACHE, VIT, GraphSpec, block_name
from contract.lora import LORA
from runtime import bmodel as bmodel_file
from runtime import checks, embedding, simulator
from runtime.batch import Batch
from runtime.half import Array, from_storage, to_storage
from runtime.nets import CACHED
from runtime.session import Session
from runtime.wire import PATIENCE, receive, send

_ROOT = str(Path(__file__).resolve().parent.parent)
_LAST_LINES = 12


class EngineError(RuntimeError):
    """The vendor's library refused; the engine goes on."""


class EngineDied(EngineError):
    """The engine's process is gone; `log` is the file with all it printed."""

    def __init__(self, message: str, log: Path) -> None:
        super().__init__(message)
        self.log = log


class Engine:
    """`nets`: the bmodel's nets with the contract's tensor names, and those that a file beside it stands for (an
    embedding on the host). `vocab`: token ids it takes, None if unknown.

    Safe to use from several threads: calls run one after the other. A call that is interrupted (Ctrl-C) goes on in
    the worker and its result is dropped; the next one waits for it.
    """

    def __init__(self, bmodel: Path, chip: str, device: int = 0, core: int | None = None) -> None:
        """UserError for a bad file, another chip, no such device, no simulator; EngineDied if loading kills it.

        `core` keeps a simulator to one of the host's cores: it hands work from thread to thread and computes on one
        at a time, so it loses next to nothing, and several can run side by side.
        """
        summary = bmodel_file.require_chip(bmodel, chip)
        libraries = simulator.find(chip)
        self.bmodel, self.chip, self.vocab = bmodel, chip, summary.vocab
        self.rope, self.tower = manifest.rope(bmodel), manifest.tower(bmodel)
        self._pool = ThreadPoolExecutor(1, "engine")  # the one thread that touches the pipes
        self._died: EngineDied | None = None
        self._start(libraries)
        if core is not None and libraries.simulated:
            os.sched_setaffinity(self._process.pid, {core})  # before it has threads, which inherit it
        try:
            # On boards the vendor's programs always share; the simulators differ (see Device).
            share_mem = chip == "bm1688" or not libraries.simulated
            self._exchange_soon((libraries, bmodel.resolve(), device, summary.devices, share_mem), "loading")
            self.nets: dict[str, GraphSpec] = self.call("nets")
            self._table = embedding.find(bmodel, self.nets)
            if self._table:
                self.nets = {**self._table.nets, **self.nets}
                self.vocab = self._table.rows
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, net: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One net once. float32 (or int32) in and out, by the contract's tensor names, in the built shapes; a dynamic
        tower takes fewer patches as well.

        Values are rounded to the net's own half type. `attention_mask` is left out where the net has it built in.
        UserError for an unknown net or tensor, a wrong shape or type, a token id or position out of range.
        """
        if net not in self.nets:
            raise UserError(f"no net {net!r}", str(self.bmodel), f"it has {', '.join(self.nets)}")
        spec = self.nets[net]
        if self.tower and self.tower.dynamic and spec.kind == VIT:
            spec = checks.fewer(spec, inputs)
        checked = checks.inputs(spec, inputs, self.vocab, self._positions())
        stored = {t.name: to_storage(checked[t.name], t.dtype) for t in spec.inputs}
        if self._table and net in self._table.nets:
            outputs = {net: self._table.states(stored[spec.inputs[0].name])}
        else:
            outputs = self.call("run", net, stored)
        return {t.name: from_storage(outputs[t.name], t.dtype) for t in spec.outputs}

    @property
    def alive(self) -> bool:
        return self._died is None and not self._outbox.closed

    @property
    def rank(self) -> int:
        """Of LoRA adapters that it takes; 0 where it takes none."""
        block = self.nets.get(block_name(0))
        ranks = [t.shape[0] for t in block.inputs if t.name.startswith(LORA)] if block else []
        return min(ranks, default=0)

    def adapt(self, values: Mapping[int, Mapping[str, Array]] | None) -> None:
        """Puts a LoRA adapter in, in place of the one before; None takes it out. `values`: float32, by layer and input
        of its nets.

        It holds for all conversations from their next step on; what they have cached stays. UserError for a bmodel that
        takes none, an unknown layer or input, and a wrong shape.
        """
        stored: dict[int, dict[str, Array]] = {}
        for layer, tensors in (values or {}).items():
            spec = self.nets.get(block_name(layer))
            known = {t.name: t for t in spec.inputs if t.name.startswith(LORA)} if spec else {}
            stored[layer] = {}
            for name, value in tensors.items():
                if name not in known or known[name].shape != value.shape:
                    what = f"layer {layer} takes no {name} {list(value.shape)}"
                    raise UserError(what, str(self.bmodel), "build with the adapter's LORA=")
                stored[layer][name] = to_storage(value, known[name].dtype)
        self.call("decoder", "adapt", stored)

    def session(self) -> Session:
        """A new conversation with a KV cache of its own. UserError where the bmodel is not a decoder."""
        return Session(self)

    def batch(self) -> Batch:
        """As many new conversations as the bmodel decodes at once. UserError where it is not a decoder."""
        return Batch(self)

    def call(self, name: str, *arguments: Any) -> Any:
        """One call of the worker (see runtime.worker). EngineError, EngineDied, UserError."""
        return self._exchange_soon((name, arguments), name if name != "run" else f"run {arguments[0]}")

    def close(self) -> None:
        """Frees the device. Twice is harmless."""
        alive = self.alive
        with contextlib.suppress(OSError):
            self._outbox.close()  # the worker sees the end of its input, frees the device and goes
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pool.shutdown()
        self._inbox.close()
        if alive:  # else the log is evidence
            self._log.unlink(missing_ok=True)

    def _positions(self) -> int | None:
        """How many rows the decode nets' tables of positions have."""
        caches = [t for s in self.nets.values() if s.kind == BLOCK_CACHE for t in s.inputs if t.name in CACHED]
        return caches[0].shape[1] * (1 + len(self.rope.switches)) if caches else None

    def _start(self, libraries: simulator.Libraries) -> None:
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (_ROOT, environment.get("PYTHONPATH"))))
        if libraries.simulated and (shim := simulator.shim()):
            environment["LD_PRELOAD"] = " ".join(filter(None, (str(shim), environment.get("LD_PRELOAD"))))
        handle, name = tempfile.mkstemp(prefix="hf2bmodel-engine-", suffix=".log")
        os.close(handle)
        self._log = Path(name)
        requests, replies = os.pipe(), os.pipe()
        ends = requests[0], replies[1]
        with self._log.open("ab") as log:  # appending: the worker cuts it short now and then
            self._process = subprocess.Popen(
                [sys.executable, "-m", "runtime.worker", *map(str, ends)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=ends,
                start_new_session=True,  # Ctrl-C is for the program, not for the engine
            )
        for end in ends:
            os.close(end)
        self._inbox, self._outbox = os.fdopen(replies[0], "rb"), os.fdopen(requests[1], "wb")

    def _exchange_soon(self, message: Any, what: str) -> Any:
        return self._pool.submit(self._exchange, message, what).result()

    def _exchange(self, message: Any, what: str) -> Any:
        if self._died:
            raise self._died
        try:
            send(self._outbox, message)
            status, *reply = receive(self._inbox)
        except (EOFError, OSError):
            self._died = self._obituary(what)
            raise self._died from None
        if status == "user":
            raise UserError(*reply)
        if status == "error":
            raise EngineError(reply[0])
        return reply[0]

    def _obituary(self, what: str) -> EngineDied:
        code = self._process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        lines = self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        said = "\n".join(f"    {line}" for line in lines) or "    (nothing)"
        head = f"{self.bmodel.name}: the engine {how} during {what!r}; its last words (all of them: {self._log}):"
        return EngineDied(f"{head}\n{said}", self._log)
