"""Real modeling files, taken from packages of PyPI when a test needs them; nothing is installed, nothing committed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from contract import folders

FIXTURES = Path(__file__).parent / "remote_fixtures"


@dataclass(frozen=True)
class Wheel:
    """`members`: path in the wheel to path in the checkpoint; none for the whole package. `beside`: fixture files that
    the checkpoint needs as well, likewise: stand-ins for what the package would import of its own."""

    requirement: str
    sha256: str
    members: dict[str, str]
    beside: dict[str, str]


def _flat(folder: str, *names: str) -> dict[str, str]:
    return {f"{folder}/{name}": name for name in names}


def _modelscope(model: str, entry: str, *names: str) -> Wheel:
    """The framework's relative imports need its folders; see remote_fixtures/modelscope."""
    folder = f"modelscope/models/nlp/{model}"
    return Wheel(
        "modelscope==1.40.2",
        "ea03e0ec4a73398a488d3d240cda4f0c5b62390377a134756d4074a3036cb909",
        {f"{folder}/{name}": f"{folder}/{name}" for name in names},
        {
            "modelscope/stand_ins.py": "stand_ins.py",
            "modelscope/registry.py": "modelscope/models/__init__.py",
            f"modelscope/{entry}": entry,
        },
    )


WHEELS = {
    "qwen": _modelscope(
        "qwen", "modeling_qwen.py", "backbone.py", "configuration.py", "qwen_generation_utils.py", "text_generation.py"
    ),
    "chatglm2": _modelscope("chatglm2", "modeling_chatglm.py", "configuration.py", "text_generation.py"),
    "baichuan-v1": Wheel(
        "ipex-llm==2.2.0b20241220",
        "779ad292203987cf61fba01ed4a70e70e0684bf0d522473b8b016a80b35d172c",
        _flat(
            "ipex_llm/transformers/gguf/models/model_implement/baichuan",
            "configuration_baichuan.py",
            "modeling_baichuan.py",
        ),
        {},
    ),
    "internlm2": Wheel(
        "xtuner==0.2.0",
        "5b59e7e194d78579c3d00a9a68ea7195472869d7a4601d692ce200224ac86443",
        _flat(
            "xtuner/tools/model_converters/modeling_internlm2_reward",
            "configuration_internlm2.py",
            "modeling_internlm2.py",
        ),
        {},
    ),
    "internvl_chat": Wheel(
        "xtuner==0.2.0",
        "5b59e7e194d78579c3d00a9a68ea7195472869d7a4601d692ce200224ac86443",
        {
            **_flat("xtuner/_lite/modelings/internvl2", "configuration_intern_vit.py", "modeling_intern_vit.py"),
            **_flat(
                "xtuner/tools/model_converters/modeling_internlm2_reward",
                "configuration_internlm2.py",
                "modeling_internlm2.py",
            ),
        },
        {
            f"internvl_chat/{name}": name
            for name in ("configuration_internvl_chat.py", "modeling_internvl_chat.py", "conversation.py")
        },
    ),
    # The code of InternVL's model card, as a function.
    "internvl_card": Wheel(
        "lmms-eval==0.7.3",
        "5709f9f9f56a8f5f22bf379571bd1c5e7702af5ae2bbb9637001c5dd91168895",
        _flat("lmms_eval/models/simple", "internvl2.py"),
        {},
    ),
    # Of use without its compiled half only: see torchvision_processor.py.
    "torchvision": Wheel(
        "torchvision==0.29.1", "2cb678029a5dd45afbbfa662fce49736827d52be33242b5a8a731e0db02ccdf5", {}, {}
    ),
    "av": Wheel("av==18.1.0", "8a032e8d8ebc73dec079364b9b4a6837638a2d106e8472314e685ffbf163e700", {}, {}),
}


def folder(name: str) -> Path:
    """Where the package of `name` lies, for a child process's PYTHONPATH, or this one's."""
    return _unzipped(WHEELS[name])


def place(name: str, folder: Path) -> None:
    """Copy the files of `name` into the checkpoint `folder`, as the package has them."""
    wheel = WHEELS[name]
    source = _unzipped(wheel)
    for member, path in wheel.members.items():
        _copy(source / member, folder / path)
    for member, path in wheel.beside.items():
        _copy(FIXTURES / member, folder / path)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _unzipped(wheel: Wheel) -> Path:
    """The wheel's wanted members in the cache; fetched and checked if they are not there yet."""
    root = folders.kept() / "tests"
    key = hashlib.sha256("\n".join(wheel.members).encode()).hexdigest()[:8]
    kept = root / f"{wheel.requirement}-{key}"
    if kept.is_dir():
        return kept
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=root) as scratch:
        with zipfile.ZipFile(_download(wheel, Path(scratch))) as archive:
            for member in wheel.members or archive.namelist():
                archive.extract(member, Path(scratch) / "files")
        try:
            (Path(scratch) / "files").rename(kept)
        except OSError:
            if not kept.is_dir():  # else another test process was quicker
                raise
    return kept


def _download(wheel: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]
    subprocess.run([*command, str(folder), wheel.requirement], check=True)
    (file,) = folder.glob("*.whl")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise RuntimeError(f"{file.name}: SHA-256 is {found}, not {wheel.sha256}")
    return file
