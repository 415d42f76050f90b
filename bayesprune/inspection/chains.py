"""Draws dealt out to chains, and names as one likes them: what is done to finished groups."""

from collections.abc import Mapping

import xarray as xr

__all__ = ["in_chains", "renamed"]


def in_chains(dataset: xr.Dataset, chains: int) -> xr.Dataset:
    """The draws of one chain as those of several, one after the other."""
    if chains == 1 or "chain" not in dataset.dims:
        return dataset
    draws = dataset.sizes["draw"] // chains
    variables = {
        name: (v.dims, v.values.reshape(chains, draws, *v.shape[2:]), v.attrs) for name, v in dataset.data_vars.items()
    }
    kept = {name: at for name, at in dataset.coords.items() if name not in ("chain", "draw")}
    return xr.Dataset(variables, {"chain": range(chains), "draw": range(draws), **kept}, dataset.attrs)


def renamed(groups: Mapping[str, xr.Dataset], separator: str) -> dict[str, xr.Dataset]:
    """The groups with ``separator`` in the place of the dots in the names of variables and axes.

    Raises:
        ValueError: two names would become one.
    """
    found = {}
    for group, dataset in groups.items():
        names = {str(name) for name in (*dataset.variables, *dataset.dims)}
        new = {name: name.replace(".", separator) for name in sorted(names)}
        for name in new:
            if twins := [other for other in new if other < name and new[other] == new[name]]:
                raise ValueError(f"separator={separator!r} makes one name of {twins[0]!r} and {name!r}: give another")
        found[group] = dataset.rename({old: name for old, name in new.items() if old != name})
    return found
