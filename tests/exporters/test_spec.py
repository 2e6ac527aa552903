"""Reading config.json: the right sizes, and one clear line for what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract.errors import UserError
from exporters import architecture, spec
from exporters.checkpoint import Checkpoint
from tests import tiny, vision_models


def write(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_sizes_come_from_the_config(checkpoint: Callable[[str], Path]) -> None:
    found = spec.read(checkpoint("qwen2-tied"))
    assert (found.heads, found.kv_heads, found.head_dim, found.tied) == (4, 1, 32, True)
    assert found.geometry(64).seq_length == 64
    assert found.layer_kinds == (0, 0)


def test_layers_that_slide_a_window_are_known_and_numbered(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    config = json.loads((checkpoint("qwen2") / "config.json").read_text())
    del config["layer_types"]
    slides = config | {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}
    found = spec.read(write(tmp_path, **slides))
    assert (found.windows, found.layer_kinds) == ((None, 32), (0, 1))
    assert spec.read(write(tmp_path, **slides | {"use_sliding_window": False})).windows == (None, None)


@pytest.mark.parametrize("name", tiny.CASES)
def test_parameters_are_counted(name: str, checkpoint: Callable[[str], Path]) -> None:
    """What planning estimates from: the weights of layers and tables, to within their norms and biases."""
    weights = Checkpoint(checkpoint(name))
    total = sum(math.prod(weights.shape(n)) for n in weights.names() if "wpe" not in n)
    assert spec.read(checkpoint(name)).parameters == pytest.approx(total, rel=0.02)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such model directory; give MODEL=/path/to/checkpoint"):
        spec.read(tmp_path / "nothing")
    with pytest.raises(UserError, match="the model directory is empty; download"):
        spec.read(tmp_path)
    (tmp_path / "README.md").touch()
    with pytest.raises(UserError, match=r"the model directory has no config\.json; download"):
        spec.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not valid JSON"):
        spec.read(tmp_path)
    with pytest.raises(UserError, match="has no model_type"):
        spec.read(write(tmp_path, hidden_size=1))


def test_an_unknown_model_type_names_near_matches(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model_type 'lama' is unknown; did you mean llama"):
        spec.read(write(tmp_path, model_type="lama"))
    with pytest.raises(UserError, match=r"model_type 'zzz' is unknown; known are .*llama"):
        spec.read(write(tmp_path, model_type="zzz"))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lacks 'num_attention_heads'"):
        spec.read(write(tmp_path, model_type="llama"))


def test_two_tables_for_one_model_type_fail_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "TABLES", ("llama", "llama"))
    architecture.tables.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="'llama' stands in another table already"):
            architecture.tables()
    finally:
        architecture.tables.cache_clear()


def test_a_decoder_inside_another_config(tmp_path: Path) -> None:
    """The type of the weights stands outside; older files of GLM-4.1V have all of it there, which nobody else reads."""
    folder = vision_models.make("glm4v", tmp_path, "bfloat16")
    read = spec.read(folder)
    assert (read.dtype, read.heads, read.kv_heads, read.axes, read.layers) == ("bfloat16", 2, 1, 3, 2)
    config = spec.read_config(folder)
    del config["text_config"]["partial_rotary_factor"]
    with pytest.raises(UserError, match=r"lacks 'partial_rotary_factor of 0\.5'"):
        spec.from_config("glm4v", config, "config.json")
    with pytest.raises(UserError, match=r"take the config\.json that the hub has now"):
        spec.from_config("glm4v", {**config.pop("text_config"), **config}, "config.json")
