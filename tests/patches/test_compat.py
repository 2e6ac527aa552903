"""Stand-ins for removed names: there for the time, gone after it, and never in the way of what exists."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
import torch
import transformers
from transformers.cache_utils import DynamicCache

from patches import compat
from patches.packages import PACKAGES
from patches.stand_in import StandIn

RECORDS = [*compat.IMPORTING, *compat.BUILDING, *compat.RUNNING]


def state() -> dict[tuple[str, str], object]:
    """What each record's name is at the moment: a value, or a word for what is missing."""
    found: dict[tuple[str, str], object] = {}
    for record in RECORDS:
        module, _, cls = record.where.partition(":")
        holder = sys.modules.get(module, "no module")
        holder = getattr(holder, cls) if cls else holder
        found[record.where, record.name] = getattr(holder, "__dict__", {}).get(record.name, "no name")
    return found


@pytest.mark.parametrize("context", [compat.importing, compat.building, compat.running])
def test_everything_is_as_before_even_after_an_error(context) -> None:
    for record in RECORDS:  # what is lazily imported counts as there before
        try:
            importlib.import_module(record.where.partition(":")[0])
        except ImportError:
            continue
    before, modules = state(), set(sys.modules)
    inside = []
    with pytest.raises(ZeroDivisionError), context():
        inside.append(state()) or 1 / 0
    assert inside[0] != before
    assert state() == before
    assert set(sys.modules) == modules


def test_names_that_exist_are_left_alone_unless_the_record_says_override() -> None:
    module = ModuleType("some_module")
    module.kept, module.replaced = "own", "own"
    sys.modules["some_module"] = module
    records = [
        StandIn("some_module", "kept", lambda: "stand-in", ""),
        StandIn("some_module", "replaced", lambda: "stand-in", "", override=True),
    ]
    try:
        with compat.installed(records):
            assert (module.kept, module.replaced) == ("own", "stand-in")
        assert (module.kept, module.replaced) == ("own", "own")
    finally:
        del sys.modules["some_module"]


def test_every_record_says_why() -> None:
    assert all(len(record.reason) > 5 for record in RECORDS)


def test_no_record_that_does_not_override_hides_a_typing_error() -> None:
    """Modules that exist are spelled right: their package at least is there."""
    for record in RECORDS:
        package = record.where.partition(":")[0].partition(".")[0]
        assert package in ("torch", "transformers", *{r.where.partition(".")[0] for r in PACKAGES})
        if ":" in record.where:
            module, _, cls = record.where.partition(":")
            assert hasattr(importlib.import_module(module), cls)
        if record.override:
            module, _, cls = record.where.partition(":")
            holder = importlib.import_module(module)
            assert hasattr(getattr(holder, cls) if cls else holder, record.name)


def test_imports_of_old_code_work_inside() -> None:
    with compat.importing():
        from transformers import BeamSearchScorer, DisjunctiveConstraint  # noqa: F401
        from transformers.deepspeed import is_deepspeed_zero3_enabled
        from transformers.generation.logits_process import LogitsWarper
        from transformers.modeling_utils import ALL_LAYERNORM_LAYERS
        from transformers.pytorch_utils import is_torch_greater_or_equal_than_1_13
        from transformers.utils import is_flash_attn_2_available, is_flash_attn_greater_or_equal_2_10
        from transformers.utils.import_utils import is_torch_fx_available
        from transformers.utils.model_parallel_utils import assert_device_map, get_device_map  # noqa: F401
        from transformers_stream_generator.main import NewGenerationMixin, StreamGenerationConfig  # noqa: F401
    assert not is_torch_fx_available()
    assert not is_flash_attn_2_available()
    assert not is_flash_attn_greater_or_equal_2_10()
    assert not is_deepspeed_zero3_enabled()
    assert is_torch_greater_or_equal_than_1_13
    assert isinstance(ALL_LAYERNORM_LAYERS, list)
    assert LogitsWarper is transformers.LogitsProcessor


@pytest.mark.parametrize("name", compat.HIDDEN)
def test_gpu_packages_cannot_be_imported_inside(name: str) -> None:
    installed, part = ModuleType(name), ModuleType(f"{name}.part")
    sys.modules[name], sys.modules[f"{name}.part"] = installed, part
    try:
        with compat.importing():
            assert importlib.util.find_spec(name) is None
            with pytest.raises(ImportError):
                importlib.import_module(f"{name}.part")
        assert sys.modules[name] is installed
        assert sys.modules[f"{name}.part"] is part
    finally:
        del sys.modules[name], sys.modules[f"{name}.part"]


def test_a_package_that_breaks_on_import_gets_a_stand_in(tmp_path, monkeypatch) -> None:
    (tmp_path / "transformers_stream_generator").mkdir()
    (tmp_path / "transformers_stream_generator" / "__init__.py").write_text("from transformers import LongGone")
    monkeypatch.syspath_prepend(tmp_path)
    with compat.importing():
        from transformers_stream_generator import init_stream_support
    assert init_stream_support() is None
    assert "transformers_stream_generator" not in sys.modules


def test_transformers_own_configurations_are_standardized_inside_all_the_same() -> None:
    rope = {"type": "linear", "factor": 2.0}
    with compat.building():
        config = transformers.LlamaConfig(rope_scaling=rope, rope_theta=5e5, hidden_size=64, num_attention_heads=2)
    assert config.rope_parameters["rope_theta"] == 5e5
    assert config.rope_parameters["rope_type"] == "linear"


def test_a_cache_goes_to_tuples_and_back() -> None:
    pairs = tuple((torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)) for _ in range(3))
    with compat.running():
        cache = DynamicCache.from_legacy_cache(pairs)
        assert cache.get_usable_length(1) == cache.seen_tokens == 5
        assert torch.equal(cache[1][0], pairs[1][0])
        for old, new in zip(pairs, cache.to_legacy_cache(), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
        assert len(DynamicCache.from_legacy_cache(None).to_legacy_cache()) == 0
    assert not hasattr(DynamicCache, "to_legacy_cache")


def test_no_head_mask_is_taken() -> None:
    with compat.running():
        assert transformers.PreTrainedModel.get_head_mask(None, None, 3) == [None] * 3
        with pytest.raises(NotImplementedError):
            transformers.PreTrainedModel.get_head_mask(None, torch.ones(2), 3)
