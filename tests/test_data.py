"""The data sets: splits, local copies, downloads from a server on this machine, damage, and the real files."""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from bayesprune import data
from bayesprune.data import DataNotFoundError, Splits

REAL = os.environ.get("BAYESPRUNE_DATA")
real = pytest.mark.skipif(not REAL, reason="BAYESPRUNE_DATA names no folder with the real data")
COUNTS = {"train": 60, "t10k": 20}  # of the small MNIST below
LABELS = "train-labels-idx1-ubyte.gz"


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads this machine's data or cache, or the internet, unless it says so."""
    monkeypatch.delenv("BAYESPRUNE_DATA", raising=False)
    monkeypatch.setenv("BAYESPRUNE_CACHE", str(tmp_path / "cache"))
    for mirrors in ("_MNIST_MIRRORS", "_CIFAR_MIRRORS", "_UCI_MIRRORS"):
        monkeypatch.setattr(data, mirrors, ("http://127.0.0.1:9/",))  # the discard port: nobody answers


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder that BAYESPRUNE_DATA names."""
    (tmp_path / "local").mkdir()
    monkeypatch.setenv("BAYESPRUNE_DATA", str(tmp_path / "local"))
    return tmp_path / "local"


def tensors(splits: Splits) -> list[torch.Tensor]:
    return [t for part in (splits.train, splits.val, splits.test) for t in part.tensors]


def same(a: Splits, b: Splits) -> bool:
    return all(x.equal(y) for x, y in zip(tensors(a), tensors(b), strict=True))


def assert_same_rows(got: torch.Tensor, want: np.ndarray) -> None:
    rows = got.flatten(1).numpy()  # in whatever order
    np.testing.assert_allclose(rows[np.lexsort(rows.T)], want[np.lexsort(want.T)], atol=1e-4)


def test_digits_are_those_of_scikit_learn_each_once() -> None:
    parts = tensors(data.digits(val=0.15, test=0.25, seed=3))
    x, y = torch.cat(parts[0::2]), torch.cat(parts[1::2])
    bunch = load_digits()
    assert_same_rows(torch.cat([x.flatten(1) * 16, y[:, None]], 1), np.column_stack([bunch.data, bunch.target]))
    assert x.dtype == torch.float32 and y.dtype == torch.int64 and x.min() == 0 and x.max() == 1


def test_digits_are_stratified_and_fixed_by_the_seed() -> None:
    splits = data.digits(val=0.1, test=0.2)
    whole = np.bincount(load_digits().target)
    for part, fraction in ((splits.train, 0.7), (splits.val, 0.1), (splits.test, 0.2)):
        np.testing.assert_allclose(part.tensors[1].bincount().numpy(), fraction * whole, atol=1.5)
    assert same(splits, data.digits()) and not same(splits, data.digits(seed=1))
    assert [len(data.digits(val=0.0, test=0.0).train), len(data.digits(val=0.0).val)] == [1797, 0]


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.2), (0.1, -0.2), (0.5, 0.5), (float("nan"), 0.1), (0.1, 1e-4)])
def test_digits_refuse_bad_fractions(val: float, test: float) -> None:
    with pytest.raises(ValueError, match=r"val|test"):
        data.digits(val=val, test=test)


def test_heavy_imports_wait_for_their_use() -> None:
    lines = Path(data.__file__).read_text().splitlines()
    top = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert "torch" in top and not top & {"sklearn", "PIL", "pooch"}


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def small_mnist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    monkeypatch.setattr(data, "_MNIST_COUNTS", COUNTS)
    images = {part: np.random.default_rng(0).integers(0, 256, (count, 28, 28)) for part, count in COUNTS.items()}
    folder.mkdir(parents=True)
    for part, count in COUNTS.items():
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images[part]))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(count) % 10))
    return images


def test_mnist_from_a_local_folder(local: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arrays = small_mnist(local / "mnist", monkeypatch)
    splits = data.mnist(val=15, seed=4)
    x, y = splits.test.tensors
    assert [len(splits.train), len(splits.val)] == [45, 15] and y.tolist() == [*range(10)] * 2
    assert x.dtype == torch.float32 and x.shape == (20, 1, 28, 28) and y.dtype == torch.int64
    np.testing.assert_allclose(x[:, 0].numpy(), arrays["t10k"] / 255, atol=1e-7)
    assert_same_rows(torch.cat(tensors(splits)[0:4:2]) * 255, arrays["train"].reshape(60, -1))
    assert same(splits, data.mnist(val=15, seed=4)) and not same(splits, data.mnist(val=15, seed=5))
    assert not (tmp_path / "cache").exists(), "a local copy needs no cache"
    for val in (-1, 60):
        with pytest.raises(ValueError, match=f"from 0 to 59; got {val}"):
            data.mnist(val=val)


DAMAGE = {
    "cut": lambda packed: packed[:-9],
    "flipped bits": lambda packed: packed[:14] + bytes([packed[14] ^ 255]) + packed[15:],
    "of integers": lambda packed: gzip.compress(gzip.decompress(packed).replace(b"\0\0\x08", b"\0\0\x0c", 1)),
    "one too few": lambda packed: idx(np.zeros(59)),
    "one byte too many": lambda packed: gzip.compress(gzip.decompress(packed) + b"\0"),
    "label 10": lambda packed: idx(np.full(60, 10)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_idx_file_is_named(local: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    small_mnist(local / "mnist", monkeypatch)
    path = local / "mnist" / LABELS
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=LABELS):
        data.mnist(val=10)


def test_half_a_set_or_no_folder_at_all_is_an_error(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_mnist(local / "mnist", monkeypatch)
    (local / "mnist" / LABELS).unlink()
    with pytest.raises(DataNotFoundError, match=f"lacks {LABELS}.*BAYESPRUNE_DATA"):
        data.mnist(val=10)
    monkeypatch.setenv("BAYESPRUNE_DATA", str(local / "typo"))
    for load in (partial(data.mnist, val=0), data.cifar10, partial(data.uci, "yacht")):
        with pytest.raises(DataNotFoundError, match=r"BAYESPRUNE_DATA=.*typo is no folder"):
            load()


def test_offline_the_error_says_what_to_put_where(tmp_path: Path) -> None:
    wanted = {data.mnist: LABELS, data.cifar10: "cifar-10-python.tar.gz", partial(data.uci, "energy"): "data.txt"}
    for load, file in wanted.items():
        with pytest.raises(DataNotFoundError) as caught:
            load(root=tmp_path / "elsewhere")
        words = (file, "BAYESPRUNE_DATA", str(tmp_path / "elsewhere"), "127.0.0.1:9")
        assert [word for word in words if word not in str(caught.value)] == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """The address of a server, the folder it serves, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served"))) as http:
        Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/", tmp_path / "served", asked
        http.shutdown()


@pytest.fixture
def served_mnist(monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path, list[str]]) -> tuple[Path, list[str]]:
    address, folder, asked = server
    small_mnist(folder / "mnist", monkeypatch)
    hashes = {p.name: f"md5:{hashlib.md5(p.read_bytes()).hexdigest()}" for p in (folder / "mnist").iterdir()}
    monkeypatch.setattr(data, "_MNIST_FILES", {file: hashes[file] for file in data._MNIST_FILES})
    monkeypatch.setattr(data, "_MNIST_MIRRORS", (f"{address}down/", f"{address}mnist/"))
    return folder / "mnist", asked


def test_the_second_mirror_serves_where_the_first_is_down_and_once(served_mnist, local: Path, tmp_path: Path) -> None:
    _, asked = served_mnist
    splits = data.mnist(val=10)  # a local folder without MNIST is passed over
    assert splits.test.tensors[1].tolist() == [*range(10)] * 2
    assert {f"/down/{LABELS}", f"/mnist/{LABELS}"} <= set(asked) and (tmp_path / "cache" / "mnist" / LABELS).is_file()
    served = len(asked)
    assert same(splits, data.mnist(val=10)) and len(asked) == served
    assert same(splits, data.mnist(val=10, root=tmp_path / "mine")) and (tmp_path / "mine" / "mnist" / LABELS).is_file()


def test_a_wrong_checksum_is_refused_of_download_and_cache(served_mnist, tmp_path: Path) -> None:
    there, here, other = served_mnist[0] / LABELS, tmp_path / "cache" / "mnist" / LABELS, idx(np.zeros(60))
    data.mnist(val=10)
    here.write_bytes(other)  # whole, and not what was published
    with pytest.raises(ValueError, match=f"{LABELS}.*checksum.*delete it"):
        data.mnist(val=10)
    assert here.read_bytes() == other, "a file that is there is never overwritten"
    here.unlink()
    there.write_bytes(other)
    with pytest.raises(DataNotFoundError, match=f"{LABELS}.*does not match"):
        data.mnist(val=10)
    assert not here.exists()


def python2_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    """``{'labels': [...], 'data': array}`` as Python 2 and its numpy pickle it (protocol 2, byte strings)."""

    def text(raw: bytes) -> bytes:
        return b"T" + len(raw).to_bytes(4, "little") + raw

    rows, columns = (b"J" + n.to_bytes(4, "little") for n in images.shape)
    dtype = b"cnumpy\ndtype\n%sK\0K\1\x87R(K\3%sNNN%sK\0tb" % (text(b"u1"), text(b"|"), b"J\xff\xff\xff\xff" * 2)
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
    array += b"(K\1%s%s\x86%s\x89%stb" % (rows, columns, dtype, text(images.astype(np.uint8).tobytes()))
    listed = b"".join(b"K" + bytes([label]) for label in labels)
    return b"\x80\2}(%s](%se%s%su." % (text(b"labels"), listed, text(b"data"), array)


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, f"w:{path.suffix[1:]}") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def cifar_folder(monkeypatch: pytest.MonkeyPatch, local: Path) -> Path:
    monkeypatch.setattr(data, "_CIFAR_COUNTS", {"train": 20, "test": 10})
    return local / "cifar10"


def test_cifar10_from_the_official_archive_and_no_code_from_it(cifar_folder: Path, tmp_path: Path) -> None:
    rng, parts = np.random.default_rng(1), [f"data_batch_{i}" for i in range(1, 6)]
    batches = {part: (rng.integers(0, 256, (4, 3072)), rng.integers(0, 10, 4)) for part in parts}
    test_x, test_y = batches["test_batch"] = rng.integers(0, 256, (10, 3072)), rng.integers(0, 10, 10)
    files = {f"cifar-10-batches-py/{part}": python2_batch(*batch) for part, batch in batches.items()}
    write_tar(cifar_folder / "cifar-10-python.tar.gz", files)
    splits = data.cifar10(val=5)
    x, y = splits.test.tensors
    assert x.shape == (10, 3, 32, 32) and x.dtype == torch.float32 and splits.classes[3] == "cat"
    assert y.tolist() == test_y.tolist() and len(splits.train) == 15
    np.testing.assert_allclose(x.flatten(1).numpy(), test_x / 255, atol=1e-7)
    assert_same_rows(torch.cat(tensors(splits)[0:4:2]) * 255, np.concatenate([batches[part][0] for part in parts]))
    files["cifar-10-batches-py/data_batch_3"] = f"cos\nmkdir\n(V{tmp_path / 'was here'}\ntR.".encode()  # calls mkdir
    write_tar(cifar_folder / "cifar-10-python.tar.gz", files)
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz.*os\.mkdir"):
        data.cifar10(val=5)
    assert not (tmp_path / "was here").exists()


def jpeg_files() -> dict[str, bytes]:
    """One grey level an image, which JPEG keeps: 10 * class + number in training, 10 * class + 5 in test."""
    files = {}
    for c, label in enumerate(data._CIFAR_CLASSES):
        for name, extra in ((f"train/{label}/0000", 0), (f"train/{label}/0001", 1), (f"test/{label}/0000", 5)):
            stream = io.BytesIO()
            Image.new("RGB", (32, 32), (10 * c + extra,) * 3).save(stream, "JPEG", quality=100)
            files[f"{name}.jpg"] = stream.getvalue()
    return files


def test_cifar10_from_jpegs_pairs_images_with_labels(cifar_folder: Path) -> None:
    write_tar(cifar_folder / "cifar10-jpeg.tar.xz", jpeg_files())
    splits = data.cifar10(val=5)
    for part, extra in ((splits.train, {0, 1}), (splits.val, {0, 1}), (splits.test, {5})):
        x, y = part.tensors
        levels = x.mul(255).round().long().flatten(1)
        assert (levels == levels[:, :1]).all() and set((levels[:, 0] - 10 * y).tolist()) <= extra
    assert (mixed := splits.test.tensors[1].tolist()) != sorted(mixed) == list(range(10))


def test_decoded_images_are_kept_until_the_source_changes(cifar_folder, monkeypatch, tmp_path: Path) -> None:
    source, kept = cifar_folder / "cifar10-jpeg.tar.xz", tmp_path / "cache" / "cifar10" / "cifar10-jpeg.tar.xz.npz"
    write_tar(source, jpeg_files())
    reads: list[Path] = []
    reader = {source.name: lambda path: reads.append(path) or data._read_cifar_jpegs(path)}
    monkeypatch.setattr(data, "_CIFAR_READERS", reader)
    first = data.cifar10(val=5)
    assert same(first, data.cifar10(val=5)) and len(reads) == 1
    assert [p.name for p in kept.parent.iterdir()] == [kept.name], "no partial file stays"
    kept.write_bytes(kept.read_bytes()[:1000])
    assert same(first, data.cifar10(val=5)) and len(reads) == 2
    os.utime(source, ns=(1, 1))
    assert same(first, data.cifar10(val=5)) and len(reads) == 3


def test_a_damaged_archive_is_named(cifar_folder: Path) -> None:
    source, files = cifar_folder / "cifar10-jpeg.tar.xz", jpeg_files()
    image = files.pop("train/cat/0000.jpg")
    broken = {"20 train images": {}, "zebra": {"train/zebra/0.jpg": image}, "identify": {"test/cat/1.jpg": b"?"}}
    for words, more in broken.items():
        write_tar(source, files | more)
        with pytest.raises(ValueError, match=f"{source.name}.*{words}"):
            data.cifar10(val=5)
    source.write_bytes(source.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"{source.name}: not readable"):
        data.cifar10(val=5)


def write_uci(folder: Path, split: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A table of yacht's shape whose target comes before the features; column 3 is constant."""
    table = np.random.default_rng(2).normal(50, 9, (308, 7))
    table[:, 3] = 4.0
    train, test = np.split(np.random.default_rng(3).permutation(308), [277])
    folder.mkdir(parents=True)
    files = {"data": table, "index_features": np.arange(1, 7), "index_target": [0]}
    files |= {f"index_train_{split}": train, f"index_test_{split}": test}
    for file, numbers in files.items():
        np.savetxt(folder / f"{file}.txt", numbers, fmt="%.17g" if file == "data" else "%d")
    return table, train, test


def test_uci_is_standardised_by_the_training_part_and_can_go_back(local: Path) -> None:
    table, train_rows, test_rows = write_uci(local / "uci" / "yacht", split=2)
    splits = data.uci("yacht", split=2, val=0.2)
    x, y = splits.train.tensors
    assert [x.shape, y.shape, len(splits.val), len(splits.test)] == [(222, 6), (222, 1), 55, 31]
    assert x.dtype == y.dtype == torch.float32 and splits.classes == ()
    sd, mean = torch.std_mean(torch.cat([x, y], 1), dim=0, correction=0)
    want = torch.tensor([[0.0] * 7, [1, 1, 0, 1, 1, 1, 1]])  # the constant column stays finite
    torch.testing.assert_close(torch.stack([mean, sd]), want, atol=1e-5, rtol=0)
    for parts, rows in (([splits.train, splits.val], train_rows), ([splits.test], test_rows)):
        raw = torch.cat([p.tensors[0] for p in parts]) * torch.tensor(splits.x_scale) + torch.tensor(splits.x_mean)
        target = splits.in_target_units(torch.cat([p.tensors[1] for p in parts]))
        assert_same_rows(torch.cat([target, raw], 1), table[rows])
    again, other = (data.uci("yacht", split=2, val=0.2, seed=seed) for seed in (0, 1))
    assert same(splits, again) and not same(splits, other)
    assert len(data.uci("yacht", split=2, val=0.0).val) == 0


BAD_ARGUMENTS = {
    "yacht, energy, concrete, wine-quality-red; got 'boston'": {"name": "boston"},
    "from 0 to 19, got 20": {"split": 20},
    r"split 3 is not in .*index_train_2\.txt": {"split": 3},
    "got 1.0": {"val": 1.0},
    "got 0.001": {"val": 0.001},
}


@pytest.mark.parametrize("words", BAD_ARGUMENTS)
def test_uci_refuses_bad_arguments(local: Path, words: str) -> None:
    write_uci(local / "uci" / "yacht", split=2)
    with pytest.raises(ValueError, match=words):
        data.uci(**{"name": "yacht", "split": 2, **BAD_ARGUMENTS[words]})


UCI_DAMAGE = {
    "cut": ("data.txt", lambda text: text[: len(text) // 2].rpartition("\n")[0]),
    "infinite": ("data.txt", lambda text: text.replace(" 4 ", " nan ", 1)),
    "web page": ("index_features.txt", lambda text: "<html>log in first</html>"),
    "target among features": ("index_target.txt", lambda text: "2\n"),
    "row twice": ("index_train_2.txt", lambda text: text + text.partition("\n")[0] + "\n"),
    "row of training": ("index_test_2.txt", lambda text: "\n".join(map(str, range(308)))),
    "fraction": ("index_train_2.txt", lambda text: text + "0.5\n"),
}


@pytest.mark.parametrize("damage", UCI_DAMAGE)
def test_a_damaged_uci_file_is_named(local: Path, damage: str) -> None:
    write_uci(local / "uci" / "yacht", split=2)
    file, harm = UCI_DAMAGE[damage]
    path = local / "uci" / "yacht" / file
    path.write_text(harm(path.read_text()))
    with pytest.raises(ValueError, match=file):
        data.uci("yacht", split=2)


def test_uci_downloads_the_split_asked_for_once(server, monkeypatch) -> None:
    address, folder, asked = server
    write_uci(folder / "uci" / "yacht" / "data", split=7)
    monkeypatch.setattr(data, "_UCI_MIRRORS", (f"{address}uci/",))
    assert same(data.uci("yacht", split=7), data.uci("yacht", split=7)) and len(asked) == 5
    with pytest.raises(DataNotFoundError, match="index_train_8"):
        data.uci("yacht", split=8)


CIFAR = pytest.param(data.cifar10, [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616], marks=pytest.mark.slow)


@real
@pytest.mark.parametrize(("load", "mean", "spread"), [(data.mnist, [0.1307], [0.3081]), CIFAR])
def test_real_images_have_the_published_mean_and_spread(monkeypatch, load, mean: list, spread: list) -> None:
    monkeypatch.setenv("BAYESPRUNE_DATA", str(REAL))
    x, y = load(val=0).train.tensors
    std, centre = torch.std_mean(x, dim=(0, 2, 3))
    torch.testing.assert_close(torch.stack([centre, std]), torch.tensor([mean, spread]), atol=3e-3, rtol=0)
    assert y.bincount().sub(len(y) / 10).abs().max() < len(y) / 60  # MNIST's fives are 5,421 of 60,000


@real
@pytest.mark.parametrize("name", ["yacht", "energy", "concrete", "wine-quality-red"])
def test_real_uci_targets_follow_their_features(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("BAYESPRUNE_DATA", str(REAL))
    splits = data.uci(name)
    (x, y), (test_x, test_y) = splits.train.tensors, splits.test.tensors
    weight = torch.linalg.lstsq(x.double(), y.double()).solution
    assert (test_x.double() @ weight - test_y).std() < 0.85 * test_y.std(), "least squares beat the mean"
