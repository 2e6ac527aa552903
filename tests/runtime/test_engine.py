"""The engine on the real simulator, with bmodels of the vendor's own converter."""

import _thread
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contract import graphs
from contract.bmodel import READER
from contract.errors import UserError
from runtime import bmodel as bmodel_file
from runtime.engine import Engine, EngineDied, EngineError
from runtime.half import from_storage, to_storage
from tests.runtime.conftest import GEOMETRY, SEQ, bmodel_in

pytestmark = pytest.mark.toolchain
PROMPT = [5, 6, 7, 8, 9]


def _repeat(call: Callable[..., object], argument: object) -> None:
    """Until it raises."""
    while True:
        call(argument)


def test_nets_are_the_contracts(engine: Engine) -> None:
    assert set(engine.nets.values()) == set(graphs.decoder_graphs(GEOMETRY, top1=False))
    assert engine.vocab == GEOMETRY.vocab


def test_embedding_gives_the_tables_rows(engine: Engine, talking_checkpoint: Path) -> None:
    from safetensors.torch import load_file

    table = load_file(talking_checkpoint / "model.safetensors")["model.embed_tokens.weight"].float().numpy()
    ids = np.random.default_rng(0).integers(0, GEOMETRY.vocab, (1, SEQ))
    out = engine.run("embedding", {"input_ids": ids})
    np.testing.assert_array_equal(out["embedding"], table[ids])


def test_float_inputs_are_rounded_as_the_chip_rounds(engine: Engine) -> None:
    hidden = np.random.default_rng(0).standard_normal((1, GEOMETRY.hidden))
    rounded = from_storage(to_storage(hidden, graphs.BFLOAT16), graphs.BFLOAT16)
    a, b = (engine.run("lm_head", {"hidden_states": x})["m_logits"] for x in (hidden, rounded))
    np.testing.assert_array_equal(a, b)
    assert engine.run("greedy_head", {"m_logits": a})["token_id"].tolist() == [[int(a.argmax())]]


@pytest.mark.parametrize(
    ("net", "inputs", "message"),
    [
        ("lm_heap", {}, "no net 'lm_heap'"),
        ("lm_head", {}, "'hidden_states' is missing"),
        ("lm_head", {"hidden_states": np.zeros((1, 129))}, "is not"),
        ("embedding_cache", {"input_ids": np.array([[500]])}, "value 500 is out of range; use 0 to 499"),
        ("embedding_cache", {"input_ids": np.array([[0.0]])}, "does not fit int32"),
    ],
)
def test_bad_input_is_refused_and_the_engine_goes_on(
    engine: Engine, net: str, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        engine.run(net, inputs)
    assert engine.run("embedding_cache", {"input_ids": np.array([[499]])})["embedding_cache"].shape == (1, 1, 128)


def test_wrong_chip_and_device_are_refused(logits_folder: Path) -> None:
    with pytest.raises(UserError, match="built for bm1684x, not bm1688"):
        Engine(bmodel_in(logits_folder), "bm1688")
    with pytest.raises(UserError, match="no device 7; count from 0; 1 here"):
        Engine(bmodel_in(logits_folder), "bm1684x", device=7)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_worker_is_an_error_and_no_hang(logits_folder: Path, number: signal.Signals) -> None:
    with Engine(bmodel_in(logits_folder), "bm1684x") as engine:
        session = engine.session()
        threading.Timer(0.1, os.kill, (engine._process.pid, number)).start()
        with pytest.raises(EngineDied, match=number.name) as died:
            _repeat(session.prefill, PROMPT)
        began = time.monotonic()
        for call in (lambda: session.decode(1), lambda: session.prefill(PROMPT), engine.session):
            with pytest.raises((EngineDied, ValueError)):
                call()
        session.close()
    assert time.monotonic() - began < 2
    assert died.value.log.is_file()
    assert "cmodel init" in str(died.value)
    died.value.log.unlink()


def test_a_description_that_kills_the_library_is_an_error(
    logits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device address in the description, which no check can judge, made absurd."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for the log that stays
    path = Path(shutil.copy(bmodel_in(logits_folder), tmp_path))
    content = bytearray(path.read_bytes())
    described, _ = bmodel_file._description(path)
    model = READER.read(described, "Model")
    tensor = next(n for n in model["net"] if n["name"] == "block_cache_0")["parameter"][0]["output_tensor"][0]
    address = tensor["device_addr"].to_bytes(8, "little")
    at = 64
    while (at := content.find(address, at, 64 + len(described))) >= 0:
        content[at : at + 8] = (2**63 + 5).to_bytes(8, "little")
        at += 8
    path.write_bytes(content)
    bmodel_file.read(path)  # nothing to see from outside
    with pytest.raises(EngineError), Engine(path, "bm1684x") as engine, engine.session() as session:
        _repeat(session.decode, session.prefill(PROMPT).token)


def test_an_interrupted_call_leaves_the_engine_usable(engine: Engine) -> None:
    with engine.session() as session:
        whole = session.prefill(PROMPT)
        threading.Timer(0.02, _thread.interrupt_main).start()
        with pytest.raises(KeyboardInterrupt):
            _repeat(session.prefill, PROMPT[:2])
        with pytest.raises(ValueError, match="prefill before decode"):
            session.decode(1)
        again = session.prefill(PROMPT)
    assert again.token == whole.token
    np.testing.assert_array_equal(again.logits, whole.logits)


def test_a_closed_engine_leaves_no_log_and_no_process(logits_folder: Path) -> None:
    engine = Engine(bmodel_in(logits_folder), "bm1684x")
    engine.session()
    engine.close()
    engine.close()
    assert engine._process.returncode == 0
    assert not engine._log.exists()


def test_the_worker_ends_with_its_parent(logits_folder: Path) -> None:
    engine = Engine(bmodel_in(logits_folder), "bm1684x")
    engine._outbox.close()  # what the kernel does for a parent that was killed
    assert engine._process.wait(10) == 0
    engine.close()


def test_the_log_does_not_grow_for_ever(engine: Engine) -> None:
    for _ in range(20):
        engine.run("embedding_cache", {"input_ids": np.array([[1]])})
    assert engine._log.stat().st_size < 2 << 20


def test_an_idle_engine_leaves_the_cores_alone(engine: Engine) -> None:
    """Without the naps of yield.c the simulator's threads spin, on every core there is."""

    def seconds() -> float:
        fields = Path(f"/proc/{engine._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    engine.run("embedding_cache", {"input_ids": np.array([[1]])})
    time.sleep(0.3)
    before = seconds()
    time.sleep(1)
    assert seconds() - before < 0.2


def test_threads_take_turns(engine: Engine) -> None:
    def answer(prompt: list[int]) -> list[int]:
        with engine.session() as session:
            tokens = [session.prefill(prompt).token]
            for _ in range(4):
                tokens.append(session.decode(tokens[-1]).token)
            return tokens

    prompts = [PROMPT, [400, 3, 17]]
    alone = [answer(p) for p in prompts]
    results: dict[int, list[int]] = {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: answer(prompts[i])})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [results[0], results[1]] == alone
