"""Run by itself, with torchvision on PYTHONPATH: what Hugging Face's own processor makes of a conversation.

torchvision's wheel is built for CUDA, and its compiled half cannot load beside a CPU build of torch; the transforms
need only that two of its operators are known by name. Arguments: a checkpoint, a pickle of what `asked` takes, and
where the outcome goes.
"""

import pickle
import sys
from pathlib import Path

import torch

LIBRARY = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    LIBRARY.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")


def asked(folder, messages, images, videos, metadata, sizes, sample):
    from transformers import AutoImageProcessor, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    if sample:
        return [processor.video_processor.sample_frames(**row, metadata=meta).tolist() for row, meta in sample]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    images_size, videos_size = sizes
    made = processor(
        text=[text],
        images=images or None,
        videos=videos or None,
        images_kwargs={"size": images_size} if images_size else {},
        videos_kwargs={"video_metadata": metadata, "do_sample_frames": False}
        | ({"size": videos_size} if videos_size else {}),
    )
    return {key: value.numpy() if hasattr(value, "numpy") else value for key, value in made.items()}


if __name__ == "__main__":
    given = pickle.loads(Path(sys.argv[2]).read_bytes())
    Path(sys.argv[3]).write_bytes(pickle.dumps([asked(sys.argv[1], **question) for question in given]))
