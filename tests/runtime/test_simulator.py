import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.errors import UserError
from runtime import simulator


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    simulator.shim.cache_clear()
    yield
    simulator.shim.cache_clear()


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """An environment as `make setup` lays it out, its libraries empty files."""
    folder = tmp_path / "env/lib/python3.10/site-packages/tpu_mlir/lib"
    folder.mkdir(parents=True)
    for name in ("libcmodel_bm1684x.so", "libbmlib.so.0", "libbmrt.so.1.0"):
        (folder / name).touch()
    return folder


def test_named_environment_is_used(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(simulator.ENVIRONMENT, str(libraries.parents[4]))
    found = simulator.find("bm1684x")
    assert found.simulated
    assert found.preload == (libraries / "libcmodel_bm1684x.so",)
    assert (found.bmlib, found.bmrt) == (libraries / "libbmlib.so.0", libraries / "libbmrt.so.1.0")


def test_container_is_used_where_no_environment_is(
    libraries: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(simulator.ENVIRONMENT, raising=False)
    monkeypatch.setattr(simulator, "_REPOSITORY", tmp_path / "elsewhere")
    monkeypatch.setenv("TPUC_ROOT", str(libraries.parent))
    assert simulator.find("bm1684x").bmlib == libraries / "libbmlib.so.0"


def test_what_is_missing_is_said_with_its_remedy(
    libraries: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(simulator.ENVIRONMENT, str(libraries.parents[4]))
    with pytest.raises(UserError, match=r"simulator of bm1688.*make setup"):
        simulator.find("bm1688")
    monkeypatch.setenv(simulator.ENVIRONMENT, str(tmp_path / "typo"))
    with pytest.raises(UserError, match=r"HF2BMODEL_TPU_MLIR=.*typo: no tpu-mlir in there"):
        simulator.find("bm1684x")
    with pytest.raises(UserError, match=r"'bm1682' is unknown; use bm1684x, bm1688"):
        simulator.find("bm1682")


def test_a_chip_without_a_simulator_is_said_to_have_none(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(simulator.ENVIRONMENT, str(libraries.parents[4]))
    assert simulator.unsimulated("bm1684x") == ""
    assert "no simulator of bm1690" in simulator.unsimulated("bm1690")
    with pytest.raises(UserError, match=r"no simulator of bm1690.*no board is here; take the build to a board"):
        simulator.find("bm1690")


def test_shim_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = simulator.shim()
    assert built is not None
    assert list((tmp_path / "hf2bmodel").iterdir()) == [built]
    assert subprocess.run(["true"], env={"LD_PRELOAD": str(built)}, capture_output=True).stderr == b""
    before = built.stat().st_mtime_ns
    simulator.shim.cache_clear()
    assert simulator.shim() == built
    assert built.stat().st_mtime_ns == before


def test_shim_shortens_sleeps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = "import ctypes, time; t = time.time(); ctypes.CDLL(None).usleep(900000); print(time.time() - t)"
    environment = {**os.environ, "LD_PRELOAD": str(simulator.shim())}
    out = subprocess.run(["python3", "-c", code], env=environment, capture_output=True, check=True).stdout
    assert float(out) < 0.5


@pytest.mark.parametrize("broken", ["no gcc", "space"])
def test_without_shim_there_is_one_warning(
    broken: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ("a b" if broken == "space" else "cache")))
    if broken == "no gcc":
        monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert simulator.shim() is None
        assert simulator.shim() is None
    assert len(caplog.records) == 1
    assert "25 to 150 times slower" in caplog.text
