"""What a kernel must not do: run code of others, read beyond its buffers, hang, or grow without end."""

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from support.elsewhere import environment
from support.native_kernels import convolution, living, made_so_far

from bayesprune.sparse import BSR, CSR
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.kernels import native as kernel
from bayesprune.sparse.layers.linear import SparseLinear

pytest.importorskip("llvmlite")

from bayesprune.sparse.native import choose, compiled
from bayesprune.sparse.native.compiled import _object
from bayesprune.sparse.native.linear import linear_ir

on_posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are POSIX's")


SPEC = choose.product(16, 1, "f32", "f32", 3, 32, False, "relu").spec


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BAYESPRUNE_CACHE", str(tmp_path))
    compiled._usable.cache_clear()
    yield tmp_path / "kernels"
    compiled._usable.cache_clear()


def made(spec: choose.Spec) -> tuple[bytes, bool]:
    """The object code of a kernel, and whether it was compiled for that."""
    compiling = []
    code = _object(lambda: compiling.append(1) or linear_ir(spec), spec)
    return code, bool(compiling)


@on_posix
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_code_of_ones_own_is_read_again_whatever_the_umask(cache, umask):
    before = os.umask(umask)
    try:
        first, was_made = made(SPEC)
    finally:
        os.umask(before)
    assert was_made and cache.stat().st_mode & 0o777 == 0o700
    assert made(SPEC) == (first, False)


@on_posix
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707])
def test_a_folder_that_others_may_write_to_is_not_used_and_that_is_said_once(cache, mode):
    made(SPEC)
    cache.chmod(mode)
    compiled._usable.cache_clear()
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    with pytest.warns(UserWarning, match="where other users may write") as told:
        assert made(SPEC)[1] and made(SPEC)[1]
    assert len(told) == 1
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before


@on_posix
@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
def test_a_file_that_others_may_write_to_is_not_read(cache, mode):
    code, _ = made(SPEC)
    (path,) = cache.iterdir()
    path.chmod(mode)
    assert made(SPEC) == (code, True)
    assert path.stat().st_mode & 0o022 == 0  # it was replaced


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("whole", [True, False])
def test_what_another_user_owns_is_not_read(cache, whole):
    made(SPEC)
    (path,) = cache.iterdir()
    os.chown(cache if whole else path, 65534, 65534)
    compiled._usable.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert made(SPEC)[1]


@pytest.mark.parametrize("form", [CSR(), BSR(4, 2)], ids=str)
def test_strided_indices_are_read_right(form):
    packed = form.pack(torch.randn(12, 20), torch.rand(12, 20) < 0.4)
    apart = {
        name: torch.stack((index, index + 10**6), 1)[:, 0]
        for name, index in vars(packed).items()
        if name in ("crow", "col")
    }
    strided = replace(packed, **apart)
    assert not strided.crow.is_contiguous()
    x = torch.randn(5, 20)
    for layer in (SparseLinear(strided, None, "native"), SparseLinear(packed, None, "native")):
        state = {**layer.state_dict(), **apart}
        layer.load_state_dict(state, assign=True)
        torch.testing.assert_close(layer(x), x @ packed.dense().T)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), x @ packed.dense().T)


FORK = """
import os, sys, threading, time, torch
from bayesprune.sparse import BSR
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.native import compiled
torch.set_num_threads(1)
layers = [SparseLinear(BSR(16, w).pack(torch.randn(32, 64), torch.ones(32, 64) > 0), None, "native") for w in (2, 4)]
x, inside = torch.randn(3, 64), threading.Event()
made = compiled._optimised
def slow(*args):
    inside.set()
    time.sleep(0.5)
    return made(*args)
compiled._optimised = slow
thread = threading.Thread(target=lambda: layers[0](x))
thread.start()
inside.wait()
child = os.fork()
if not child:
    layers[1](x)
    layers[0](x)
    os._exit(0)
thread.join()
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_that_forks_while_a_thread_compiles_leaves_its_child_able_to(tmp_path):
    env = {**os.environ, "BAYESPRUNE_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", FORK], env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_images_of_ever_new_sizes_share_kernels():
    for stride in (1, 2):
        layer, twin = convolution(stride=stride)
        sizes = [(5 + 7 * i % 90, 4 + 11 * i % 120) for i in range(80)]
        before = made_so_far()
        with torch.no_grad():
            for size in sizes:
                x = torch.randn(1, 4, *size)
                torch.testing.assert_close(layer(x), twin(x), rtol=1e-4, atol=1e-5)
        assert len(set(sizes)) == 80 and made_so_far() - before <= 40


def test_four_hundred_widths_make_as_many_kernels_as_there_are_tiles():
    layer, _ = convolution()
    before = made_so_far()
    with torch.no_grad():
        for width in range(30, 430):
            layer(torch.empty(1, 4, 3, width))
    assert made_so_far() - before <= max(choose._TILES)


@pytest.mark.parametrize("form", [CSR(), BSR(4, 1), BSR(4, 4)], ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 30])
def test_weights_of_any_number_of_inputs_and_outputs_share_kernels(form, tokens):
    before = made_so_far()
    for into in range(17, 67, 5):
        weight = torch.randn(8 + into % 9, into)
        packed = form.pack(weight, torch.rand_like(weight) < 0.4)
        x = torch.randn(tokens, into)
        with torch.no_grad():
            y = SparseLinear(packed, None, "native")(x)
        torch.testing.assert_close(y, x @ packed.dense().T, rtol=1e-4, atol=1e-5)
    assert made_so_far() - before <= 2  # x is read where it lies, or packed


def test_kernels_that_are_used_no_more_are_given_back(monkeypatch):
    """As many as are kept are alive, however many were made; one that has gone is made again, and is as right."""
    entry, most = compiled.entry.__wrapped__, 4
    monkeypatch.setattr(choose, "entry", lru_cache(maxsize=most)(entry))
    monkeypatch.setattr(choose, "product", lru_cache(maxsize=most)(choose.product.__wrapped__))
    before = living()
    for again in range(2):
        for h in range(1, 11):
            weight = torch.randn(2 * h, 12)
            packed = BSR(h, 3).pack(weight, torch.rand_like(weight) < 0.4)
            x = torch.randn(3, 12)
            with torch.no_grad():
                y = SparseLinear(packed, None, "native")(x)
            torch.testing.assert_close(y, x @ packed.dense().T, rtol=1e-4, atol=1e-5)
        assert 0 < living() - before <= 2 * most, again


REAL = """
import sys, torch
from support.native_kernels import convolution, living, made_so_far
from support.measured import settled
torch.set_num_threads(1)
with torch.no_grad():
    layer, _ = convolution()
    for size in range(40, 60):
        layer(torch.randn(1, 4, size, size))
    before, kernels = settled(), living()
    for i in range(300):
        layer(torch.randn(1, 4, 5 + i % 97, 4 + i))
    print(settled() - before, living() - kernels, made_so_far())
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="counts as Linux does")
def test_three_hundred_image_sizes_take_little_memory(tmp_path):
    """The real bound, in a process that compiles its kernels: 40 MB, where each size took 1.4 before."""
    env = environment(BAYESPRUNE_CACHE=str(tmp_path), OMP_NUM_THREADS="1", MALLOC_ARENA_MAX="1")
    done = subprocess.run([sys.executable, "-c", REAL], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    grown, kernels, made = map(int, done.stdout.split())
    assert grown < 40 * 2**20 and kernels <= max(choose._TILES) and made <= 40


def test_rows_that_are_many_and_short_take_no_time_to_choose_for():
    geometry = Geometry((3, 3), (1, 1), (1, 1))
    made = choose.convolution(4, 4, "f32", "f32", (10**9, 2), 4, 4, geometry, False, "")
    assert made.spec.tile <= 24


def test_distances_beyond_31_bits_give_way_to_the_reference(monkeypatch):
    layer, twin = convolution()
    x = torch.randn(1, 4, 9, 9)
    assert kernel._farthest(layer.geometry, 4, 11) == (2 * 11 + 2 + 1) * 4
    far = Geometry((3, 3), dilation=(2**14, 1))
    assert kernel._farthest(far, 64, 2**11) >= 2**31
    taken = []
    monkeypatch.setattr(kernel, "_farthest", lambda *args: 2**31)
    monkeypatch.setattr(kernel, "_call", lambda *args, **kwargs: taken.append(args))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), twin(x), rtol=1e-4, atol=1e-5)
    assert not taken
