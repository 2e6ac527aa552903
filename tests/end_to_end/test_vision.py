"""Prompts with pictures against Hugging Face, through one bmodel each: one picture, several, of several shapes, frames
of a video, none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.ladder import resolution
from contract.vision import Grid, Pictures
from exporters import show
from exporters import spec as specs
from runtime.engine import Engine
from runtime.half import Array
from tests import remote_vision, vision_models
from tests.end_to_end.test_line import RECIPE, hf2bmodel
from tests.end_to_end.test_zoo import PIXELS

pytestmark = pytest.mark.toolchain
SEQ, ANSWER = 128, 12


@dataclass(frozen=True)
class Built:
    folder: Path
    model: Any
    vision: specs.VisionSpec

    @property
    def bmodel(self) -> Path:
        return next(self.folder.glob("*.bmodel"))


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl", "glm4v", "gemma3_image", "internvl_chat", "minicpmv"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    from patches import compat

    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    own = name in remote_vision.CASES
    checkpoint = (remote_vision.make if own else vision_models.bare)(name, folder / "checkpoint")
    read = specs.read(checkpoint)
    (folder / "tiny.yaml").write_text(RECIPE.format(architecture=read.model_type.split(":")[0]))
    pixels = ("--max-pixels", PIXELS[name]) if name in PIXELS else ()
    history = ("--history", "--input-length", "48", *(("--trust-remote-code",) if own else ()))
    words = ("--mode", "bf16", "--sample", "--seq-length", str(SEQ), "--verify", "none", *history, *pixels)
    done = hf2bmodel(
        "build", str(folder / "tiny.yaml"), "--model", str(checkpoint), "--out", str(folder / "out"), *words
    )
    assert done.returncode == 0, done.stderr
    assert read.vision is not None
    with compat.running():
        yield Built(next(folder.glob("out/tiny_*")), whole(checkpoint, read), read.vision)


def whole(checkpoint: Path, read: specs.DecoderSpec) -> Any:
    """Hugging Face's model, or that of the code beside the checkpoint."""
    from transformers import AutoModelForImageTextToText

    from exporters import remote
    from exporters.architecture import find
    from exporters.model import imported

    vision = find(read.model_type).vision
    if vision and vision.whole:
        return imported(vision.whole)(remote.load_whole(checkpoint), read.vision)
    return AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()


def prompt(
    built: Built, grids: list[Grid], videos: list[bool], seconds: float = 0.0
) -> tuple[list[int], Pictures | None]:
    """Text, and between its parts each picture's places; of a video whose steps stand apart, text between these too."""
    vision, drawn = built.vision, np.random.default_rng(len(grids))
    ids: list[int] = [int(i) for i in drawn.integers(3, 100, 5)]
    for (t, h, w), video in zip(grids, videos, strict=True):
        token = vision.video_token if video else vision.image_token
        assert token is not None
        rows = [token] * (vision.queries or vision.rows or h * w // vision.merge**2)
        for _ in range(t if vision.steps_apart else 1):
            ids += [*rows * (1 if vision.steps_apart else t), *(int(i) for i in drawn.integers(3, 100, 3))]
    if not grids:
        return ids, None
    if vision.picture:
        shape: tuple[int, ...] = (len(grids), 3, vision.picture, vision.picture)
        return ids, Pictures(drawn.normal(size=shape).astype(np.float32))
    patches = sum(t * h * w for t, h, w in grids)
    pixels = drawn.normal(size=(patches, vision.channels * vision.frames * vision.patch**2)).astype(np.float32)
    return ids, Pictures(pixels, tuple(grids), tuple(videos), tuple(seconds if video else 0.0 for video in videos))


def logits_of(built: Built, ids: list[int], pictures: Pictures | None, forced: Sequence[int]) -> Array:
    """Hugging Face's, at the last position of the prompt and behind each forced token."""
    given = show.arguments(built.model, pictures, [*ids, *forced]) if pictures else {}
    tokens = {"input_ids": torch.tensor([[*ids, *forced]])}
    both = pictures is not None and len(set(pictures.videos)) == 2
    with torch.no_grad():
        if both and built.vision.image_token == built.vision.video_token:
            tokens, given = placed(built.model, tokens["input_ids"], given), {}
        out = built.model(**tokens, **given)
    return np.asarray(out.logits[0, len(ids) - 1 :].numpy())


def placed(model: Any, ids: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What Hugging Face's parts make of pictures and videos in one prompt, put together here: where one token stands
    for both, its own `forward` wants as many places for either as there are for the two."""
    kinds, embeds = given.pop("mm_token_type_ids"), model.get_input_embeddings()(ids)
    for kind, (name, pixels) in enumerate((("image", "pixel_values"), ("video", "pixel_values_videos")), 1):
        features = getattr(model, f"get_{name}_features")(given.pop(pixels), given[f"{name}_grid_thw"]).pooler_output
        embeds[kinds == kind] = torch.cat(features)
    return {"inputs_embeds": embeds, "position_ids": model.model.get_rope_index(ids, kinds, **given)[0]}


def distance(a: Array, b: Array) -> float:
    """1 - cosine, the mean over positions."""
    return float(np.mean(1 - (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)))


def differences(built: Built, ids: list[int], pictures: Pictures | None, session: Any) -> list[str]:
    """Clear positions at which the bmodel chooses another token than Hugging Face; and what of the logits is as far
    off as a tenth of what another picture makes of them, or, without pictures, as bfloat16 never is."""
    forced = [int(i) for i in np.random.default_rng(7).integers(3, 100, ANSWER)]
    wanted = logits_of(built, ids, pictures, forced)
    steps = [session.resume(ids, pictures), *(session.decode(token) for token in forced)]
    two = np.sort(wanted, axis=-1)[:, -2:]
    clear = [high - low > resolution(float(high), "bf16") for low, high in two]
    assert sum(clear) > ANSWER // 2
    faults = [f"token {i}" for i, s in enumerate(steps) if clear[i] and s.token != int(wanted[i].argmax())]
    room = 1e-3
    if pictures:
        other = replace(pictures, pixels=-pictures.pixels)
        room = distance(logits_of(built, ids, other, forced), wanted) / 10
    off = distance(np.stack([step.logits for step in steps]), wanted)
    return faults if off < room else [*faults, f"logits off by {off:.2g}, of {room:.2g}"]


FREE: dict[str, tuple[list[Grid], list[bool], float]] = {
    "one picture": ([(1, 8, 12)], [False], 0.0),
    "a tall one": ([(1, 12, 4)], [False], 0.0),
    "a small and a wide one": ([(1, 2, 2), (1, 4, 10)], [False, False], 0.0),
    "a video": ([(3, 4, 6)], [True], 1.0),
    "a video in several launches": ([(4, 6, 8)], [True], 0.5),
    "a picture and a video": ([(1, 4, 4), (2, 4, 4)], [False, True], 2.0),
    "text": ([], [], 0.0),
}
SLICED: dict[str, tuple[list[Grid], list[bool], float]] = {
    "one picture": ([(1, 8, 10)], [False], 0.0),
    "a tall one": ([(1, 10, 3)], [False], 0.0),
    "a whole and two slices": ([(1, 3, 4), (1, 7, 5), (1, 7, 5)], [False] * 3, 0.0),
    "text": ([], [], 0.0),
}
FIXED: dict[str, tuple[list[Grid], list[bool], float]] = {
    "one picture": ([(1, 1, 1)], [False], 0.0),
    "two pictures": ([(1, 1, 1)] * 2, [False] * 2, 0.0),
    "text": ([], [], 0.0),
}


def shown(built: Built) -> dict[str, tuple[list[Grid], list[bool], float]]:
    if built.vision.queries:
        return SLICED
    return FIXED if built.vision.picture else FREE


@pytest.mark.parametrize("built", ["qwen2_5_vl", "qwen3_vl"], indirect=True)
def test_layers_share_one_transform(built: Built) -> None:
    logs = {path.name: path.read_text(encoding="utf-8") for path in built.folder.glob("logs/*")}
    assert any("block_cache_1" in name for name in logs)
    assert [name for name, text in logs.items() if "transformed by itself" in text] == []


def test_tokens_are_hugging_faces(built: Built) -> None:
    """One conversation after another on one engine, so that nothing of an earlier picture stays."""
    found = {}
    with Engine(built.bmodel, "bm1684x") as engine, engine.session() as session:
        for name, (grids, videos, seconds) in shown(built).items():
            ids, pictures = prompt(built, grids, videos, seconds)
            found[name] = differences(built, ids, pictures, session)
    assert {name: faults for name, faults in found.items() if faults} == {}


def test_a_second_turn_computes_what_is_new(built: Built) -> None:
    """The same picture again is not computed again; another one in its place is."""
    grids, videos, seconds = next(iter(shown(built).values()))
    ids, pictures = prompt(built, grids, videos, seconds)
    assert pictures is not None
    other = Pictures(-pictures.pixels, pictures.grids, pictures.videos, pictures.seconds)
    with Engine(built.bmodel, "bm1684x") as engine, engine.session() as session, engine.session() as alone:
        longer = [*ids, 5, 6, 7]
        fresh = [alone.prefill(longer, seen).logits for seen in (pictures, other)]
        session.resume(ids, pictures)
        again = [session.resume(longer, seen).logits for seen in (pictures, other)]
    for found, own, others in zip(again, fresh, reversed(fresh), strict=True):
        # Prefill over a history rounds otherwise than prefill in one, by steps of bfloat16.
        assert float(np.abs(found - own).max()) < 0.05 * float(np.abs(own).max())
        # A stale picture would be the other way round: in Gemma 3's case the two lie nearer than the bound above.
        assert distance(found, own) < distance(found, others) / 4
