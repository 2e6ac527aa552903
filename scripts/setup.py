"""Makes the two environments, .venv (exporter) and .venv-tpu-mlir (compiler), or says in one line what is missing.

Standard library only, any Python from 3.8. What stands is left alone: an environment carries a stamp of its lock
file, its Python and its place, written when all is done, so an interrupted run is mended by the next.
"""

from __future__ import annotations

import argparse
import fcntl
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXPORTER, COMPILER = ROOT / ".venv", ROOT / ".venv-tpu-mlir"
LOCKS = ROOT / "requirements"
STAMP = "hf2bmodel.stamp"
EXPORTER_VERSIONS = ("3.11", "3.12", "3.13")  # 3.11 is what the lock was made with
COMPILER_VERSIONS = ("3.10",)  # tpu_mlir's wheel takes no other
TOOLS = ("model_transform.py", "model_deploy.py", "model_tool")
GLIBC = ("libc.so.6", "libm.so.6", "libpthread.so.0")
PAUSE = 10.0  # seconds before pip is started again
NEEDED = {EXPORTER: 3, COMPILER: 9}  # GB on disk while pip works


class Missing(Exception):
    """One line that says what is missing and how to get it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="tests and lint as well")
    parser.add_argument("--toolchain", default="auto", choices=("", "auto", "path", "managed", "docker"))
    parser.add_argument("--exporter-only", action="store_true", help="not the compiler")
    args = parser.parse_args()
    try:
        with (LOCKS / "exporter.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two at once would install into the same folder
            make_exporter(args.dev)
            if not args.exporter_only:
                make_compiler(args.toolchain)
    except Missing as missing:
        print(f"setup: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("setup: interrupted; the next `make setup` goes on from here", file=sys.stderr)
        return 130
    return 0


def make_exporter(dev: bool) -> None:
    locks = [LOCKS / "exporter.lock"] + ([LOCKS / "dev.lock"] if dev else [])
    if stands(EXPORTER, locks) or (not dev and stands(EXPORTER, [*locks, LOCKS / "dev.lock"])):
        return
    make(EXPORTER, EXPORTER_VERSIONS, locks)
    pip(EXPORTER, "install", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    stamp(EXPORTER, locks)


def make_compiler(kind: str) -> None:
    if kind == "docker":
        done = subprocess.run([str(EXPORTER / "bin" / "python"), "-m", "compile.docker"], cwd=ROOT, check=False)
        if done.returncode:
            raise Missing("tpu-mlir could not be installed for docker (see above)")
        return
    if kind != "managed" and tools_on_path():
        return
    if kind == "path":
        raise Missing("TOOLCHAIN=path: no model_transform.py on PATH; start the tpuc_dev container, or leave it out")
    lock = LOCKS / "compiler.lock"
    if not stands(COMPILER, [lock]):
        make(COMPILER, COMPILER_VERSIONS, [lock])
        stamp(COMPILER, [lock])
    for package in COMPILER.glob("lib/python3*/site-packages/tpu_mlir"):
        move_bundled_glibc(package)


def tools_on_path() -> bool:
    """The vendor's tools, as in the tpuc_dev container; those of our own environment do not count."""
    found = [shutil.which(tool) for tool in TOOLS]
    return all(tool and COMPILER not in Path(tool).resolve().parents for tool in found)


def make(folder: Path, versions: tuple[str, ...], locks: list[Path]) -> None:
    """A virtual environment with the packages of `locks`; one that stands is completed."""
    check_disk(folder)
    (folder / STAMP).unlink(missing_ok=True)
    if not usable(folder, versions):
        shutil.rmtree(folder, ignore_errors=True)
        python = find_python(versions, folder)
        say(f"making {folder.name} with {python}")
        run([python, "-m", "venv", str(folder)], "venv failed")
    for lock in locks:
        say(f"installing {lock.relative_to(ROOT)} into {folder.name}")
        pip(folder, "install", "-r", str(lock))


def usable(folder: Path, versions: tuple[str, ...]) -> bool:
    """Whether pip can work on it. Not if it was moved: its scripts name the Python of their old place."""
    try:
        at_home = str(folder).encode() in (folder / "bin" / "pip").read_bytes()[:1000]
    except OSError:
        return False
    return at_home and probe(str(folder / "bin" / "python"), versions, "pip") is not None


def pip(folder: Path, *words: str) -> None:
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    options = ["--disable-pip-version-check", "--no-input", *quiet]
    command = [str(folder / "bin" / "python"), "-m", "pip", *words, *options]
    if not subprocess.run(command, check=False).returncode:
        return
    say("pip failed (see above); once more, as a registry may have stumbled")
    time.sleep(PAUSE)
    run(command, "pip failed (see above); is a package registry within reach?")


def run(command: list[str], failure: str) -> None:
    if subprocess.run(command, check=False).returncode:
        raise Missing(f"{failure} Command: {' '.join(command)}")


def find_python(versions: tuple[str, ...], folder: Path) -> str:
    """A Python of one of `versions` that runs and can make environments. A name on PATH may be a pyenv shim that
    fails when started, so each is tried."""
    for version in versions:
        for candidate in candidates(version):
            found = probe(candidate, (version,), "ensurepip")
            if found:
                return found
    for version in versions:
        if shutil.which("uv") and not subprocess.run(["uv", "python", "install", version], check=False).returncode:
            found = probe(output(["uv", "python", "find", version]) or "", (version,), "ensurepip")
            if found:
                return found
    wanted = " or ".join(versions)
    first = versions[0]
    raise Missing(
        f"no Python {wanted} for {folder.name}; install it (`uv python install {first}`, `pyenv install {first}` or "
        f"your system's python{first} and python{first}-venv), or run inside the sophgo/tpuc_dev container"
    )


def candidates(version: str) -> Iterable[str]:
    yield sys.executable
    for name in (f"python{version}", "python3"):
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            if os.access(os.path.join(folder, name), os.X_OK):
                yield os.path.join(folder, name)
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    yield from sorted(glob.glob(f"{pyenv}/versions/{version}*/bin/python{version}"), reverse=True)
    if shutil.which("uv"):
        yield output(["uv", "python", "find", version]) or ""


def probe(python: str, versions: tuple[str, ...], module: str) -> str | None:
    """The real path of `python` if it runs, is one of `versions` and has `module`."""
    code = f"import sys, {module}; print('%d.%d' % sys.version_info[:2], sys.executable)"
    words = (output([python, "-c", code]) or "").split(maxsplit=1)
    return words[1] if len(words) == 2 and words[0] in versions else None


def output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode().strip() if done.returncode == 0 else None


def stands(folder: Path, locks: list[Path]) -> bool:
    try:
        return (folder / STAMP).read_text() == signature(folder, locks)
    except OSError:
        return False


def stamp(folder: Path, locks: list[Path]) -> None:
    (folder / STAMP).write_text(signature(folder, locks))
    say(f"{folder.name} stands")


def signature(folder: Path, locks: list[Path]) -> str:
    """Of what decides an environment: its locks, its Python and its place."""
    text = "".join(lock.read_text() for lock in locks) + (folder / "pyvenv.cfg").read_text() + str(folder)
    return hashlib.sha256(text.encode()).hexdigest() + "\n"


def check_disk(folder: Path) -> None:
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED[folder]:
        raise Missing(f"{folder.name} needs {NEEDED[folder]} GB and {free:.1f} GB are free in {ROOT}; free some space")


def move_bundled_glibc(package: Path) -> None:
    """tpu_mlir puts Ubuntu 22.04's C library first on LD_LIBRARY_PATH: under a newer one every tool dies with
    "version GLIBC_2.36 not found". The three files are moved aside; the system's own serve."""
    folder = package / "lib" / "third_party"
    libc = folder / GLIBC[0]
    if not libc.exists():
        return
    bundled, host = glibc_version(libc.read_bytes()), host_glibc()
    if not bundled or host < bundled:
        return
    (folder / "bundled-glibc").mkdir(exist_ok=True)
    for name in reversed(GLIBC):  # libc.so.6 last: it is what tells that there is work left
        if (folder / name).exists():
            os.replace(folder / name, folder / "bundled-glibc" / name)
    say(f"moved the glibc {'.'.join(map(str, bundled))} that tpu_mlir bundles out of the way")


def glibc_version(data: bytes) -> tuple[int, ...]:
    found = re.search(rb"GNU C Library [^\n]*? version (\d+)\.(\d+)", data)
    return tuple(int(part) for part in found.groups()) if found else ()


def host_glibc() -> tuple[int, ...]:
    try:
        words = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (OSError, ValueError):  # another C library
        return ()
    return tuple(int(part) for part in words[1].split(".")) if len(words) == 2 else ()


_START = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - _START:4.0f} s] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
