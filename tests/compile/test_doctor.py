"""`hf2bmodel doctor`: a part that is missing is named with the command that mends it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

from cli import doctor
from compile import toolchain


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    doctor.add_parsers(made.add_subparsers())
    return made


def run(*words: str) -> int:
    args = parser().parse_args(["doctor", *words])
    code: int = args.run(args)
    return code


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF2BMODEL_TPU_MLIR", str(tmp_path))
    monkeypatch.delenv("TPUC_ROOT", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


@pytest.mark.usefixtures("no_compiler")
def test_a_missing_compiler_stops_a_build(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 1
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if "tpu_mlir" in line)
    assert line.startswith("missing ")
    assert "make setup" in line
    assert any(line.startswith("ok ") and sys.version.split()[0] in line for line in lines)


def test_every_part_is_named() -> None:
    names = [part.name for part in doctor.examine("auto")]
    for name in ("exporter: python", "exporter: torch", "exporter: onnx", "gcc", "npm", "disk free", "memory free"):
        assert name in names


def test_another_version_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0+cpu", "onnx": "1.0.0"}
    real = doctor.metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: versions.get(name) or real(name))
    parts = {part.name: part for part in doctor._packages()}
    assert not parts["exporter: torch"].remedy
    assert "1.0.0, tested with" in parts["exporter: onnx"].found
    assert not parts["exporter: onnx"].needed


def test_a_missing_package_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert all(part.needed and part.remedy == "make setup" for part in doctor._packages())


@pytest.mark.parametrize(("bundled", "trapped"), [("2.0", True), ("99.1", False)])
def test_the_bundled_c_library_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: str, trapped: bool
) -> None:
    """Older than this system's, it kills every tool."""
    libc = tmp_path / "lib" / "python3.10" / "site-packages" / "tpu_mlir" / doctor._BUNDLED_LIBC
    libc.parent.mkdir(parents=True)
    libc.write_bytes(f"GNU C Library (Ubuntu GLIBC {bundled}) stable release version {bundled}.\n".encode())
    monkeypatch.setenv("HF2BMODEL_TPU_MLIR", str(tmp_path))
    assert bool(doctor._glibc_trap("auto")) == trapped
    assert not doctor._glibc_trap("docker")


@pytest.mark.usefixtures("no_compiler")
def test_it_runs_where_nothing_is_installed() -> None:
    """-S: without site-packages, as with a bare python3 before `make setup`."""
    code = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-S", "-c", BARE, str(toolchain.REPOSITORY)])
    assert code == 1


BARE = """
import argparse, sys
sys.path.insert(0, sys.argv[1])
from cli import doctor
sys.exit(doctor.run(argparse.Namespace(toolchain="auto")))
"""


@pytest.mark.toolchain
def test_all_is_well_after_setup(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    out = capsys.readouterr().out
    assert "missing" not in out
    assert "compiler: tpu_mlir         v1.30.2" in out
