"""`generate` and `chat`: text in, text out, through a bmodel. transformers is used for the tokenizer alone."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract import manifest
from contract.errors import UserError
from exporters import tokenizer as tokenizers

_ANSWER_SHARE = 4  # a chat prompt leaves a quarter of the sequence for the answer, dropping old turns where needed


def add_parsers(subparsers: Any) -> None:
    """Registers both commands; each sets `run`, a function of the parsed arguments that gives the exit code."""
    generate = subparsers.add_parser("generate", help="complete a prompt with a bmodel")
    generate.add_argument("--prompt", required=True)
    generate.add_argument("--json", action="store_true", help="print one JSON object instead of streaming")
    generate.set_defaults(run=_generate)
    chat = subparsers.add_parser("chat", help="talk with a bmodel")
    chat.set_defaults(run=_chat)
    for parser, limit in ((generate, 128), (chat, 512)):
        parser.add_argument("dir", type=Path, metavar="DIR", help="a build folder, or a .bmodel with its config beside")
        parser.add_argument("--config", type=Path, help="folder of the tokenizer, where it is not DIR/config")
        parser.add_argument("--device", type=int, default=0)
        parser.add_argument("--raw", action="store_true", help="do not use the chat template")
        parser.add_argument("--max-new-tokens", type=int, default=limit)
        parser.add_argument("--temperature", type=float, default=0.0, help="0, the default, takes the likeliest token")
        parser.add_argument("--top-k", type=int, default=0, help="choose among the k likeliest; 0 among all")
        parser.add_argument(
            "--top-p", type=float, default=1.0, help="choose among the likeliest of total probability p"
        )
        parser.add_argument("--repetition-penalty", type=float, default=1.0)
        parser.add_argument("--seed", type=int)


def _generate(args: argparse.Namespace) -> int:
    with _Talker(args) as talker:
        ids = talker.encode([{"role": "user", "content": args.prompt}])
        generation = talker.generation(ids)
        pieces = []
        try:
            for piece in talker.stream(generation, ids):
                pieces.append(piece)
                if not args.json:
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return 130
        if args.json:
            result = {
                "text": "".join(pieces),
                "tokens": generation.tokens,
                "prompt_tokens": len(ids),
                "seconds_to_first_token": round(generation.seconds_to_first, 4),
                "tokens_per_second": round(generation.tokens_per_second, 3),
                "finish_reason": generation.finish_reason,
            }
            print(json.dumps(result, ensure_ascii=False))
        else:
            print()
    return 0


def _chat(args: argparse.Namespace) -> int:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (input() edits lines by it)
    with _Talker(args) as talker:
        _note("Type a message. /clear starts over, /exit leaves, Ctrl-C stops an answer.")
        messages: list[dict[str, str]] = []
        while True:
            try:
                said = input("> ").strip()
            except KeyboardInterrupt:
                _note("\n/exit leaves.")
                continue
            except EOFError:
                return 0
            if said == "/exit":
                return 0
            if said == "/clear":
                messages = []
            elif said:
                messages = _turn(talker, [*messages, {"role": "user", "content": said}])


def _turn(talker: _Talker, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Streams the answer to the last message. The history with the answer; without the question where it failed."""
    answer = ""
    try:
        messages, ids = talker.fit(messages)
        generation = talker.generation(ids)
        for piece in talker.stream(generation, ids):
            answer += piece
            print(piece, end="", flush=True)
        print()
        if generation.finish_reason == "length":
            _note("(cut off: " + ("the sequence is full)" if talker.session.full else "--max-new-tokens reached)"))
    except KeyboardInterrupt:
        _note("\n(stopped)")
    except UserError as error:
        _note(f"hf2bmodel: {error}")
        return messages[:-1]
    return [*messages, {"role": "assistant", "content": answer}]


class _Talker:
    """An engine, one session, and the tokenizer that belongs to them."""

    def __init__(self, args: argparse.Namespace) -> None:
        from runtime import bmodel
        from runtime.engine import Engine
        from runtime.sampler import Sampler

        sampling = (args.temperature, args.top_k, args.top_p, args.repetition_penalty, args.seed)
        self._sampler = Sampler(*sampling)
        place = find(args.dir, args.config)
        chip = bmodel.read(place.bmodel).chip
        self.tokenizer = _tokenizer(place.config)
        self._ends = end_tokens(place.config, self.tokenizer)
        self._limit = args.max_new_tokens
        self._template = bool(self.tokenizer.chat_template) and not args.raw
        if place.warning:
            _note(f"hf2bmodel: {place.warning}")
        self._engine = Engine(place.bmodel, chip, args.device)
        try:
            self.session = self._engine.session()
        except BaseException:
            self._engine.close()
            raise

    def __enter__(self) -> _Talker:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def encode(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation that waits for its answer."""
        if self._template:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        else:
            text = "\n".join(m["content"] for m in messages)
        return [int(i) for i in self.tokenizer(text, add_special_tokens=not self._template)["input_ids"]]

    def fit(self, messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[int]]:
        """Drops the oldest turns until the rest leaves room for an answer; a single message may take all there is."""
        limit = min(self.session.prompt_length, self.session.seq_length * (_ANSWER_SHARE - 1) // _ANSWER_SHARE)
        kept, ids = messages, self.encode(messages)
        while len(ids) > limit and len(kept) > 1:
            kept = kept[2:]
            ids = self.encode(kept)
        if dropped := (len(messages) - len(kept)) // 2:
            _note(f"(forgot the oldest {'turn' if dropped == 1 else f'{dropped} turns'}: the sequence is full)")
        return kept, ids

    def generation(self, ids: list[int]) -> Any:
        from runtime.generation import Generation

        return Generation(self.session, ids, self._sampler, self._limit, self._ends)

    def stream(self, generation: Any, ids: list[int]) -> Iterator[str]:
        """The answer's text in pieces of whole characters."""
        pieces = self._pieces(generation, ids)
        if self._template:
            pieces = _from_first_letter(pieces)
        return (piece for piece in pieces if piece)

    def _pieces(self, generation: Any, ids: list[int]) -> Iterator[str]:
        from runtime.detokenizer import Detokenizer

        text = Detokenizer(self._decode, ids)
        for token in generation:
            yield text.add(token)
        yield text.flush()

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@dataclass(frozen=True)
class Place:
    """A bmodel, the folder of its tokenizer, and what its user should know before trusting it."""

    bmodel: Path
    config: Path
    warning: str = ""


def find(folder: Path, config: Path | None = None) -> Place:
    """What DIR names: a build folder, a folder with one bmodel (llm_convert's), or a bmodel. UserError for none."""
    warning = ""
    if folder.is_file():
        bmodel, folder = folder, folder.parent
    elif (folder / manifest.NAME).is_file():
        made = manifest.read(folder)
        bmodel = folder / made.bmodel
        if made.status == manifest.FAILED:
            warning = f"this build failed its verification ({made.reason})"
    else:
        found = sorted(folder.glob("*.bmodel"))
        if len(found) != 1:
            what = "no .bmodel in here" if folder.is_dir() else "no such folder or file"
            what = f"{len(found)} bmodels in here" if found else what
            raise UserError(what, str(folder), "name a build folder or one .bmodel file")
        bmodel = found[0]
    config = config or folder / "config"
    if not (config / "config.json").is_file():
        raise UserError("no config.json in here", str(config), "name the tokenizer's folder with --config")
    return Place(bmodel, config, warning)


def _tokenizer(config: Path) -> Any:
    try:
        found = tokenizers.load(config)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"no usable tokenizer ({reason})", str(config), "name its folder with --config") from error
    if found is None:
        raise UserError("no tokenizer in here", str(config), "name its folder with --config")
    return found


def _from_first_letter(pieces: Iterator[str]) -> Iterator[str]:
    """A chat's answer without what ChatGLM3 and GLM-4 put before it: a line break, which their templates add again."""
    for piece in pieces:
        if piece := piece.lstrip():
            yield piece
            break
    yield from pieces


def end_tokens(config: Path, tokenizer: Any) -> set[int]:
    """The ids that end an answer: of the generation config, else of the config; and the tokenizer's own."""
    ends: set[int] = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    if stops := tokenizers.stops(config):
        vocabulary = tokenizer.get_vocab()
        ends |= {vocabulary[token] for token in stops if token in vocabulary}
    for name in ("generation_config.json", "config.json"):
        path = config / name
        named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        if named is not None:
            return ends | ({int(i) for i in named} if isinstance(named, list) else {int(named)})
    return ends


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
