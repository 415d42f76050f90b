"""Shapes and types in signatures are checked while testing, and free in use."""

import torch
from jaxtyping import install_import_hook

install_import_hook("bayesprune", "typechecker.check")
torch.set_num_threads(1)  # the tensors are small: more threads wait for each other
