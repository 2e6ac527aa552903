"""Checkpoints that bring their own code: asked for, imported untouched, built whole, and right step by step."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contract.errors import UserError
from exporters import remote, trust
from patches import compat
from tests import remote_models

pytestmark = pytest.mark.slow

PROMPT, TOTAL = 40, 60  # beyond Qwen's tiny seq_length, and both within the same step of its NTK


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a case of tests/remote_models.py, made once. Copy it before you damage it."""
    folders: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in folders:
            folders[name] = remote_models.make(name, tmp_path_factory.mktemp(name))
        return folders[name]

    return get


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def change(folder: Path, **values: object) -> None:
    (folder / "config.json").write_text(json.dumps(config_of(folder) | values))


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def tokens(count: int) -> torch.Tensor:
    return torch.randint(500, (1, count), generator=torch.Generator().manual_seed(1))


def positions(model: torch.nn.Module, start: int, stop: int) -> dict[str, torch.Tensor]:
    """ChatGLM takes every step for position 0 unless told; Baichuan-13B's ALiBi has no positions."""
    takes = "position_ids" in model.forward.__code__.co_varnames
    return {"position_ids": torch.arange(start, stop)[None]} if takes else {}


@torch.no_grad()
def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = remote.load_whole(folder)
    with compat.running():
        return model(input_ids=ids, use_cache=False).logits[0]


@pytest.mark.parametrize("name", remote_models.CASES)
@torch.no_grad()
def test_prefill_and_steps_equal_the_whole_forward(name: str, made: Callable[[str], Path]) -> None:
    ids = tokens(TOTAL)
    whole = logits(made(name), ids)
    model = remote.load_whole(made(name))
    with compat.running():
        out = model(input_ids=ids[:, :PROMPT], use_cache=True, **positions(model, 0, PROMPT))
        stepped = [out.logits[0]]
        for i in range(PROMPT, TOTAL):
            step, at = ids[:, i : i + 1], positions(model, i, i + 1)
            out = model(input_ids=step, past_key_values=out.past_key_values, use_cache=True, **at)
            stepped.append(out.logits[0])
    assert torch.isfinite(whole).all()
    assert len(set(whole.argmax(-1).tolist())) > 20, "logits too flat to show a mistake"
    assert torch.allclose(torch.cat(stepped), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("fixture", "real", "config"),
    [("qwen-hub", "qwen", {}), ("glm4-chat", "chatglm2", {"rope_ratio": 1, "layernorm_epsilon": 1e-5})],
)
def test_fixtures_compute_what_the_real_files_do(
    fixture: str, real: str, config: dict, made: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy_of(made(fixture), tmp_path / "fixture")
    shutil.copyfile(made(real) / "model.safetensors", folder / "model.safetensors")
    change(folder, **config)
    assert torch.allclose(logits(folder, tokens(TOTAL)), logits(made(real), tokens(TOTAL)), atol=1e-5)


def test_the_baichuan_fixture_is_the_real_v1_file_with_a_normalized_head(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    ids, folder = tokens(TOTAL), copy_of(made("baichuan-v1"), tmp_path / "v1")
    tensors = load_file(made("baichuan-7b") / "model.safetensors")
    head = tensors["lm_head.weight"].float()
    tensors = {name: t.float() for name, t in tensors.items()} | {"lm_head.weight": torch.nn.functional.normalize(head)}
    save_file(tensors, folder / "model.safetensors")
    assert torch.allclose(logits(made("baichuan-7b"), ids), logits(folder, ids), atol=1e-5)


def test_alibi_adds_a_slope_per_head_times_the_distance(made: Callable[[str], Path]) -> None:
    """Against the paper's formula, for a number of heads that is no power of two."""
    model = remote.load_whole(made("baichuan-13b"))
    seen = []
    hook = model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    with compat.running(), torch.no_grad():
        model(input_ids=tokens(9), use_cache=False)
    hook.remove()
    slopes = torch.tensor([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])  # of 4 heads, then every other one of 8
    distance = torch.arange(9)[None, :] - torch.arange(9)[:, None]
    expected = slopes[:, None, None] * distance
    bias = seen[0] - seen[0].diagonal(dim1=1, dim2=2)[..., None]  # a softmax does not see a constant per row
    lower = torch.ones(9, 9, dtype=torch.bool).tril()
    assert torch.allclose(bias[:, lower], expected[:, lower])
    assert (bias[:, ~lower] == float("-inf")).all()


@pytest.mark.parametrize("name", remote_models.CASES)
def test_the_empty_model_has_no_weights_but_all_its_buffers(name: str, made: Callable[[str], Path]) -> None:
    config, model_class = remote.load(made(name))
    model = remote.empty(model_class, config)
    assert all(p.is_meta for p in model.parameters())
    with compat.building():
        usual = dict(remote._tensors(model_class(config)))  # with memory for its weights
    found = dict(remote._tensors(model))
    assert found.keys() == usual.keys()
    for path, tensor in found.items():
        assert torch.equal(tensor, usual[path]), path
    assert config._attn_implementation == "eager"
    assert not model.training


def test_the_code_folder_is_left_as_it_was(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(made("qwen-hub"), tmp_path / "model")
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    remote.load_whole(folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_changed_code_is_imported_anew(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(made("glm4-chat"), tmp_path / "model")
    first = remote.load(folder)[1]
    assert remote.load(folder)[1] is first
    with (folder / "modeling_chatglm.py").open("a") as file:
        file.write("\nChatGLMForConditionalGeneration.changed = True\n")
    second = remote.load(folder)[1]
    assert second.changed
    assert not hasattr(first, "changed")


def test_rope_scaling_is_read_as_written(made: Callable[[str], Path], tmp_path: Path) -> None:
    assert remote.load(made("internlm2"))[0].rope_scaling == {"type": "dynamic", "factor": 2.0}
    folder = copy_of(made("internlm2"), tmp_path / "plain")
    change(folder, rope_scaling=None)
    assert remote.load(folder)[0].rope_scaling is None
    remote.load_whole(folder)


def test_tied_weights_are_one_parameter(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(made("internlm2"), tmp_path / "tied")
    change(folder, tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    del tensors["output.weight"]
    save_file(tensors, folder / "model.safetensors")
    model = remote.load_whole(folder)
    assert model.output.weight is model.model.tok_embeddings.weight
    assert torch.equal(model.output.weight, tensors["model.tok_embeddings.weight"].float())


def test_code_runs_only_with_the_users_word(made: Callable[[str], Path]) -> None:
    folder = made("glm4-chat")
    trust.check_allowed(folder, config_of(folder), trust=True)
    with pytest.raises(UserError) as error:
        trust.check_allowed(folder, config_of(folder), trust=False)
    assert error.value.where == str(folder)
    assert "configuration_chatglm.py, modeling_chatglm.py" in error.value.what
    assert "TRUST_REMOTE_CODE=1" in error.value.remedy
    assert "--trust-remote-code" in error.value.remedy


def test_models_that_transformers_knows_need_no_word(tmp_path: Path) -> None:
    trust.check_allowed(tmp_path, {"model_type": "llama"}, trust=False)


def test_code_of_another_repository_is_found_here_or_named(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(made("qwen-hub"), tmp_path / "model")
    assert [p.name for p in trust.code_files(folder, config_of(folder))] == [
        "configuration_qwen.py",
        "modeling_qwen.py",
    ]
    (folder / "configuration_qwen.py").unlink()
    with pytest.raises(UserError, match=r"configuration_qwen\.py") as error:
        trust.code_files(folder, config_of(folder))
    assert "Qwen/Qwen-7B" in error.value.remedy


def test_a_missing_package_is_named(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(made("glm4-chat"), tmp_path / "model")
    code = (folder / "modeling_chatglm.py").read_text()
    (folder / "modeling_chatglm.py").write_text(code.replace("import math", "import math\nimport no_such_package", 1))
    with pytest.raises(UserError, match="needs the Python package no_such_package") as error:
        remote.load(folder)
    assert f"{sys.executable} -m pip install no_such_package" in error.value.remedy


def test_code_that_needs_what_is_gone_is_named(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(made("glm4-chat"), tmp_path / "model")
    code = (folder / "modeling_chatglm.py").read_text()
    lost = "import math\nfrom transformers.utils import long_gone"
    (folder / "modeling_chatglm.py").write_text(code.replace("import math", lost, 1))
    with pytest.raises(UserError, match="long_gone"):
        remote.load(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("transformer.encoder.layers.1.mlp.dense_h_to_4h.weight"), "lacks the tensor"),
        (lambda t: t.update({"transformer.output_layer.weight": torch.zeros(7, 128)}), "has shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    damage: Callable[[dict], object], message: str, made: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy_of(made("glm4-chat"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=message):
        remote.load_whole(folder)


def test_weights_of_no_use_are_reported(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(made("baichuan-7b"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    stale = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}
    save_file(tensors | stale | {"v_head.weight": torch.ones(3)}, folder / "model.safetensors")
    with pytest.warns(UserWarning, match=r"v_head\.weight: not a weight of the model"):
        remote.load_whole(folder)


def test_buffers_made_from_weights_are_refused(made: Callable[[str], Path], tmp_path: Path) -> None:
    """They would be garbage: there are no weights yet when they are computed."""
    folder = copy_of(made("glm4-chat"), tmp_path / "model")
    code = (folder / "modeling_chatglm.py").read_text()
    line = "        self.max_sequence_length = config.max_length\n"
    late = "        self.scale = self.transformer.output_layer.weight.sum(0)\n"
    anchor = "        self.config = config\n\n    def forward"
    assert line in code
    assert anchor in code
    (folder / "modeling_chatglm.py").write_text(code.replace(anchor, late + anchor))
    with pytest.raises(RuntimeError, match="scale has no values"):
        remote.load_whole(folder)
