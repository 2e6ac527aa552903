"""A bmodel with its tokenizer, or its processor where it sees: conversations in, text out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.place import end_tokens, find, tokenizer
from contract import manifest
from contract.errors import UserError

if TYPE_CHECKING:
    from contract.vision import Prompt
    from exporters.processor import Message

_ANSWER_SHARE = 4  # a chat prompt leaves a quarter of the sequence for the answer, dropping old turns where needed


class Talker:
    """An engine, one session and those that can sit beside it (`batch`), and the tokenizer that belongs to them. The
    engine runs inside `with` only: what does not need it can be refused before."""

    def __init__(self, args: argparse.Namespace) -> None:
        from runtime import bmodel
        from runtime.sampler import Sampler

        sampling = (args.temperature, args.top_k, args.top_p, args.repetition_penalty, args.seed)
        self._new_sampler = partial(Sampler, *sampling)
        self._sampler = self._new_sampler()
        place = find(args.dir, args.config)
        self._bmodel, self._device, self._fps = place.bmodel, args.device, args.fps
        self._lora, self._config = args.lora, place.config
        self._chip = bmodel.read(place.bmodel).chip
        self._tower = manifest.tower(place.bmodel)
        self._processor = _processor(place.bmodel, place.config) if self._tower else None
        self.tokenizer = self._processor.tokenizer if self._processor else tokenizer(place.config)
        self._ends = end_tokens(place.config, self.tokenizer)
        self._limit = args.max_new_tokens
        owner = self._processor or self.tokenizer
        self._template = bool(owner.chat_template) and not args.raw
        if place.warning:
            note(f"hf2bmodel: {place.warning}")

    def __enter__(self) -> Talker:
        from runtime.engine import Engine

        self._engine = Engine(self._bmodel, self._chip, self._device)
        try:
            if self._lora:
                _adapt(self._engine, self._lora, self._config)
            self.batch = self._engine.batch()
            self.session = self.batch.seats[0]
        except BaseException:
            self._engine.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    @property
    def sees(self) -> bool:
        return self._processor is not None

    def message(self, text: str, shown: Sequence[Message] = ()) -> Message:
        """What a user says, behind what he shows (see `show`)."""
        return {"role": "user", "content": [*shown, {"type": "text", "text": text}] if shown else text}

    def show(self, kind: str, path: Path) -> Message:
        """The part of a message that shows a picture (`kind` "image") or a video, read from its file. UserError where
        the bmodel sees none, or the file cannot be shown."""
        if self._processor is None:
            raise UserError("this bmodel sees no pictures", str(self._bmodel), f"leave --{kind} out")
        from exporters import pictures

        if kind == "image":
            return {"type": kind, kind: pictures.image(path)}
        return {"type": kind, kind: pictures.video(path, self._fps, self._processor.sample)}

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """The prompt of a conversation that waits for its answer."""
        from contract.vision import Prompt

        if self._processor:
            prompt: Prompt = self._processor.prompt(messages, self._template)
            return prompt
        if self._template:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        else:
            text = "\n".join(m["content"] for m in messages)
        return Prompt([int(i) for i in self.tokenizer(text, add_special_tokens=not self._template)["input_ids"]])

    def fit(self, messages: list[Message]) -> tuple[list[Message], Prompt]:
        """Drops the oldest turns until the rest leaves room for an answer; a single message may take all there is."""
        limit = min(self.session.prompt_length, self.session.seq_length * (_ANSWER_SHARE - 1) // _ANSWER_SHARE)
        kept, prompt = messages, self.encode(messages)
        while len(prompt.ids) > limit and len(kept) > 1:
            kept = kept[2:]
            prompt = self.encode(kept)
        if dropped := (len(messages) - len(kept)) // 2:
            note(f"(forgot the oldest {'turn' if dropped == 1 else f'{dropped} turns'}: the sequence is full)")
        return kept, prompt

    def generation(self, prompt: Prompt, session: Any = None) -> Any:
        """The answer's tokens, to be iterated over. `session`: one of the batch's, which is then as it would be alone.
        UserError, with the arithmetic, for a prompt whose pictures are too many."""
        from runtime.generation import Generation

        self.check(prompt, self.session.prompt_length)
        sampler = self._new_sampler() if session else self._sampler
        return Generation(session or self.session, prompt.ids, sampler, self._limit, self._ends, prompt.pictures)

    def check(self, prompt: Prompt, limit: int | None = None) -> None:
        """UserError where a prompt with pictures takes more than `limit` positions; None for what the manifest says."""
        if self._tower is None or prompt.pictures is None:
            return
        from exporters import count

        limit = limit or manifest.prompt_length(self._bmodel)
        if len(prompt.ids) > limit:
            told = count.explain(prompt.pictures, self._tower, len(prompt.ids))
            what = f"the prompt has {len(prompt.ids)} tokens ({told}); it takes {limit}"
            raise UserError(what, self._bmodel.name, "show less, or smaller pictures")

    def stream(self, tokens: Iterable[int], prompt: Prompt) -> Iterator[str]:
        """An answer's text in pieces of whole characters."""
        pieces = self._pieces(tokens, prompt.ids)
        if self._template:
            pieces = from_first_letter(pieces)
        return (piece for piece in pieces if piece)

    def _pieces(self, tokens: Iterable[int], ids: list[int]) -> Iterator[str]:
        from runtime.detokenizer import Detokenizer

        text = Detokenizer(self._decode, ids)
        for token in tokens:
            yield text.add(token)
        yield text.flush()

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _adapt(engine: Any, folder: Path, config: Path) -> None:
    """Puts the adapter in `folder` into the engine."""
    from exporters import lora, spec

    if not engine.rank:
        raise UserError("takes no adapters", str(engine.bmodel), "build it with LORA=r")
    engine.adapt(lora.read(folder, spec.read(config), engine.rank))


def _processor(bmodel: Path, config: Path) -> Any:
    """That of a bmodel with a tower, for pictures as large as it takes."""
    from exporters import processor, vision

    height, width = vision.size(manifest.read(bmodel.parent).options["max_pixels"])
    return processor.load(config, height * width)


def from_first_letter(pieces: Iterator[str]) -> Iterator[str]:
    """A chat's answer without what ChatGLM3 and GLM-4 put before it: a line break, which their templates add again."""
    for piece in pieces:
        if piece := piece.lstrip():
            yield piece
            break
    yield from pieces


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
