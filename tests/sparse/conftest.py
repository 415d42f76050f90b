"""What the tests of the sparse half share: random masks, and the masked dense net that everything is held against."""

import copy

import pytest
import torch

from bayesprune.layout import layout_of
from bayesprune.patterns import Unstructured


@pytest.fixture(autouse=True)
def _same_numbers_on_one_thread():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small products on a busy machine: more threads mostly wait for each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def random_masks():
    """``random_masks(net, keep=0.1, pattern=…, names=…)``: a mask for each matrix of the net."""

    def make(net, keep=0.1, pattern=None, names=None):
        pattern = pattern or Unstructured()
        names = names or [n for n, p in net.named_parameters() if p.dim() > 1]
        layouts = {name: layout_of(net, name) for name in names}
        return {n: pattern.expand(torch.rand(pattern.groups(at)) < keep, at).clone() for n, at in layouts.items()}

    return make


@pytest.fixture
def masked_dense():
    """``masked_dense(net, masks, means)``: the obvious answer, by plain multiplication."""

    def make(net, masks, means=None):
        dense = copy.deepcopy(net).eval()
        with torch.no_grad():
            for name, value in (means or {}).items():
                target = dict(dense.named_parameters(remove_duplicate=False)) | dict(dense.named_buffers())
                target[name].copy_(value)
            for name, mask in masks.items():
                dense.get_parameter(name).mul_(mask)
        return dense

    return make
