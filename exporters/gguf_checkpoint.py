"""Turns a GGUF file into a Hugging Face checkpoint: float32 safetensors, tokenizer with its chat template, configs.

transformers does the reading; every architecture it can read is taken. Weights keep the values that the file's
quantisation left them; nothing is rounded a second time.
"""

from __future__ import annotations

import json
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from contract.errors import UserError


def convert(file: Path, out: Path) -> None:
    """Writes the checkpoint into the folder `out`. UserError where `file` is no GGUF that transformers reads."""
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise UserError("not a GGUF file", str(file), "fetch it again")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        # Bars of some seconds that a log or another display would only be torn by.
        with redirect_stderr(StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(**where)
            # Without dequantize, transformers keeps the weights packed and refuses to save them.
            unpacked = GgufConfig(dequantize=True)
            model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, quantization_config=unpacked)
            model.save_pretrained(out)
    except (ValueError, NotImplementedError, KeyError) as error:
        raise UserError(f"transformers cannot read it ({error})", str(file), "take another file") from error
    _restore_pre_tokenizer(tokenizer, file)
    tokenizer.save_pretrained(out)
    _name_class_for_old_releases(out / "tokenizer_config.json")


def _restore_pre_tokenizer(tokenizer: Any, file: Path) -> None:
    """SmolLM splits every digit off before bytes are looked at; transformers' GGUF reader leaves that step out."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )


def _name_class_for_old_releases(path: Path) -> None:
    """transformers 5 writes a class name that 4.x, on which the vendor's demos run, does not know."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
