"""What the steps of a build are called, and which of their files are whose."""

from __future__ import annotations

from pathlib import Path

from contract import graphs

NORMALISE = Path(__file__).with_name("normalise.py")


def group_of(net: graphs.GraphSpec) -> str:
    """The nets that share a weight file: embedding, head, vit or layer_<i>."""
    if net.layer is not None:
        return f"layer_{net.layer}"
    if net.kind in (graphs.VIT, graphs.ADD):
        return graphs.VIT
    return "embedding" if net.kind in (graphs.EMBEDDING, graphs.EMBEDDING_CACHE) else "head"


def is_joined(group: str) -> bool:
    """Whether the nets of a group have the same weights, which one bmodel of them then stores once."""
    return group not in ("head", graphs.VIT)


def is_weightless(net: graphs.GraphSpec) -> bool:
    """Whether it only works on what another net of its group gives."""
    return net.kind in (graphs.GREEDY_HEAD, graphs.SAMPLE_HEAD, graphs.ADD)


def passing(net: graphs.GraphSpec) -> tuple[str, ...]:
    """The outputs of a net's step that nobody reads but what combines them."""
    return (f"{net.name}.bmodel",)


def bmodel_file(net: graphs.GraphSpec) -> str:
    """The bmodel that a net is combined from, in the folder of the steps."""
    group = group_of(net)
    return f"{join_step(group)}/{group}.bmodel" if is_joined(group) else f"{net.name}/{net.name}.bmodel"


def bind_step(group: str) -> str:
    return f"bind.{group}"


def join_step(group: str) -> str:
    return f"join.{group}"


def template_step(*words: str | int) -> str:
    """`words`: the kind of net, and of nets of a layer the layer's kind."""
    return ".".join(map(str, ("transform", *words)))


def normalise(bmodel: str) -> tuple[str, ...]:
    """The command that takes out of a bmodel what differs between two runs."""
    return ("python3", "-I", str(NORMALISE), bmodel)
