"""Stand-ins for packages that modeling code imports at its top, and that no net needs: used where they are missing."""

from __future__ import annotations

from patches.stand_in import StandIn, attribute, constant, function, group, placeholder

_AUDIO = "for what MiniCPM-o hears and says, of which no net is made"

# Those after which transformers looks itself.
ASKED_FOR = ("librosa", "soundfile", "timm", "torchvision", "torchvision_v2")
PACKAGES: tuple[StandIn, ...] = (
    *group(
        "timm.models.layers",
        "for InternViT's stochastic depth, which is for training; else it does nothing",
        DropPath=attribute("torch.nn", "Identity"),
    ),
    *group(
        "torchvision",
        "imported by MiniCPM-V's file and not used; its wheels are for other builds of torch",
        transforms=constant(None),
    ),
    *group(
        "transformers_stream_generator",
        "the package breaks on transformers >= 4.57; for chat_stream(), which an export never calls",
        init_stream_support=function(None),
    ),
    *group(
        "transformers_stream_generator.main",
        "as above",
        NewGenerationMixin=placeholder("NewGenerationMixin"),
        StreamGenerationConfig=placeholder("StreamGenerationConfig"),
    ),
    *group("librosa", _AUDIO, load=function(None)),
    *group("soundfile", _AUDIO, write=function(None)),
)
