"""`generate` and `chat`: text and pictures in, text out, through a bmodel. transformers prepares the prompt alone."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.talker import Talker, note
from contract.errors import UserError

if TYPE_CHECKING:
    from contract.vision import Prompt
    from exporters.processor import Message


def add_parsers(subparsers: Any) -> None:
    """Registers both commands; each sets `run`, a function of the parsed arguments that gives the exit code."""
    generate = subparsers.add_parser("generate", help="complete a prompt with a bmodel")
    generate.add_argument("--prompt", required=True, action="append", help="give several to answer them side by side")
    for kind, what in (("image", "a picture's file"), ("video", "a video's file, or a folder of its frames")):
        generate.add_argument(
            f"--{kind}",
            dest="shown",
            action="append",
            default=[],
            type=_shown(kind),
            metavar="PATH",
            help=f"{what}; may be given several times",
        )
    generate.add_argument("--json", action="store_true", help="print one JSON object a prompt instead of streaming")
    generate.set_defaults(run=_generate)
    chat = subparsers.add_parser("chat", help="talk with a bmodel")
    chat.set_defaults(run=_chat)
    for parser, limit in ((generate, 128), (chat, 512)):
        parser.add_argument("dir", type=Path, metavar="DIR", help="a build folder, or a .bmodel with its config beside")
        parser.add_argument("--config", type=Path, help="folder of the tokenizer, where it is not DIR/config")
        parser.add_argument("--device", type=int, default=0)
        parser.add_argument("--fps", type=float, default=1.0, help="frames that are taken of each second of video")
        parser.add_argument("--lora", type=Path, metavar="FOLDER", help="a LoRA adapter, for a build with LORA=r")
        parser.add_argument("--raw", action="store_true", help="do not use the chat template")
        parser.add_argument("--max-new-tokens", type=int, default=limit)
        parser.add_argument("--temperature", type=float, default=0.0, help="0, the default, takes the likeliest token")
        parser.add_argument("--top-k", type=int, default=0, help="choose among the k likeliest; 0 among all")
        parser.add_argument(
            "--top-p", type=float, default=1.0, help="choose among the likeliest of total probability p"
        )
        parser.add_argument("--repetition-penalty", type=float, default=1.0)
        parser.add_argument("--seed", type=int)


def _shown(kind: str) -> Callable[[str], tuple[str, Path]]:
    return lambda text: (kind, Path(text).expanduser())


def _generate(args: argparse.Namespace) -> int:
    talker = Talker(args)
    shown = [talker.show(*shown) for shown in args.shown]
    prompts = [talker.encode([talker.message(text, shown)]) for text in args.prompt]
    for prompt in prompts:
        talker.check(prompt)
    with talker:
        if len(prompts) > 1:
            return _side_by_side(talker, prompts, args.json)
        (prompt,) = prompts
        generation = talker.generation(prompt)
        pieces = []
        try:
            for piece in talker.stream(generation, prompt):
                pieces.append(piece)
                if not args.json:
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return 130
        print(_as_json("".join(pieces), generation, prompt) if args.json else "")
    return 0


def _side_by_side(talker: Talker, prompts: list[Prompt], as_json: bool) -> int:
    """Answers in the order of the prompts, when all are there."""
    from runtime.generation import side_by_side

    made = side_by_side(talker.batch, [partial(talker.generation, prompt) for prompt in prompts])
    for number, (generation, prompt) in enumerate(zip(made, prompts, strict=True), 1):
        text = "".join(talker.stream(generation.tokens, prompt))
        print(_as_json(text, generation, prompt) if as_json else f"[{number}] {text}")
    return 0


def _as_json(text: str, generation: Any, prompt: Prompt) -> str:
    result = {
        "text": text,
        "tokens": generation.tokens,
        "prompt_tokens": len(prompt.ids),
        "seconds_to_first_token": round(generation.seconds_to_first, 4),
        "tokens_per_second": round(generation.tokens_per_second, 3),
        "finish_reason": generation.finish_reason,
    }
    return json.dumps(result, ensure_ascii=False)


def _chat(args: argparse.Namespace) -> int:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (input() edits lines by it)
    with Talker(args) as talker:
        sees = ", /image PATH and /video PATH show what the next message is about" if talker.sees else ""
        note(f"Type a message. /clear starts over, /exit leaves, Ctrl-C stops an answer{sees}.")
        messages: list[Message] = []
        shown: list[Message] = []
        while True:
            try:
                said = input("> ").strip()
            except KeyboardInterrupt:
                note("\n/exit leaves.")
                continue
            except EOFError:
                return 0
            if said == "/exit":
                return 0
            word, _, path = said.partition(" ")
            if said == "/clear":
                messages, shown = [], []
            elif word in ("/image", "/video"):
                shown += _look(talker, word[1:], path)
            elif said:
                messages, shown = _turn(talker, [*messages, talker.message(said, shown)]), []


def _look(talker: Talker, kind: str, path: str) -> list[Message]:
    """The picture or video of that path, as terminals write those of files dropped onto them; none if it is refused."""
    try:
        return [talker.show(kind, Path(path.strip().strip("'\"")).expanduser())]
    except UserError as error:
        note(f"hf2bmodel: {error}")
        return []


def _turn(talker: Talker, messages: list[Message]) -> list[Message]:
    """Streams the answer to the last message. The history with the answer; without the question where it failed."""
    answer = ""
    try:
        messages, prompt = talker.fit(messages)
        generation = talker.generation(prompt)
        for piece in talker.stream(generation, prompt):
            answer += piece
            print(piece, end="", flush=True)
        print()
        if generation.finish_reason == "length":
            note("(cut off: " + ("the sequence is full)" if talker.session.full else "--max-new-tokens reached)"))
    except KeyboardInterrupt:
        note("\n(stopped)")
    except UserError as error:
        note(f"hf2bmodel: {error}")
        return messages[:-1]
    return [*messages, {"role": "assistant", "content": answer}]
