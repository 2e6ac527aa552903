"""`demo`: a trained model from a package registry to a story that its bmodel tells, beside Hugging Face's."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

RECIPE = "stories15m"
PROMPT = "Once upon a time"


def add_parsers(subparsers: Any) -> None:
    """Registers the command; it sets `run`, a function of the parsed arguments that gives the exit code."""
    demo = subparsers.add_parser("demo", help=f"build {RECIPE}, verify it, and let it tell a story")
    demo.add_argument("--out", type=Path, default=Path("out"))
    demo.add_argument("--prompt", default=PROMPT)
    demo.add_argument("--tokens", type=int, default=60, help="length of the story")
    demo.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from cli import main
    from cli.prepare import Request, prepare

    code = main.main(["build", RECIPE, "--out", str(args.out)])
    if code:
        return code
    prepared = prepare(Request(RECIPE, {"out": str(args.out)}), lambda line: None)
    print(f"\nHugging Face, float32:\n{_hugging_face(prepared.model_dir, args.prompt, args.tokens)}\n")
    print(f"{prepared.plan.bmodel}, on the simulator:\n{args.prompt}", end="", flush=True)
    words = ["--prompt", args.prompt, "--max-new-tokens", str(args.tokens)]
    return main.main(["generate", str(prepared.plan.folder), *words])


def _hugging_face(model_dir: Path, prompt: str, count: int) -> str:
    """Greedy continuation by the checkpoint itself."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from patches import vml

    vml.settle()
    logging.disable_progress_bar()
    tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True)
    ids = tokenizer(prompt, return_tensors="pt")
    tokens = model.generate(**ids, max_new_tokens=count, do_sample=False)
    return str(tokenizer.decode(tokens[0], skip_special_tokens=True))
