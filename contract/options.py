"""What a user may choose for a build: each option once, for the command line, for make, and for recipes.

Which values go together is not said here (compile.plan does).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from contract.errors import UserError, one_of
from contract.modes import CHIPS, DEVICES, EMBEDS, EXECUTORS, HEADS, MODES, ROUTES, TOOLCHAINS, VERIFY, VITS

CHOICE, NUMBER, SWITCH, TEXT = "choice", "number", "switch", "text"


@dataclass(frozen=True)
class Option:
    """`name`: its key in Python and in a recipe's `options`. `variable`: make's. `help`: what `make help` and
    `--help` print. `default`: used where neither user nor recipe says anything; None where the recipe must, or where
    nothing said means something of its own. `suffix`: what the build folder's name gains where the user chose another
    value than the recipe; empty where the name has the value anyway, or where no byte of the bmodel depends on it."""

    name: str
    variable: str
    kind: str
    help: str
    default: Any = None
    allowed: tuple[Any, ...] = ()
    suffix: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def parse(self, text: str, where: str) -> Any:
        """The value that `text` stands for. UserError, naming `where` and the values allowed, for any other text."""
        if self.kind == NUMBER:
            if not text.isascii() or not text.isdigit() or int(text) == 0:
                raise UserError(f'"{text}" is no positive whole number', where, "give one, such as 64")
            return int(text)
        words = {str(value): value for value in self.allowed} if self.kind == CHOICE else {"1": True, "0": False}
        if self.kind != TEXT and text not in words:
            raise UserError(f'"{text}" is unknown', where, f"use {one_of(words)}")
        return text if self.kind == TEXT else words[text]

    def check(self, value: Any, where: str) -> None:
        """UserError where a recipe's `value`, of whatever type, is none that this option takes."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        if self.kind == NUMBER and not (whole and value > 0):
            raise UserError(f'"{value}" is no positive whole number', where, "give one, such as 64")
        if self.kind == CHOICE and (isinstance(value, bool) or value not in self.allowed):
            raise UserError(f'"{value}" is unknown', where, f"use {one_of(self.allowed)}")
        if self.kind == SWITCH and not isinstance(value, bool):
            raise UserError(f'"{value}" is neither true nor false', where, "write true or false")
        if self.kind == TEXT and not isinstance(value, str):
            raise UserError(f"{value!r} is not text", where, "put it in quotes")


# Those that decide the bytes of the bmodel.
BUILD = (
    Option("mode", "MODE", CHOICE, "weights of the blocks", allowed=tuple(MODES)),
    Option("devices", "DEV", CHOICE, "chips to split the model over", 1, DEVICES),
    Option("chip", "CHIP", CHOICE, "the chip to build for", "bm1684x", tuple(CHIPS)),
    Option("seq_length", "SEQ", NUMBER, "positions of prompt and answer together"),
    Option("sample", "SAMPLE", SWITCH, "logits, for sampling, in place of the likeliest token", False, suffix="sample"),
    Option("group_size", "GROUP", NUMBER, "input channels per scale in int4", suffix="g{}"),
    Option("symmetric", "SYMMETRIC", SWITCH, "4- and 8-bit groups without a zero point", False, suffix="sym"),
    Option("head", "HEAD", CHOICE, "weights of lm_head (default: the recipe's rule)", allowed=HEADS, suffix="head-{}"),
    Option("adapter", "ADAPTER", TEXT, "folder of a LoRA adapter that is merged into the weights", suffix="adapter-{}"),
    Option("lora", "LORA", NUMBER, "rank of LoRA adapters that can be put in at run time", suffix="lora{}"),
    Option("route", "ROUTE", CHOICE, "how the nets are made", "onnx", ROUTES, suffix="{}"),
    Option("input_length", "INPUT", NUMBER, "positions of a prompt, or of its chunks (default: SEQ)", suffix="in{}"),
    Option("history", "HISTORY", SWITCH, "prefill in chunks, over what is cached already", False, suffix="history"),
    Option("dynamic", "DYNAMIC", SWITCH, "prefill computes a prompt's own length only", False, suffix="dynamic"),
    Option("max_pixels", "MAX_PIXELS", TEXT, "height,width of the largest picture, in pixels", suffix="px{}"),
    Option("vit", "VIT", CHOICE, "weights of the vision tower (default: 16 bits)", allowed=VITS, suffix="vit-{}"),
    Option("dynamic_vit", "DYNAMIC_VIT", SWITCH, "smaller pictures cost less", False, suffix="dynamic-vit"),
    Option("batch", "BATCH", NUMBER, "conversations that decode together", 1, suffix="b{}"),
    Option("embed", "EMBED", CHOICE, "where the embedding table is looked up", "chip", EMBEDS, suffix="embed-{}"),
)
# Those that decide how it is made.
WORK = (
    Option("model", "MODEL", TEXT, "a checkpoint's directory, or hub id, in place of the recipe's source"),
    Option("out", "OUT", TEXT, "where the build folder goes", "out"),
    Option("jobs", "JOBS", NUMBER, "steps at once (default: the cores)"),
    Option("verify", "VERIFY", CHOICE, "the whole ladder, the rungs without the simulator, or none", "full", VERIFY),
    Option("executor", "EXECUTOR", CHOICE, "where steps run", "local", EXECUTORS),
    Option("address", "ADDRESS", TEXT, "of the Ray cluster (default: this machine)"),
    Option("memory", "MEMORY", TEXT, "of each device, such as 16G: refuse what does not fit"),
    Option("keep", "KEEP", SWITCH, "keep every intermediate file", False),
    Option("toolchain", "TOOLCHAIN", CHOICE, "where tpu-mlir is", "auto", TOOLCHAINS),
    Option("trust_remote_code", "TRUST_REMOTE_CODE", SWITCH, "run modeling code that comes with the checkpoint", False),
)
OPTIONS = (*BUILD, *WORK)


def by_variable() -> dict[str, Option]:
    return {option.variable: option for option in OPTIONS}


def folder_name(recipe: str, chosen: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """The build folder's name: `chosen` are the build's values, `usual` those that the recipe alone would give."""
    words = [recipe, chosen["mode"], f"seq{chosen['seq_length']}", chosen["chip"], f"{chosen['devices']}dev"]
    for option in BUILD:
        value = chosen[option.name]
        if option.suffix and value != usual[option.name]:
            if option.kind == TEXT:  # a path: its last part, in letters that need no quotes
                value = re.sub(r"[^\w.-]", "-", PurePath(value).name)
            words.append(option.suffix.format(value) if value else f"no-{option.name.replace('_', '-')}")
    return "_".join(words)
