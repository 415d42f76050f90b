"""The state of a fit in plain values and tensors, and the way back: net, optimiser by parameter name, random states."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayesprune._state_dicts import is_unset
from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["misfits", "optimizer_state", "random_states", "set_optimizer_state", "set_random_states"]


def optimizer_state(optimizer: torch.optim.Optimizer, net: nn.Module) -> dict[str, Any]:
    """What an optimiser remembers, by parameter name, and the options of its groups."""
    names = _names(optimizer, net)
    memory = {names[id(p)]: dict(state) for p, state in optimizer.state.items()}
    groups = [{**group, "params": [names[id(p)] for p in group["params"]]} for group in optimizer.param_groups]
    return {"memory": memory, "groups": groups}


def set_optimizer_state(optimizer: torch.optim.Optimizer, net: nn.Module, state: Mapping[str, Any]) -> None:
    """From :func:`optimizer_state`."""
    names = _names(optimizer, net)
    order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    number = {name: i for i, name in enumerate(order)}
    groups = [{**group, "params": [number[name] for name in group["params"]]} for group in state["groups"]]
    optimizer.load_state_dict({"state": {number[n]: m for n, m in state["memory"].items()}, "param_groups": groups})


def misfits(net: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> list[str]:
    """What of a saved ``net`` and ``optimizer`` does not fit the ones at hand, in words; nothing is changed."""
    there, saved = _shapes(net.state_dict()), _shapes(state["net"])
    for path, module in net.named_modules(remove_duplicate=False):
        if isinstance(module, BayesianNet):  # what a forward makes may be there or not
            of_it = f"{path}._rest.".lstrip(".")
            for shapes in (there, saved):
                made = [n for n in shapes if n.startswith(of_it) and is_unset(module.net, n.removeprefix(of_it))]
                for name in made:
                    del shapes[name]
    apart = [
        f"{name} was {saved.get(name, 'not there')} and is {there.get(name, 'not there')}"
        for name in {**saved, **there}
        if saved.get(name) != there.get(name)
    ]
    names = _names(optimizer, net)
    groups = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    if groups != [group["params"] for group in state["optimizer"]["groups"]]:
        apart.append("the optimiser has other groups of parameters")
    if set(state["optimizer"]["memory"]) - {name for group in groups for name in group}:
        apart.append("the optimiser remembers parameters that are not there")
    return apart


def random_states(generators: Mapping[str, torch.Generator]) -> dict[str, Any]:
    """The states of torch's, NumPy's and Python's global generators and of ``generators``."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "python": random.getstate(),
        "loader": {where: generator.get_state() for where, generator in generators.items()},
    }


def set_random_states(generators: Mapping[str, torch.Generator], state: Mapping[str, Any]) -> None:
    """From :func:`random_states`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    for where, generator in generators.items():
        generator.set_state(state["loader"][where])


def _names(optimizer: torch.optim.Optimizer, net: nn.Module) -> dict[int, str]:
    names = {id(p): name for name, p in net.named_parameters()}
    for i, group in enumerate(optimizer.param_groups):
        for j, p in enumerate(group["params"]):
            names.setdefault(id(p), f"{i}.{j}")
    return names


def _shapes(state: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{value.dtype} of shape {tuple(value.shape)}"
        for name, value in state.items()
        if isinstance(value, Tensor) and not name.endswith("_extra_state")
    }
