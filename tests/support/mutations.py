"""Changes of a valid file: its bytes, its manifest, its tensors and its coded streams, checksums made right or not."""

import copy
import hashlib
import json
import random
import struct
from pathlib import Path

import torch
from safetensors.torch import load as read
from safetensors.torch import save as write
from torch import Tensor, nn

from bayesprune.sparse import BSR, CSR, export, load, save
from bayesprune.sparse.saving.coding import Streams, is_compressed, pack, unpack

JSON = dict | list | str | int | float | bool | None


class Own(nn.Module):
    """A class that no file can tell, with a shared weight and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.gru = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(x))[0])


def model(name: str) -> tuple[nn.Module, Tensor, dict]:
    """The net, its input and the formats of its weights."""
    image, tokens = torch.randn(2, 4, 6, 6), torch.randn(2, 5, 32)
    name = name.removeprefix("compressed ")
    if name == "convolution":
        layers = (
            nn.Conv2d(4, 16, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(576, 32),
            nn.ReLU(),
            nn.Linear(32, 9),
        )
        return nn.Sequential(*layers), image, {"0": BSR(8, 2), "3": CSR(), "5": BSR(4, 4)}
    if name == "eight bits":
        layers = nn.Conv2d(4, 24, 3, groups=2), nn.Flatten(), nn.Linear(384, 48), nn.GELU(), nn.Linear(48, 24)
        return nn.Sequential(*layers), image, {"0": BSR(4, 1), "2": BSR(8, 4, bits=8), "4": CSR(bits=8)}
    if name == "attention":
        layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        return nn.Sequential(encoder, nn.Linear(32, 7)), tokens, {"0.layers.1.*": CSR(), "*": BSR(8, 4)}
    return Own(), torch.randint(40, (2, 5)), {"gru.*": BSR(4, 4)}


MODELS = (
    *("convolution", "eight bits", "attention", "own class"),
    *("compressed convolution", "compressed eight bits", "compressed own class"),
)


def valid_file(name: str, path: Path) -> tuple[Tensor, Tensor, nn.Module | None]:
    """Write a model's file; its input, its output, and the skeleton where the file needs one."""
    torch.manual_seed(0)
    net, x, formats = model(name)
    masks = {n: torch.rand_like(p) < 0.15 for n, p in net.named_parameters(remove_duplicate=False) if p.dim() > 1}
    if isinstance(net, Own):
        masks["head.weight"] = masks["embed.weight"]
    sparse = export(net, {}, masks, example=x, formats=formats)
    skeleton = Own() if isinstance(net, Own) else None
    save(sparse, path, compress=name.startswith("compressed"))
    if name.startswith("compressed"):  # which rounds
        sparse = load(path, skeleton)
    with torch.no_grad():
        return x, sparse(x), skeleton


def raw(data: bytes, choose: random.Random) -> bytes:
    """Bits, runs, lengths and places."""
    new = bytearray(data)
    for _ in range(choose.choice((1, 1, 1, 2, 8))):
        near = choose.random() < 0.5 and len(new) > 5000  # the header is a small part of the file
        at = choose.randrange(min(len(new), 5000) if near else len(new))
        run = choose.choice((1, 4, 40, 400))
        match choose.choice(("flip", "flip", "run", "zeros", "cut", "insert", "extend", "truncate", "swap", "length")):
            case "flip":
                new[at] ^= 1 << choose.randrange(8)
            case "run":
                new[at : at + run] = choose.randbytes(len(new[at : at + run]))
            case "zeros":
                new[at : at + run] = bytes(len(new[at : at + run]))
            case "cut":
                del new[at : at + run]
            case "insert":
                new[at:at] = choose.randbytes(run)
            case "extend":
                new += choose.randbytes(run)
            case "truncate":
                del new[at:]
            case "swap":
                other = choose.randrange(len(new))
                one, two = bytes(new[at : at + run]), bytes(new[other : other + run])
                new[at : at + len(two)], new[other : other + len(one)] = two, one
            case "length":
                new[:8] = struct.pack("<Q", choose.choice((0, 1, len(data), 2**31, 2**63, choose.randrange(len(data)))))
        if not new:
            break
    return bytes(new)


ODD = (None, 0, -1, 2**31, 2**63, 10**30, True, "", "a", "Linear", "csr", "bsr", "bits", "int8", [], {}, 1.5, 1e308)
SIZES = (lambda n: n + 1, lambda n: n - 1, lambda n: 2 * n, lambda n: 1000 * n, lambda n: -n, lambda n: 10**6 * n)


def places(tree: JSON, path: tuple = ()) -> list[tuple]:
    inner = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in inner for place in ((*path, key), *places(tree[key], (*path, key)))]


def holder(tree: JSON, place: tuple) -> dict | list:
    for key in place[:-1]:
        tree = tree[key]
    return tree


def edited(tree: JSON, choose: random.Random) -> JSON:
    """Numbers, names, nesting, huge sizes, entries gone, moved and doubled."""
    tree = copy.deepcopy(tree)
    for _ in range(choose.choice((1, 1, 1, 2, 4))):
        all_places = places(tree)
        if not all_places:
            break
        place = choose.choice(all_places)
        parent, key = holder(tree, place), place[-1]
        value = parent[key]
        match choose.choice(("odd", "size", "size", "size", "rename", "delete", "move", "nest", "double", "flip")):
            case "odd":
                parent[key] = choose.choice(ODD)
            case "size":
                numbers = [p for p in all_places if type(holder(tree, p)[p[-1]]) is int]
                if numbers:
                    at = choose.choice(numbers)
                    holder(tree, at)[at[-1]] = choose.choice(SIZES)(holder(tree, at)[at[-1]])
            case "rename" if isinstance(parent, dict):
                del parent[key]
                parent[choose.choice((key + "x", key[:-1], "", *map(str, ODD[7:14])))] = value
            case "delete":
                del parent[key]
            case "move":
                other = choose.choice(all_places)
                parent[key] = copy.deepcopy(holder(tree, other)[other[-1]])
            case "nest":
                for _ in range(choose.choice((1, 2, 90, 400))):
                    value = [value] if choose.random() < 0.5 else {"class": "Sequential", "children": {"0": value}}
                parent[key] = value
                break
            case "double" if isinstance(parent, list):
                parent.append(copy.deepcopy(value))
            case "flip" if isinstance(value, bool):
                parent[key] = not value
    return tree


def altered(tensors: dict[str, Tensor], choose: random.Random) -> dict[str, Tensor]:
    """Other numbers, dtypes, lengths and names in a valid safetensors file."""
    tensors = {name: x.clone() for name, x in tensors.items()}
    name = choose.choice(sorted(tensors))
    x = tensors[name]
    match choose.choice(("bytes", "fill", "cut", "longer", "dtype", "shape", "swap", "drop", "spare")):
        case "bytes" if x.numel():
            flat = x.reshape(-1).view(torch.uint8)
            for _ in range(choose.choice((1, 2, 16))):
                flat[choose.randrange(len(flat))] = choose.randrange(256)
        case "fill":
            odd = (torch.nan, torch.inf, -1, 1e30) if x.is_floating_point() else (0, 1, 100, torch.iinfo(x.dtype).max)
            tensors[name] = torch.full_like(x, choose.choice(odd))
        case "cut" if x.dim():
            tensors[name] = x[: choose.randrange(len(x) + 1)].clone()
        case "longer" if x.dim():
            tensors[name] = torch.cat([x, x[:1]])
        case "dtype":
            dtypes = torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.uint8, torch.int32, torch.int64
            tensors[name] = x.to(choose.choice(dtypes))
        case "shape":
            tensors[name] = choose.choice((x.reshape(-1), x[None], x.reshape(-1, 1))).clone()
        case "swap":
            other = choose.choice(sorted(tensors))
            tensors[name], tensors[other] = tensors[other], x
        case "drop":
            del tensors[name]
        case "spare":
            tensors[f"{name}x"] = x.clone()
    return tensors


def summed(manifest: JSON, tensors: dict[str, Tensor], text: str | None = None) -> bytes:
    """A file whose checksums are right whatever it holds."""
    if isinstance(manifest, dict):
        sums = {}
        for name, x in tensors.items():
            digest = hashlib.sha256(x.reshape(-1).view(torch.uint8).numpy()).hexdigest()
            sums[name] = [str(x.dtype).removeprefix("torch."), list(x.shape), digest]
        manifest = manifest | {"buffers": sums}
    text = json.dumps(manifest) if text is None else text
    return write(tensors, {"bayesprune": text, "bayesprune.sha256": hashlib.sha256(text.encode()).hexdigest()})


def doubled_key(text: str, choose: random.Random) -> str:
    """A key that stands twice in an object of the JSON text, with another value before or after."""
    starts = [i for i, c in enumerate(text) if c == "{" and text[i + 1 : i + 2] == '"']
    at = choose.choice(starts)
    key = text[at + 1 : text.index('"', at + 2) + 1]
    return f"{text[: at + 1]}{key}: {json.dumps(choose.choice(ODD))}, {text[at + 1 :]}"


def coded_mutation(data: bytes, choose: random.Random) -> tuple[bytes, bool]:
    """A changed compressed file, and whether its checksum holds."""
    streams = unpack(data)
    text, exact, numbers = streams.text, bytes(streams.exact), bytes(streams.numbers)
    what = choose.choice(("raw", "manifest", "manifest", "text", "twice", "numbers", "numbers", "exact", "both"))
    if what == "raw":
        return raw(data, choose), False
    if what in ("manifest", "both"):
        text = json.dumps(edited(json.loads(text), choose))
    if what == "text":
        changed = bytearray(text.encode())
        changed[choose.randrange(len(changed))] = choose.choice(b'{}[]",:0123456789-eEaz. ')
        text = changed.decode()
    if what == "twice":
        text = doubled_key(text, choose)
    if what in ("numbers", "both"):
        numbers = raw(numbers, choose)
    if what == "exact":
        exact = raw(exact or b"0", choose)
    return pack(Streams(text, exact, numbers)), True


def mutation(data: bytes, choose: random.Random) -> tuple[bytes, bool]:
    """A changed file, and whether its checksums hold."""
    if is_compressed(data):
        return coded_mutation(data, choose)
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    manifest, tensors = json.loads(header["__metadata__"]["bayesprune"]), read(data)
    match choose.choice(
        ("raw", "raw", "header", "manifest", "manifest", "manifest", "tensors", "both", "text", "twice")
    ):
        case "raw":
            return raw(data, choose), False
        case "header":
            new = json.dumps(edited(header, choose)).encode()
            return struct.pack("<Q", len(new)) + new + data[8 + length :], False
        case "manifest":
            return summed(edited(manifest, choose), tensors), True
        case "tensors":
            return summed(manifest, altered(tensors, choose)), True
        case "both":
            return summed(edited(manifest, choose), altered(tensors, choose)), True
        case "text":
            text = bytearray(json.dumps(manifest).encode())
            for _ in range(choose.choice((1, 2))):
                text[choose.randrange(len(text))] = choose.choice(b'{}[]",:0123456789-eEaz. ')
            return summed(None, tensors, text.decode()), True
        case _:
            return summed(None, tensors, doubled_key(json.dumps(manifest), choose)), True


def spliced(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """Parts of two valid files of one kind in one, with right checksums."""
    if is_compressed(data):
        one, two = unpack(data), unpack(other)
        parts = ((one.text, two.text), (one.exact, two.exact), (one.numbers, two.numbers))
        text, exact, numbers = (choose.choice(pair) for pair in parts)
        if choose.random() < 0.5:
            numbers = bytes(numbers)
            numbers = numbers[: choose.randrange(len(numbers) + 1)] + bytes(two.numbers)[choose.randrange(9) :]
        return pack(Streams(str(text), bytes(exact), bytes(numbers)))
    found = []
    for whole in (data, other):
        length = int.from_bytes(whole[:8], "little")
        found.append((json.loads(json.loads(whole[8 : 8 + length])["__metadata__"]["bayesprune"]), read(whole)))
    (manifest, tensors), (theirs, others) = found
    for key in choose.sample(sorted(theirs), choose.randrange(1, 4)):
        manifest[key] = theirs[key]
    for name in choose.sample(sorted(others), choose.randrange(len(others) + 1)):
        tensors[name] = others[name]
    if choose.random() < 0.5:
        manifest["tensors"] |= {n: e for n, e in theirs["tensors"].items() if choose.random() < 0.5}
    return summed(manifest, tensors)
