"""What a build puts at the top of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from cli import pipeline
from compile import digest


def test_a_bmodel_that_got_its_name_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading one of 7B in int4 took the next build 5 s, only to find that there was nothing to do."""

    def read(_: object) -> NoReturn:
        raise AssertionError("read again")

    made, target = tmp_path / "work.bmodel", tmp_path / "model.bmodel"
    made.write_bytes(b"weights")
    digests = digest.Digests(tmp_path / "digests.json")
    found = digests.file(made)
    pipeline._name(made, target, digests)
    digests.save()
    monkeypatch.setattr(digest, "_stream", read)
    assert digest.Digests(tmp_path / "digests.json").file(target) == found
    assert target.samefile(made)
