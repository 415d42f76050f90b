"""The benchmark of smaller nets: its masks take what they say, its numbers are of what it made."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from support.compact_nets import architectures

PATH = Path(architectures.__file__).with_name("compact.py")
benchmark = runpy.run_path(str(PATH))


@pytest.mark.parametrize("name", benchmark["CASES"])
def test_each_decision_is_about_weights_of_the_net_and_none_is_taken_twice(name):
    case = benchmark["CASES"][name]
    with torch.device("meta"):
        net = case.make()
    found = list(benchmark["decisions"](net, case))
    names = [weight for weights, _ in found for weight in weights]
    assert len(set(names)) == len(names) > 0
    assert all(net.get_parameter(weight).shape[0] % count == 0 for weights, count in found for weight in weights)


def test_its_table_is_of_smaller_nets(monkeypatch, capsys):
    words = "--net", "nn.TransformerEncoder, 128 tokens of 256", "--gone", "0.5", "--batch", "1", "--budget", "0.02"
    monkeypatch.setattr(sys, "argv", ["compact.py", *words, "--no-runtime", "--json"])
    benchmark["main"]()
    (found,) = json.loads(capsys.readouterr().out)["nets"]
    flops, weights = found["flops"], found["weights"]
    products = 2 * 128 * 4 * (4 * 256 * 256 + 2 * 256 * 1024) + 4 * 4 * 128 * 128 * 256
    assert flops == [products, products // 2]
    assert weights[1] < 0.51 * weights[0] and found["apart"] < 1e-5
    assert found["seconds"].keys() == {"dense", "compact"}
