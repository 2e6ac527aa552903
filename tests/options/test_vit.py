"""VIT: the tower's weights, whatever the mode does with the blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.errors import UserError
from tests import vision_models
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import manifest
from tests.options.conftest import Made, cosines


@pytest.fixture(scope="module")
def sees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_models.bare("qwen2_vl", tmp_path_factory.mktemp("checkpoints") / "sees")


@pytest.mark.toolchain
@pytest.mark.parametrize(("vit", "word"), [("f16", "F16"), ("int8", "W8BF16")])
def test_the_tower_is_of_its_own_kind(vit: str, word: str, sees: Path, made: Made) -> None:
    """Its rows are bfloat16 all the same, as the decoder's hidden states: the whole prompt goes through both."""
    folder = made(sees, "--mode", "bf16", "--vit", vit, "--max-pixels", "56,56")
    done = manifest(folder)
    assert done["status"] == "verified", done["reason"]
    assert done["nets"]["vit"]["quantize"] == word
    assert done["nets"]["block_0"]["quantize"] == "BF16"
    assert cosines(folder)["vit"] > 0.999
    assert folder.name.endswith(f"_vit-{vit}")


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("qwen2.5-vl-3b", {"vit": "bf16", "mode": "f16"}, "mode f16 has no bfloat16; leave it out, or use MODE=bf16"),
        ("qwen2.5-0.5b", {"vit": "f16"}, "qwen2 models see no pictures; leave it out"),
    ],
)
def test_what_cannot_be_is_refused(recipe: str, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_plan(recipe, **changes)
    assert str(error.value) == f"--vit: {message}"
