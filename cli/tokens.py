"""`tokens`: how many positions of a prompt pictures and videos take, with the arithmetic. No weights are needed."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract import manifest
from contract.errors import UserError

if TYPE_CHECKING:
    from exporters.count import Counter
    from exporters.vision import Size

_SIZE = re.compile(r"(\d+)[x,](\d+)")


def add_parsers(subparsers: Any) -> None:
    """Registers the command; it sets `run`, a function of the parsed arguments that gives the exit code."""
    tokens = subparsers.add_parser("tokens", help="how many tokens pictures and videos take")
    tokens.add_argument("--model", required=True, metavar="NAME", help="a recipe, a checkpoint or a build folder")
    tokens.add_argument("--image", action="append", default=[], metavar="HxW", help="a picture's size, or its file")
    tokens.add_argument("--video", action="append", default=[], metavar="SECONDS[:HxW]", help="a video's length")
    tokens.add_argument("--fps", type=float, default=1.0, help="frames that are taken of a second of video")
    tokens.add_argument("--max-pixels", metavar="H,W", help="the largest picture that the build takes")
    tokens.set_defaults(run=_tokens)


def _tokens(args: argparse.Namespace) -> int:
    if not args.image and not args.video:
        raise UserError("nothing to count", "hf2bmodel tokens", "give --image 672x896, or --video 20")
    counter = _counter(args.model, args.max_pixels and _size(args.max_pixels, "--max-pixels"))
    counts = [counter.image(*_image(text)) for text in args.image]
    counts += [counter.video(*_video(text, args.fps)) for text in args.video]
    for count in counts:
        print(count)
    if len(counts) > 1:
        print(f"together: {' + '.join(str(count.tokens) for count in counts)} = {sum(c.tokens for c in counts)}")
    return 0


def _counter(model: str, size: Size | None) -> Counter:
    from exporters import count, spec
    from recipes import recipe

    folder, prepared = Path(model), None
    if folder.is_dir():
        prepared = folder if (folder / "config.json").is_file() else folder / "config"
        read = spec.read(prepared)
        built = manifest.read(folder).options.get("max_pixels") if (folder / manifest.NAME).is_file() else None
        size = size or (built and _size(built, str(folder / manifest.NAME)))
    else:
        loaded = recipe.load(model)
        if not loaded.config:
            raise UserError("this recipe has no config", recipe.origin(model), "name a checkpoint's folder")
        read = spec.from_config(loaded.architecture, loaded.config, recipe.origin(model))
        usual = loaded.option("max_pixels")
        size = size or (usual and _size(usual, recipe.origin(model)))
    if read.vision is None:
        raise UserError(f"{read.model_type} models see no pictures", model, "name a vision-language model")
    return count.counter(read.vision, read.model_type, prepared, size)


def _size(text: str, where: str) -> Size:
    if not (found := _SIZE.fullmatch(text)) or not all(map(int, found.groups())):
        raise UserError(f'"{text}" is no height and width', where, "write them as 672x896")
    return int(found[1]), int(found[2])


def _image(text: str) -> Size:
    if not Path(text).is_file():
        return _size(text, "--image")
    from exporters import pictures

    width, height = pictures.image(Path(text)).size
    return height, width


def _video(text: str, fps: float) -> tuple[float, float, Size | None]:
    seconds, _, size = text.partition(":")
    if not re.fullmatch(r"\d+(\.\d+)?", seconds):
        raise UserError(f'"{seconds}" is no number of seconds', "--video", "write 20, or 20:672x896")
    return float(seconds), fps, _size(size, "--video") if size else None
