"""Runs exported files as somebody without lwexplain does: ``stranger.py FILE IMAGES.npy RESULT.npz``.

FILE is a network (.onnx, .pt2) or the JSON of a network with early exits. IMAGES are float32 (N, C, H, W) in [0, 1].
The result holds ``logits`` (N, K), the exit ``places`` (N,) each image left at, and ``metadata`` as JSON text.
"""

import json
import sys
from pathlib import Path

import numpy as np


class Absent:
    """An import of lwexplain fails, though the package is installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lwexplain":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return None


def open_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return (
        lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True))),
        session.get_modelmeta().custom_metadata_map,
    )


def open_pt2(path):
    import torch

    extra = {"metadata.json": ""}
    module = torch.export.load(path, extra_files=extra).module()

    def run(*arrays):
        outputs = module(*(torch.from_numpy(array) for array in arrays))
        outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        return [output.detach().numpy() for output in outputs]

    return run, json.loads(extra["metadata.json"])


def open_file(path):
    return open_onnx(path) if path.suffix == ".onnx" else open_pt2(path)


def largest_probability(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)


def run_with_exits(index_file, images):
    """Image by image: on to the next file until one is sure enough."""
    exits = json.loads(index_file.read_text())["exits"]
    segments = [open_file(index_file.parent / exit_["file"])[0] for exit_ in exits]
    logits, places = [], []
    for image in images:
        place, (scores, *state) = 0, segments[0](image[None])
        while largest_probability(scores)[0] < exits[place]["threshold"]:
            place += 1
            scores, *state = segments[place](*state)
        logits.append(scores[0])
        places.append(place)
    return np.stack(logits), np.array(places)


def main():
    file, images, result = map(Path, sys.argv[1:])
    sys.meta_path.insert(0, Absent())
    images = np.load(images)
    if file.suffix == ".json":
        logits, places = run_with_exits(file, images)
        metadata = {}
    else:
        run, metadata = open_file(file)
        (logits,) = run(images)
        places = np.zeros(len(images), dtype=np.int64)
    assert not [name for name in sys.modules if name.partition(".")[0] == "lwexplain"]
    np.savez(result, logits=logits, places=places, metadata=json.dumps(metadata))


if __name__ == "__main__":
    main()
