"""A vision tower as a table: its sizes, read from config.json, and where its modules lie. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contract.graphs import BFLOAT16
from contract.towers import VisionGeometry
from exporters.rows import Rows

if TYPE_CHECKING:
    from contract.vision import Tower
    from exporters.architecture import Swap


Size = tuple[int, int]  # height and width of a picture in pixels


def size(text: str) -> Size:
    """A picture's height and width in pixels, of "672,896". ValueError for other text."""
    height, width = map(int, text.split(","))
    return height, width


@dataclass(frozen=True)
class VisionSpec:
    """Sizes and quirks of a tower. `hidden`, `intermediate`: of its blocks; `out_hidden`: the decoder's. `patch`:
    pixels of a patch's side, `frames`: pictures of a video that make one patch in time. `merge`: patches per side
    that make one feature row. `picture`: side in pixels of a tower of one size, 0 where the grid is free; `rows`: its
    feature rows. `window`: side of an attention window in patches, 0 without; `full`: the blocks that attend beyond.
    `table`: side of a learned table of positions that is interpolated, by the host alone where they are `given`.
    `deepstack`: the blocks whose states go, merged,
    to the decoder's first layers as well. `queries`: rows that a resampler makes of any picture; `table` is then one
    that is chosen from. `size`: the usual largest picture, height and width in pixels.
    `image_token`, `video_token`, `steps_per_second`, `steps_apart`, `together`: see contract.vision.Tower.
    `parameters`: number of weights.
    """

    blocks: int
    hidden: int
    intermediate: int
    heads: int
    out_hidden: int
    patch: int
    image_token: int
    parameters: int
    video_token: int | None = None
    channels: int = 3
    frames: int = 1
    merge: int = 1
    picture: int = 0
    rows: int = 0
    window: int = 0
    full: tuple[int, ...] = ()
    table: int = 0
    deepstack: tuple[int, ...] = ()
    given: bool = False
    steps_per_second: float = 0.0
    steps_apart: bool = False
    together: bool = False
    queries: int = 0
    size: Size = (672, 896)
    attention_softcap: float | None = field(default=None, init=False)

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def kv_heads(self) -> int:
        return self.heads

    @property
    def attention_scale(self) -> float:
        return float(self.head_dim**-0.5)

    @property
    def widths(self) -> tuple[tuple[str, int], ...]:
        """Input channels of the blocks' linear modules, and of the merger's."""
        return (
            ("tower's hidden size", self.hidden),
            ("tower's intermediate size", self.intermediate),
            ("merged size", self.merge**2 * self.hidden),
        )

    @property
    def placeholders(self) -> tuple[int, ...]:
        """Tokens that stand for feature rows."""
        return tuple(token for token in (self.image_token, self.video_token) if token is not None)

    @property
    def unit(self) -> int:
        """Pixels of the side of a feature row: what the sides of a picture must be multiples of."""
        return self.patch * self.merge

    def patches(self, size: Size) -> int:
        """Of a picture of `size`, height and width in pixels."""
        return (size[0] // self.patch) * (size[1] // self.patch)

    def tower(self, size: Size, axes: int) -> Tower:
        """What the host must know, for a build that takes pictures of up to the pixels of `size`."""
        from contract.vision import Tower  # with numpy, which `--help` has no time for

        tokens = (self.image_token, self.video_token)
        if self.picture:
            return Tower(0, self.merge, self.rows, *tokens, axes=axes, together=self.together)
        patches = self.patches(size)
        places, rows = (self.window, self.table, axes), self.queries or patches // self.merge**2
        paces = (self.steps_per_second, self.steps_apart)
        return Tower(patches, self.merge, rows, *tokens, *places, *paces, queries=self.queries, given=self.given)

    def geometry(self, size: Size, half: str = BFLOAT16) -> VisionGeometry:
        """The sizes of the net, for the same build."""
        deep = len(self.deepstack)
        if self.picture:
            return VisionGeometry(self.out_hidden, self.rows, picture=(self.picture, self.picture), half=half)
        patches, values = self.patches(size), self.channels * self.frames * self.patch**2
        windows, table = self.window > 0, self.table > 0 and not self.given
        rows = self.queries or patches // self.merge**2
        grid = (patches, values, (0, 0), windows, table, deep, self.queries)
        return VisionGeometry(self.out_hidden, rows, *grid, half, self.hidden if self.given else 0)


@dataclass(frozen=True)
class Vision:
    """Where the tower's modules lie, from the model's root; "" where they lie beside the decoder. `module`:
    "module:Class" of patches, made of the tower (Hugging Face's, with `swaps` in each of its blocks), its spec and the
    build's size. `whole`: the class of patches.whole that calls a model whose code comes with the checkpoint.
    `taken(spec)`: for parameters of ours that are neither the tower's own nor a swap's, the checkpoint's, and which of
    its rows. `table`: the tower's learned positions, where the host gives them."""

    root: str
    module: str
    swaps: tuple[Swap, ...]
    blocks: str = "blocks"
    whole: str = ""
    table: str = ""
    taken: Callable[[VisionSpec], Mapping[str, tuple[str, Rows]]] = lambda spec: {}

    @property
    def prefix(self) -> str:
        """Of the names of the tower's tensors."""
        return f"{self.root}." if self.root else ""
