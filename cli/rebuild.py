"""`rebuild` and `diff`: a build made again from its manifest, and what two builds were not made alike from."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from contract import manifest as manifests
from contract.errors import UserError
from contract.manifest import Manifest
from contract.modes import TOOLCHAINS, VERIFY
from contract.options import by_variable

SOURCE = "hf2bmodel"
SHORT = 12  # digits of a SHA-256 that are shown


def add_parsers(subparsers: Any) -> None:
    """Registers both commands; each sets `run`, a function of the parsed arguments that gives the exit code."""
    rebuild = subparsers.add_parser("rebuild", help="make a build again from its manifest, and compare the bytes")
    rebuild.add_argument("manifest", type=Path, metavar="MANIFEST", help="a manifest.json, or the folder it lies in")
    rebuild.add_argument("--out", default="out", help="where the build's folder goes (default: out)")
    rebuild.add_argument("--model", help="where the checkpoint is now, if not where it was")
    rebuild.add_argument("--jobs", help="steps at once (default: the cores)")
    rebuild.add_argument("--verify", choices=VERIFY, default="full", help="as for build (default: full)")
    rebuild.add_argument("--toolchain", choices=TOOLCHAINS, help="as for build")
    rebuild.add_argument("--trust-remote-code", action="store_true", help="as for build")
    rebuild.add_argument("--any-tools", action="store_true", help="go on with other tools than it was made with")
    rebuild.set_defaults(run=_rebuild)
    diff = subparsers.add_parser("diff", help="which inputs differ between two builds")
    diff.add_argument("a", type=Path, metavar="A", help="a build's folder, or its manifest.json")
    diff.add_argument("b", type=Path, metavar="B", help="another")
    diff.add_argument("--json", action="store_true", help="print the differences as JSON")
    diff.set_defaults(run=_diff)


def read(path: Path) -> Manifest:
    """Of a folder or a manifest.json. UserError where it does not say what it was made from."""
    manifest = manifests.read(path.parent if path.name == manifests.NAME else path)
    if not manifest.inputs:
        raise UserError("does not say all that it was made from: an older version made it", str(path), "build again")
    return manifest


def differences(a: Manifest, b: Manifest) -> list[tuple[str, Any, Any]]:
    """What decides the bytes and is not the same: its name, and the two values (None: absent)."""
    one, two = dict(_inputs(a)), dict(_inputs(b))
    return [(k, one.get(k), two.get(k)) for k in sorted({*one, *two}) if one.get(k) != two.get(k)]


def _inputs(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    inputs = manifest.inputs
    for name, value in inputs["options"].items():
        yield f"option {name}", value
    for name, value in inputs["recipe"].items():
        if name != "source":  # its files say more
            yield from _flat(f"recipe {name}", value)
    for name, value in inputs["files"].items():
        yield f"checkpoint {name}", value
    for name, value in tools(manifest).items():
        yield f"tool {name}", value
    for kind, words in _quantization(manifest.nets).items():
        yield f"quantization of {kind}", words


def tools(manifest: Manifest) -> dict[str, str]:
    """Versions of all that made it, of ourselves too."""
    return {**manifest.tools, SOURCE: _source(manifest.inputs["source"])}


def _source(source: Mapping[str, str]) -> str:
    return f"{source['version']} ({source['digest'][:SHORT]})"


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(f"{name}.{key}", part)
    else:
        yield name, value


def _quantization(nets: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """By kind of net its word, and how many have it where they differ."""
    found: dict[str, Counter[str]] = {}
    for net in nets.values():
        found.setdefault(net["kind"], Counter())[net["quantize"]] += 1
    return {
        kind: next(iter(words)) if len(words) == 1 else ", ".join(f"{n} x {w}" for w, n in sorted(words.items()))
        for kind, words in found.items()
    }


def _diff(args: argparse.Namespace) -> int:
    found = differences(read(args.a), read(args.b))
    if args.json:
        print(json.dumps([{"input": name, "a": a, "b": b} for name, a, b in found], indent=1))
    else:
        for name, a, b in found:
            print(f"{name}: {_word(a)} -> {_word(b)}")
        if not found:
            print("made from the same")
    return 1 if found else 0


def _word(value: Any) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:SHORT] if len(text) == 64 and not text.strip("0123456789abcdef") else text


def _rebuild(args: argparse.Namespace) -> int:
    from cli import build, pipeline
    from cli.prepare import Request, prepare

    wanted = read(args.manifest)
    chosen = {
        **wanted.inputs["options"],
        "out": args.out,
        "verify": args.verify,
        "toolchain": args.toolchain,
    }
    chosen |= {"model": args.model or _model(wanted), "trust_remote_code": args.trust_remote_code or None}
    chosen["jobs"] = by_variable()["JOBS"].parse(args.jobs, "--jobs") if args.jobs else None
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch) / f"{wanted.recipe}.yaml"
        recipe.write_text(json.dumps(_recipe(wanted), indent=1), encoding="utf-8")  # JSON is YAML
        prepared = prepare(Request(str(recipe), chosen), build.say)
    _check_files(wanted, prepared.model_dir)
    if not args.any_tools:
        here = {**pipeline.tools(prepared), SOURCE: _source(pipeline.source())}
        _check_tools(wanted, here, args.manifest)
    code = build.carry_out(prepared)
    made = manifests.read(prepared.plan.folder) if (prepared.plan.folder / manifests.NAME).is_file() else None
    if made and made.sha256:
        same = (made.sha256, made.beside) == (wanted.sha256, wanted.beside)
        print(f"{'the same bytes' if same else 'other bytes'}: {made.sha256[:SHORT]}, was {wanted.sha256[:SHORT]}")
        return code or int(not same)
    return code


def _model(wanted: Manifest) -> str | None:
    """Where the checkpoint was, unless the recipe itself says where to get it."""
    return None if wanted.model.get("source") else str(wanted.model["path"])


def _recipe(wanted: Manifest) -> dict[str, Any]:
    """The recipe's values, with the revision that was taken from the hub."""
    recipe, revision = dict(wanted.inputs["recipe"]), wanted.inputs.get("revision")
    if revision and "hub" in recipe["source"]:
        recipe["source"] = {**recipe["source"], "revision": revision}
    return recipe


def _check_files(wanted: Manifest, model_dir: Path) -> None:
    from compile.digest import Digests

    digests, adapter = Digests(model_dir / "no-memory"), wanted.inputs["options"].get("adapter")
    files, here = wanted.inputs["files"], digests.folder(model_dir)
    if adapter:  # they are told apart by their folder
        here |= {f"adapter/{name}": digest for name, digest in digests.folder(Path(adapter)).items()}
    odd = [name for name in sorted({*files, *here}) if files.get(name) != here.get(name)]
    if odd:
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        what = f"not the checkpoint that was built: {odd[0]} is not the same{more}"
        raise UserError(what, str(model_dir), "give the right one with --model")


def _check_tools(wanted: Manifest, here: Mapping[str, str], where: Path) -> None:
    before = tools(wanted)
    for name in sorted({*before, *here}):
        if before.get(name) != here.get(name):
            what = f"made with {name} {before.get(name, '-')}, and here is {here.get(name, '-')}"
            raise UserError(what, str(where), "install that, or go on with --any-tools")
