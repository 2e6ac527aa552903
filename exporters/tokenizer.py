"""The tokenizer of a checkpoint or a build folder, without remote code.

`prepare` writes a tokenizer.json, once and at build time, for a checkpoint whose tokenizer comes as code of its own;
transformers and tokenizers then load the folder by itself. `load` is how the exporter and the command line get the
tokenizer of either folder. What the remote classes do stands in exporters.tokenizer_kinds; a tokenizer that
transformers loads by itself is left as it is.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.errors import UserError
from exporters import tokenizer_files
from exporters.tokenizer_kinds import KINDS, Kind

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONFIG, GENERATION, FAST = "tokenizer_config.json", "generation_config.json", "tokenizer.json"
# transformers' class for a tokenizer.json that is to be taken as it stands.
GENERAL_CLASS = "PreTrainedTokenizerFast"
OWN_FILE = "put a tokenizer.json beside it"
# What is read beside a tokenizer.json and would contradict the one written here.
_SUPERSEDED = ("special_tokens_map.json", "added_tokens.json")
_KEPT = ("model_max_length", "padding_side")


def load(folder: Path) -> Any | None:
    """The tokenizer of `folder` as transformers gives it, None where there is none. No code of the folder is run.

    UserError where it needs code that is not known here; OSError, ValueError, KeyError or ImportError, from
    transformers, for damaged files.
    """
    if not _has_tokenizer(folder):
        return None
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not needs_preparation(folder):
        general = _read(folder / CONFIG).get("tokenizer_class") == GENERAL_CLASS
        # AutoTokenizer would ask config.json first, and find a model there that it does not know.
        remote_model = general and "auto_map" in _read(folder / "config.json")
        loader = PreTrainedTokenizerFast if remote_model else AutoTokenizer
        return loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with tempfile.TemporaryDirectory() as scratch:
        prepare(folder, Path(scratch))
        return PreTrainedTokenizerFast.from_pretrained(scratch, local_files_only=True)


def needs_preparation(model_dir: Path) -> bool:
    """Whether the tokenizer of `model_dir` is code of its own, so that there is something to prepare.

    UserError where that cannot be done: a kind not known here, or no vocabulary. Worth knowing before a long build.
    """
    name = _remote_class(model_dir)
    if name is None or not _has_tokenizer(model_dir):
        return False
    if (model_dir / FAST).is_file():
        return True
    if kind := _kind(model_dir, name):
        if not (file := model_dir / kind.vocabulary).is_file():
            remedy = f"fetch the checkpoint's own, or {OWN_FILE}"
            raise UserError("the vocabulary of the tokenizer is missing", str(file), remedy)
        return True
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if tokenizer_class_from_name(name) is None:
        what = f"the tokenizer {name} is code of the checkpoint's own, and hf2bmodel does not know its vocabulary file"
        raise UserError(what, str(model_dir / CONFIG), OWN_FILE)
    return False


def stops(folder: Path) -> tuple[str, ...]:
    """Tokens that end an answer, of a tokenizer that is still code; `prepare` writes them where all look for them."""
    kind = None if (folder / FAST).is_file() else _kind(folder, _remote_class(folder))
    return kind.stops if kind else ()


def prepare(model_dir: Path, out: Path, kind: Kind | None = None, chat_template: str | None = None) -> None:
    """Write into `out` what it takes to load the tokenizer of `model_dir` without its code; nothing if no more.

    That is tokenizer.json, tokenizer_config.json with the chat template, and generation_config.json with all ids
    that end an answer. `out` may hold copies of the checkpoint's files; what the new ones supersede is removed.
    `kind` and `chat_template` go before what the checkpoint says. UserError as `needs_preparation`, and for
    vocabulary files that cannot be read.
    """
    if kind is None and not needs_preparation(model_dir):
        return
    settings, generation = _read(model_dir / CONFIG), _read(model_dir / GENERATION)
    template = chat_template or settings.get("chat_template")
    if template is None and (model_dir / "chat_template.jinja").is_file():
        template = (model_dir / "chat_template.jinja").read_text(encoding="utf-8")
    if kind is None and (model_dir / FAST).is_file():
        shutil.copyfile(model_dir / FAST, out / FAST)
        made = {key: value for key, value in settings.items() if key != "auto_map"} | {"chat_template": template}
        _write(out / CONFIG, {**made, "tokenizer_class": GENERAL_CLASS})
        return
    kind = kind or _kind(model_dir, _remote_class(model_dir))
    assert kind is not None
    tokenizer, tokens = _convert(model_dir, kind, settings, generation)
    tokenizer.save(str(out / FAST))
    made = {"tokenizer_class": GENERAL_CLASS, "clean_up_tokenization_spaces": False, **tokens}
    made |= {key: settings[key] for key in _KEPT if key in settings}
    made["chat_template"] = template or _template(kind, generation, tokenizer)
    _write(out / CONFIG, made)
    _write(out / GENERATION, {**generation, "eos_token_id": _ends(model_dir, kind, generation, tokenizer)})
    for name in (*_SUPERSEDED, kind.vocabulary):
        (out / name).unlink(missing_ok=True)


def _has_tokenizer(folder: Path) -> bool:
    patterns = ("tokenizer*", "*.tiktoken", "vocab.*", "*.model")
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def _remote_class(model_dir: Path) -> str | None:
    """The tokenizer class that is not transformers' own, as the configs name it; None where there is none such."""
    settings = _read(model_dir / CONFIG)
    code = settings.get("auto_map") or {}
    code = code.get("AutoTokenizer") if isinstance(code, dict) else code
    code = next(filter(None, code), None) if isinstance(code, list) else code
    name = settings.get("tokenizer_class") or _read(model_dir / "config.json").get("tokenizer_class") or ""
    if code:
        return str(name or code.rsplit(".")[-1]).removesuffix("Fast")
    return str(name) if any(kind.tokenizer_class == name for kind in KINDS) else None


def _kind(model_dir: Path, name: str | None) -> Kind | None:
    """The first kind that the class name and the checkpoint's own words fit."""
    files = [model_dir / CONFIG, *sorted(model_dir.glob("tokenization_*.py"))]
    words = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    return next((k for k in KINDS if k.tokenizer_class == name and k.marker in words), None)


def _convert(
    model_dir: Path, kind: Kind, settings: dict[str, Any], generation: dict[str, Any]
) -> tuple[Tokenizer, dict[str, str]]:
    """The fast tokenizer with all special tokens at their ids; and bos_token, eos_token … as far as they exist."""
    from tokenizers import AddedToken

    file = model_dir / kind.vocabulary
    said = {int(i): _content(t) for i, t in settings.get("added_tokens_decoder", {}).items()}
    said |= {i: token for token, i in _read(model_dir / "added_tokens.json").items()}
    names = {**kind.named, **said}
    tokenizer = tokenizer_files.read(file, kind, names)
    size = tokenizer.get_vocab_size(with_added_tokens=False)
    special = {i: token for i, token in names.items() if i < size}
    special |= {i: said.get(i, token) for i, token in enumerate(kind.appended, start=size)}
    special |= {i: token for i, token in said.items() if i >= size}
    tokens = {key: _content(settings.get(key)) or token for key, token in kind.tokens.items()}
    for token in (*tokens.values(), *_chat_tokens(kind, generation, tokenizer).values()):
        if (i := tokenizer.token_to_id(token)) is not None:
            special[i] = token
    # A token that is a plain word (ChatGLM's "sop") is one only where it stands by itself, not in "philosophy".
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False, single_word=t.isalpha()) for _, t in sorted(special.items())]
    )
    for i, token in special.items():
        if tokenizer.token_to_id(token) != i:
            what = f"the special token {token!r} should have id {i}, but {file.name} leaves it {_id(tokenizer, token)}"
            raise UserError(what, str(model_dir), "fetch the checkpoint's tokenizer files again")
    tokens = {key: token for key, token in tokens.items() if tokenizer.token_to_id(token) is not None}
    _start_with(tokenizer, kind, tokens if settings.get("add_bos_token", kind.bos) else {})
    return tokenizer, tokens


def _id(tokenizer: Tokenizer, token: str) -> str:
    found = tokenizer.token_to_id(token)
    return "none" if found is None else str(found)


def _start_with(tokenizer: Tokenizer, kind: Kind, tokens: dict[str, str]) -> None:
    """Put the kind's prefix, or bos_token where `tokens` has it, before every text encoded with special tokens."""
    from tokenizers import processors

    prefix = kind.prefix or ((tokens["bos_token"],) if "bos_token" in tokens else ())
    if prefix:
        ids = [(token, tokenizer.token_to_id(token)) for token in prefix]
        single = " ".join(prefix) + " $A"
        tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=f"{single} $B", special_tokens=ids)


def _chat_tokens(kind: Kind, generation: dict[str, Any], tokenizer: Tokenizer) -> dict[str, str]:
    """For each `{name}` in the kind's template, the token of that id in generation_config.json, if it is there."""
    found = {name: generation.get(name) for name in re.findall(r"'\{(\w+)\}'", kind.template)}
    tokens = {name: tokenizer.id_to_token(i) for name, i in found.items() if isinstance(i, int)}
    return {name: token for name, token in tokens.items() if token is not None}


def _template(kind: Kind, generation: dict[str, Any], tokenizer: Tokenizer) -> str | None:
    """The kind's chat; None for a checkpoint that says it has none."""
    if any(generation.get(key, value) != value for key, value in kind.chats.items()):
        return None
    template = kind.template
    for name, token in _chat_tokens(kind, generation, tokenizer).items():
        template = template.replace(f"{{{name}}}", token)
    return None if re.search(r"'\{\w+\}'", template) else template


def _ends(model_dir: Path, kind: Kind, generation: dict[str, Any], tokenizer: Tokenizer) -> list[int]:
    said = generation.get("eos_token_id", _read(model_dir / "config.json").get("eos_token_id"))
    ends = set(said if isinstance(said, list) else [said]) | {tokenizer.token_to_id(token) for token in kind.stops}
    return sorted(int(i) for i in ends if i is not None)


def _content(token: Any) -> str:
    """A token as the configs spell it: a text, or an object with one."""
    return str((token.get("content") if isinstance(token, dict) else token) or "")


def _read(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"not JSON ({error})", str(path), "fetch the checkpoint's file again") from error
    return read if isinstance(read, dict) else {}


def _write(path: Path, data: dict[str, Any]) -> None:
    kept = {key: value for key, value in data.items() if value is not None}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
