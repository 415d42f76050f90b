"""Forged files: parts of a real one, changed, with right checksums."""

import hashlib
import json
import struct

import torch
from safetensors.torch import load as read
from safetensors.torch import save as write


def parts(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    return json.loads(metadata["bayesprune"]), read(data)


def forge(path, manifest, tensors, sums=True):
    """Write the file anew; with ``sums`` every checksum is right again."""
    if sums:
        manifest["buffers"] = {
            name: [str(x.dtype)[6:], list(x.shape), hashlib.sha256(x.reshape(-1).view(torch.uint8).numpy()).hexdigest()]
            for name, x in tensors.items()
        }
    text = json.dumps(manifest)
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.write_bytes(write(tensors, {"bayesprune": text, "bayesprune.sha256": digest}))


def set_at(tree, *keys_and_value):
    *keys, last, value = keys_and_value
    for key in keys:
        tree = tree[key]
    tree[last] = value


ODD = (None, 0, -1, 2**63, 10**30, True, "", "a", "Linear", [], {}, [10**12, 10**12], [0, 10**30], 1.5, "csr", "bsr")


def places(tree, path=()):
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        yield (*path, key)
        if isinstance(tree[key], dict | list):
            yield from places(tree[key], (*path, key))
