"""Nets that people have, small: by name, how each is made and its inputs."""

from support.zoo.attention import ATTENTION
from support.zoo.dense_outputs import DENSE_OUTPUTS
from support.zoo.entry import Entry
from support.zoo.graphs import GRAPHS
from support.zoo.hugging_face import HUGGING_FACE
from support.zoo.images import IMAGES
from support.zoo.layers import LAYERS
from support.zoo.others import OTHERS
from support.zoo.sequences import SEQUENCES

__all__ = ["HUGGING_FACE", "SLICE", "ZOO", "Entry"]

ZOO: dict[str, Entry] = {
    **LAYERS,
    **IMAGES,
    **ATTENTION,
    **DENSE_OUTPUTS,
    **SEQUENCES,
    **GRAPHS,
    **OTHERS,
    **HUGGING_FACE,
}

SLICE = (
    *("Linear", "Conv2d", "LSTM", "MultiheadAttention", "ResNet basic", "CBAM", "TCN", "DQN", "GCN", "VAE"),
    *("LoRA", "forces", "tied autoencoder"),
)
"""A few small ones, for every run of the tests."""
