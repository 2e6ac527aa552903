"""A build's options to the argv of `python -m exporters`, which runs in the exporter's environment. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compile import lengths, vendor
from contract.ladder import POSITIONS


def trace(model: str, options: Mapping[str, Any], trust: bool) -> tuple[str, ...]:
    """Skeletons of the nets. `options`: asdict(compile.plan.Options), as in parity."""
    return _command("trace", model, *_sizes(options), *_switch("sample", options["sample"]), *_trust(trust))


def bind(model: str, skeletons: str, group: str, grids: bool, adapter: str | None) -> tuple[str, ...]:
    """Finished ONNX of one group of nets."""
    words = ("--skeletons", skeletons, "--group", group, *_switch("grids", grids), *_adapter(adapter))
    return _command("bind", model, *words)


def table(model: str, half: str, adapter: str | None) -> tuple[str, ...]:
    """The embedding for a host that looks it up."""
    return _command("table", model, "--half", half, *_adapter(adapter))


def positions(model: str) -> tuple[str, ...]:
    """A tower's learned positions for a host that interpolates them."""
    return _command("positions", model)


def parity(model: str, options: Mapping[str, Any], prompt: str, trust: bool) -> tuple[str, ...]:
    """The host's rungs of the ladder; it finds the trace step's folder beside its own."""
    sizes = (*_sizes(options), "--positions", str(POSITIONS), *_adapter(options.get("adapter")))
    sizes += _switch("norm-in-layer", options.get("route") == vendor.ROUTE)
    return _command("parity", model, "--graphs", "..", "--prompt", prompt, *sizes, *_trust(trust))


def _sizes(options: Mapping[str, Any]) -> tuple[str, ...]:
    """What trace and parity must be told alike. Options that an older manifest lacks are as they were before."""
    length, devices = options["seq_length"], options["devices"]
    prefill = lengths.flags(length, options.get("input_length"), options.get("history", False))
    batch, pixels = options.get("batch", 1), options.get("max_pixels")
    forms: tuple[str, ...] = ("--max-pixels", pixels) if pixels else ()
    forms += _switch("host-embedding", options.get("embed") == "disk")
    forms += ("--batch", str(batch)) if batch > 1 else ()
    forms += ("--lora", str(options["lora"])) if options.get("lora") else ()
    return ("--seq-length", str(length), "--devices", str(devices), *prefill, *forms)


def _adapter(folder: str | None) -> tuple[str, ...]:
    return ("--adapter", folder) if folder else ()


def _trust(given: bool) -> tuple[str, ...]:
    return _switch("trust-remote-code", given)


def _switch(name: str, on: bool) -> tuple[str, ...]:
    return (f"--{name}",) if on else ()


def _command(command: str, model: str, *rest: str) -> tuple[str, ...]:
    return ("python", "-m", "exporters", command, "--model", model, *rest)
