"""The serving core and the extras: what each brings, and what is said where one is missing."""

from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.installed import PROJECT, brought_by, with_only

import bayesprune as bp
from bayesprune._extras import EXTRA_OF

CORE = brought_by(*PROJECT["dependencies"])
NAMED = {  # where a module is not called as the package that brings it
    "PIL": "pillow",
    "pyro": "pyro-ppl",
    "sklearn": "scikit-learn",
    "tomli_w": "tomli-w",
}


def in_the_core(code: str) -> str:
    done = with_only(CORE, code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_is_eight_packages_beside_torchs_own() -> None:
    assert len(CORE - brought_by("torch")) <= 8, sorted(CORE - brought_by("torch"))


@pytest.mark.parametrize(("module", "extra"), EXTRA_OF.items())
def test_an_extra_brings_what_it_is_named_for(module: str, extra: str) -> None:
    mine = {canonicalize_name(Requirement(text).name) for text in PROJECT["optional-dependencies"][extra]}
    assert canonicalize_name(NAMED.get(module, module)) in mine


def test_all_is_what_every_command_needs() -> None:
    extras = PROJECT["optional-dependencies"]
    assert Requirement(extras["all"][0]).extras == {"fit", "plots", "arviz", "cli"}
    assert extras["compress"][0] in extras["all"][1]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A packed net in a file, and what it gives for rows of ones."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    masks = {"0.weight": torch.rand(64, 64) < 0.1}
    sparse = bp.export(net, {}, masks, example=torch.ones(4, 64), formats={"0.weight": bp.CSR()})
    file = tmp_path_factory.mktemp("packed") / "model.safetensors"
    bp.save(sparse, file)
    with torch.no_grad():
        return file, sparse(torch.ones(4, 64))


def test_the_core_serves_a_packed_net(packed: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    file, expected = packed
    out = tmp_path / "y.pt"
    code = f"""
import torch, bayesprune as bp
with torch.no_grad():
    y = bp.load({str(file)!r})(torch.ones(4, 64))
    assert torch.equal(bp.from_pretrained({str(file.parent)!r})(torch.ones(4, 64)), y)
    torch.save(y, {str(out)!r})
"""
    assert in_the_core(code) == ""
    assert torch.equal(torch.load(out, weights_only=True), expected)


def test_the_core_plans_exports_and_saves(tmp_path: Path) -> None:
    code = f"""
import torch, bayesprune as bp
net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
masks = {{"0.weight": torch.rand(64, 64) < 0.1}}
plan = bp.plan(net, masks, example=torch.ones(4, 64))
bp.save(bp.export(net, {{}}, masks, example=torch.ones(4, 64), plan=plan), {str(tmp_path / "m")!r})
print(plan)
"""
    assert "0.weight" in in_the_core(code)
    assert bp.load(tmp_path / "m")(torch.ones(4, 64)).shape == (4, 8)


TOLD = {
    "bp.fit": 'bayesprune.fit needs the package pyro: pip install "bayesprune[fit]"',
    "from bayesprune import masks": 'bayesprune.masks needs the package pyro: pip install "bayesprune[fit]"',
    "bp.plots": 'bayesprune.plots needs the package matplotlib: pip install "bayesprune[plots]"',
    "bp.loo": 'bayesprune.loo needs the package arviz: pip install "bayesprune[arviz]"',
    "bp.data.digits()": 'bayesprune.data.digits needs the package sklearn: pip install "bayesprune[fit]"',
    "bp.to_onnx(nn.Linear(3, 2), 'never', None)": (
        'bayesprune.to_onnx needs the package onnxruntime: pip install "bayesprune[onnx]"'
    ),
    "bp.from_pretrained('me/net')": (
        'bayesprune.from_pretrained needs the package huggingface_hub: pip install "bayesprune[hub]"'
    ),
    "bp.save(nn.Linear(3, 2), 'never', compress=True)": (
        'a compressed file needs the package constriction: pip install "bayesprune[compress]"'
    ),
}


def test_a_name_that_needs_an_extra_says_which() -> None:
    code = f"""
from torch import nn
import bayesprune as bp
import bayesprune.data
for use in {list(TOLD)}:
    try:
        exec(use)
    except ImportError as error:
        print(error)
"""
    assert in_the_core(code).splitlines() == list(TOLD.values())


def test_the_command_without_its_packages_says_which_extra() -> None:
    done = with_only(CORE, "import runpy; runpy.run_module('bayesprune', run_name='__main__')")
    assert done.returncode == 1
    assert done.stderr == 'bayesprune: the command line needs the package typer: pip install "bayesprune[cli]"\n'


def test_a_report_without_the_coder_leaves_out_what_it_would_have_said() -> None:
    rest = brought_by("bayesprune[fit]") - {"constriction"}
    code = """
import torch, bayesprune as bp
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 3))
bnet = bp.BayesianNet(net, {"0.weight": bp.SparseVD()})
bp.classify(bnet, 12)
test = DataLoader(TensorDataset(torch.randn(12, 4), torch.arange(12) % 3), batch_size=6)
report = bp.report(bnet, bp.masks(bnet, keep=0.5), test, draws=2)
print(report.sizes[-1].compressed, "the whole net" in str(report))
"""
    done = with_only(rest, code)
    assert done.stdout == "None True\n", done.stderr
