"""Files of nets whose layers and attentions were made smaller: they come back, and forged sizes do not."""

import contextlib
import copy
import random
import subprocess
import sys
import warnings

import pytest
import torch
from support.forging import ODD, forge, parts, places, set_at
from torch import nn

from bayesprune import nets
from bayesprune.sparse import BSR, FileError, export, load, save
from bayesprune.sparse.layers.attention import SparseAttention
from bayesprune.sparse.layers.sizes import refit
from bayesprune.sparse.saving.contents import contents
from bayesprune.sparse.surgery.surgery import Surgery


def narrowed(before, after, keep):
    """Both linear layers with ``keep`` features between them."""
    refit(before, {"weight": before.weight[:keep], "bias": before.bias[:keep]})
    refit(after, {"weight": after.weight[:, :keep]})


def convolutions():
    """Depthwise, grouped and plain convolutions, batch norms, a bias where there was none; four of eight channels."""
    whole = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, groups=2)),
        *(nn.Flatten(), nn.Linear(32, 5)),
    ).eval()
    net = copy.deepcopy(whole)
    keep = torch.tensor([0, 2, 4, 5])
    refit(net[0], {"weight": net[0].weight[keep], "bias": torch.randn(4)})
    for norm in (net[1], net[4]):
        refit(norm, {n: getattr(norm, n)[keep] for n in ("weight", "bias", "running_mean", "running_var")})
    refit(net[3], {"weight": net[3].weight[keep], "bias": net[3].bias[keep]}, groups=4)
    refit(net[5], {"weight": net[5].weight[:, [0, 2]]})
    return whole, net, torch.randn(2, 3, 6, 6)


def encoder():
    """An encoder whose layers differ in their heads and in their width."""
    layer = nn.TransformerEncoderLayer(12, 4, 24, batch_first=True, norm_first=True, activation="gelu")
    whole = nn.TransformerEncoder(layer, 3, nn.LayerNorm(12), enable_nested_tensor=False).eval()
    net = copy.deepcopy(whole)
    net = Surgery(composites={"layers.0.self_attn": False, "layers.1.self_attn": True}).apply(net)
    for at, (heads, width) in enumerate([([0, 1, 3], 9), ([2], 24)]):
        block = net.layers[at]
        block.self_attn.keep_heads(heads)
        narrowed(block.linear1, block.linear2, width)
    narrowed(net.layers[2].linear1, net.layers[2].linear2, 5)
    return whole, net, torch.randn(2, 5, 12)


def transformer():
    """Of a class of ours: it needs its skeleton."""
    whole = nets.vit(image=16, dim=12, depth=2, heads=4).eval()
    net = copy.deepcopy(whole)
    block = net.blocks[1]
    block.attention = SparseAttention(block.attention)
    block.attention.keep_heads([1, 2])
    narrowed(block.fc1, block.fc2, 7)
    return whole, net, torch.randn(2, 3, 16, 16)


MADE = {made.__name__: made for made in (convolutions, encoder, transformer)}


def packed(net, x, keep=0.4):
    """Exported with masks on what it has left."""
    masks = {n: torch.rand_like(p) < keep for n, p in net.named_parameters() if p.dim() > 1 and n.endswith("weight")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export(net, {}, masks, example=x, formats={"*": BSR(1, 1)})


@pytest.mark.parametrize("as_packed", [False, True])
@pytest.mark.parametrize("made", MADE)
def test_it_comes_back_bit_for_bit_and_can_be_saved_again(made, as_packed, tmp_path):
    torch.manual_seed(0)
    whole, net, x = MADE[made]()
    net = packed(net, x) if as_packed else net
    path, second, y = tmp_path / "m.safetensors", tmp_path / "2.safetensors", net(x)
    save(net, path)
    skeleton = whole if made == "transformer" else None
    before = copy.deepcopy(whole.state_dict())
    loaded = load(path, net=skeleton)
    assert torch.equal(loaded(x), y)
    assert repr(loaded) == repr(net)
    assert torch.equal(load(path, net=whole)(x), y)  # a skeleton will always do
    assert all(torch.equal(whole.state_dict()[name], value) for name, value in before.items())
    save(loaded, second)
    assert torch.equal(load(second, net=skeleton)(x), y)
    smaller = contents(path)["smaller"]
    assert smaller and all(was != now for changes in smaller.values() for was, now in changes.values())


def test_a_fresh_process_needs_the_file_alone(tmp_path):
    _, net, x = encoder()
    save(net, tmp_path / "m.safetensors")
    torch.save((x, net(x)), tmp_path / "xy.pt")
    code = (
        "import torch, bayesprune as bp; torch.set_num_threads(1); x, y = torch.load('xy.pt'); "
        "net = bp.load('m.safetensors'); assert torch.equal(net(x), y), (net(x) - y).abs().max()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("made", "skeleton", "told"),
    [
        (
            "convolutions",
            lambda: convolutions()[1],
            "'0' cannot be made smaller: Conv2d has out_channels=4, and was 8 before",
        ),
        ("transformer", lambda: nets.vit(image=16, dim=12, depth=2, heads=3), "has num_heads=3, and was 4 before"),
        ("transformer", lambda: nets.vit(image=16, dim=16, depth=2, heads=4), "in_features=16, and was 12|features"),
    ],
)
def test_a_skeleton_of_another_size_is_refused(made, skeleton, told, tmp_path):
    save(MADE[made]()[1], tmp_path / "m.safetensors")
    with pytest.raises(FileError, match=told):
        load(tmp_path / "m.safetensors", net=skeleton())


def test_a_compacted_net_is_refused_as_the_skeleton(tmp_path):
    _, net, _ = transformer()
    save(net, tmp_path / "m.safetensors")
    with pytest.raises(FileError, match=r"does not fit the net: .* cannot be taken apart: .* is SparseAttention"):
        load(tmp_path / "m.safetensors", net=net)


HUGE = 10**9
FORGED = [
    (("0", "out_channels", [HUGE, 4]), r"'0' cannot be made smaller: Conv2d has out_channels=8, and was 1000000000"),
    (("0", "out_channels", [8, 9]), "cannot shrink from out_channels=8 to 9"),
    (("0", "out_channels", [8, HUGE]), "cannot shrink"),
    (("0", "out_channels", [8, 0]), "cannot shrink"),
    (("0", "out_channels", [8, True]), "malformed"),
    (("0", "out_channels", [8]), "malformed"),
    (("0", "out_channels", 4), "malformed"),
    (("0", "out_channels", [8, 4.0]), "malformed"),
    (("0", "out_channels", [8, [-4]]), "malformed"),
    (("0", "out_channels", [8, 3]), r"bias of shape \(4,\), which should be \(3,\)"),
    (("0", "bias", [None, [HUGE, HUGE]]), "bias of shape"),
    (("0", "bias", [None, [5]]), "bias of shape"),
    (("0", "bias", [[8], [4]]), "bias=None, and was"),
    (("0", {"weight": [[8, 3, 3, 3], [4, 3, 3, 3]], "bias": [None, [4]]}), "weight of shape"),
    (("0", {}), "does not fit the net"),
    (("0", 3), "malformed"),
    (("3", "groups", [8, 3]), "cannot have"),
    (("3", "kernel_size", [3, 1]), r"Conv2d has kernel_size=\(3, 3\), and was 3"),
    (("0", "training", [1, 0]), "no tensor or integer 'training'"),
    (("0", "forward", [None, None]), "no tensor or integer 'forward'"),
    (("9", {"out_channels": [8, 4]}), "'9' cannot be made smaller"),
    (("2", {"inplace": [1, 0]}), "no tensor or integer 'inplace'"),
    (("7", {"out_features": [5, 3]}), "does not fit the net"),
]


@pytest.mark.parametrize("case", range(len(FORGED)))
def test_forged_sizes_with_their_checksum_made_right(case, tmp_path):
    _, net, _ = convolutions()
    path = tmp_path / "m.safetensors"
    save(net, path)
    where, message = FORGED[case]
    manifest, tensors = parts(path)
    set_at(manifest, "shrunk", *where)
    forge(path, manifest, tensors)
    with pytest.raises(FileError, match=message):
        load(path)


@pytest.mark.parametrize("heads", [[4, 0], [4, 5], [8, 3], [4, 2], [4, [3]], [None, 3]])
def test_forged_heads(heads, tmp_path):
    _, net, _ = encoder()
    path = tmp_path / "m.safetensors"
    save(net, path)
    manifest, tensors = parts(path)
    set_at(manifest, "shrunk", "layers.0.self_attn", "num_heads", heads)
    forge(path, manifest, tensors)
    with pytest.raises(FileError, match=r"layers\.0\.self_attn"):
        load(path)


@pytest.mark.parametrize("made", [convolutions, encoder])
def test_odd_values_anywhere_among_the_sizes(made, tmp_path):
    _, net, x = made()
    path = tmp_path / "m.safetensors"
    save(net, path)
    manifest, tensors = parts(path)
    where = [("shrunk", *place) for place in places(manifest["shrunk"])]
    choose = random.Random(0)
    for _ in range(100):
        altered = copy.deepcopy(manifest)
        set_at(altered, *choose.choice(where), choose.choice((*ODD, [8, 4], [None, None], [None, [4]], [[8], [4]])))
        forge(path, altered, tensors)
        with contextlib.suppress(FileError):
            assert torch.equal(load(path)(x), net(x))


@pytest.mark.parametrize("made", MADE)
def test_compressed_it_comes_back_as_it_was_rounded(made, tmp_path):
    whole, net, x = MADE[made]()
    net = packed(net, x)
    save(net, tmp_path / "coded", compress=True)
    loaded = load(tmp_path / "coded", net=whole)
    assert repr(loaded) == repr(net)
    torch.testing.assert_close(loaded(x), net(x), rtol=0, atol=0.2 * float(net(x).detach().std()))
    save(loaded, tmp_path / "plain")
    assert torch.equal(load(tmp_path / "plain", net=whole)(x), loaded(x))


def test_forged_sizes_take_no_memory(tmp_path):
    """A description of a huge net, shrunk to the size of the file, is still only a description."""
    _, net, x = convolutions()
    path = tmp_path / "m.safetensors"
    save(net, path)
    manifest, tensors = parts(path)
    set_at(manifest, "net", "children", "0", "args", "out_channels", HUGE)
    set_at(manifest, "shrunk", "0", "out_channels", [HUGE, 4])
    forge(path, manifest, tensors)
    assert torch.equal(load(path)(x), net(x))
