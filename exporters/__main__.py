"""The exporter's steps as commands, run by a plan in the exporter's environment."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from contract.errors import UserError
from contract.graphs import HALVES
from exporters import vision


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        _COMMANDS[args.command](args)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m exporters", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    trace = commands.add_parser("trace", help="skeletons of every distinct net, without weights")
    trace.add_argument("--sample", action="store_true", help="logits out of lm_head, and nets that choose from them")
    trace.add_argument("--devices", type=int, default=1)
    bind = commands.add_parser("bind", help="the finished ONNX of one group of nets")
    bind.add_argument("--skeletons", type=Path, required=True)
    bind.add_argument("--group", required=True, help="embedding, head or layer_<i>")
    bind.add_argument("--grids", action="store_true", help="write down the grids of quantised weights as well")
    table = commands.add_parser("table", help="the embedding as a file that the host looks up")
    table.add_argument("--half", choices=HALVES, required=True, help="type of its values")
    positions = commands.add_parser("positions", help="learned positions of a tower as a file that the host reads")
    parity = commands.add_parser("parity", help="Hugging Face against patched torch against ONNX Runtime")
    parity.add_argument("--graphs", type=Path, required=True, help="folder that holds the trace step's folder")
    parity.add_argument("--devices", type=int, default=1)
    parity.add_argument("--prompt", required=True)
    parity.add_argument("--positions", type=int, required=True)
    parity.add_argument("--norm-in-layer", action="store_true", help="references for nets of llm_convert")
    for command in (trace, parity):
        command.add_argument("--seq-length", type=int, required=True)
        command.add_argument("--input-length", type=int, default=0, help="positions of a prefill net; 0: all")
        command.add_argument("--history", action="store_true", help="nets that prefill over an earlier KV cache")
        command.add_argument("--batch", type=int, default=1, help="conversations of a decode step")
        command.add_argument("--lora", type=int, default=0, help="rank of adapters that the nets take; 0: none")
        command.add_argument("--host-embedding", action="store_true", help="no nets for the embedding")
        command.add_argument("--trust-remote-code", action="store_true")
        command.add_argument("--max-pixels", type=vision.size, metavar="HEIGHT,WIDTH", help="the largest picture")
    for command in (bind, table, parity):
        command.add_argument("--adapter", type=Path, help="folder of a LoRA adapter to merge")
    for command in (trace, bind, table, positions, parity):
        command.add_argument("--model", type=Path, required=True, help="Hugging Face directory")
        command.add_argument("--out", type=Path, default=Path("."))
    return parser


def _trace(args: argparse.Namespace) -> None:
    from exporters.model import Decoder
    from exporters.trace import trace_decoder

    # Only TopK is split over devices; on one device ArgMax is the cheaper of the two.
    fused_head = "argmax" if args.devices == 1 else "topk"
    top1 = None if args.sample else fused_head
    decoder = Decoder(args.model, args.devices, args.trust_remote_code, rank=args.lora)
    forms = (args.input_length, args.history, args.max_pixels, args.host_embedding, args.batch)
    trace_decoder(decoder, args.seq_length, top1, args.out, *forms)


def _bind(args: argparse.Namespace) -> None:
    from exporters.bind import bind
    from exporters.checkpoint import Checkpoint

    bind(Checkpoint(args.model, args.adapter), args.skeletons, args.group, args.out, args.grids)


def _table(args: argparse.Namespace) -> None:
    from exporters import spec, table
    from exporters.checkpoint import Checkpoint

    table.write(Checkpoint(args.model, args.adapter), spec.read(args.model), args.half, args.out)


def _positions(args: argparse.Namespace) -> None:
    from exporters import spec, table
    from exporters.checkpoint import Checkpoint

    table.write_positions(Checkpoint(args.model), spec.read(args.model), args.out)


def _parity(args: argparse.Namespace) -> None:
    from exporters.model import Decoder
    from exporters.parity import climb

    decoder = Decoder(args.model, args.devices, args.trust_remote_code, args.adapter, args.lora)
    forms = (args.input_length, args.history, args.max_pixels, args.host_embedding, args.batch)
    climb(decoder, args.graphs, args.seq_length, args.prompt, args.positions, args.out, *forms)
    if args.norm_in_layer:
        from exporters import normed

        normed.apply(decoder, args.out / "reference")


_COMMANDS = {"trace": _trace, "bind": _bind, "table": _table, "positions": _positions, "parity": _parity}

if __name__ == "__main__":
    sys.exit(main())
