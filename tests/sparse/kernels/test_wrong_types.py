"""Arguments of another type get a ValueError that says so, in a process where no type is checked beforehand."""

import json
import subprocess
import sys

CASES = {
    "bp.compact(net, {}, {}, example=x, skip=3)": "skip must be globs over module paths, got 3",
    "bp.compact(net, {}, {}, example=x, skip=[3])": "skip must be globs over module paths, got [3]",
    "bp.compact(None, {}, {}, example=x)": "net must be an nn.Module, got NoneType",
    "bp.export(None, {}, {}, example=x, variances={})": "net must be an nn.Module, got NoneType",
    "bp.export(net, {}, {}, example=x, variances=x)": "variances must be a dict of name -> tensor, got Tensor",
    "bp.export(net, {}, {}, example=x, plan=3)": "plan is what bayesprune.plan made, got int",
    "bp.export(net, {}, {}, example=x, formats=[bp.CSR()])": "formats must be a dict of glob -> format, got list",
    "bp.export(net, {}, {}, example=x, compact=True, bits='8')": "got '8'",
    "bp.save(net, 'm', compress='yes')": "compress is True, False or bp.Codebook(levels=…), got 'yes'",
    "bp.load('m', net=torch.nn.Linear)": "net is the skeleton, an nn.Module, got <class",
    "bp.bit_widths(net, {})": "expected a BayesianNet, got Linear",
    "bp.bit_widths(bnet, None)": "masks must be a dict of name -> bool tensor, got NoneType",
    "bp.bit_widths(bnet, {'weight': None})": "must be bool of shape (2, 3), got NoneType",
}
SCRIPT = """
import json, sys, torch
import bayesprune as bp
net, x, told = torch.nn.Linear(3, 2), torch.ones(1, 3), {}
bnet = bp.BayesianNet(net, {"weight": bp.SparseVD()})
for case in json.load(sys.stdin):
    try:
        told[case] = repr(eval(case))
    except ValueError as error:
        told[case] = str(error)
print(json.dumps(told))
"""


def test_wrong_types_are_told():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(list(CASES)), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {case: says for case, says in CASES.items() if says not in told[case]} == {}, told
