"""How files are written: with the mode of any other file, and a full disk is an ``OSError``."""

import errno
import os
import subprocess
import sys

import pytest
from support.paths import ROOT
from torch import nn

from bayesprune.sparse import load, save


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_model_has_the_mode_of_any_other_file(compress, umask, tmp_path):
    before = os.umask(umask)
    try:
        save(nn.Linear(100, 10), tmp_path / "m", compress=compress)
        (tmp_path / "other").write_text("")
    finally:
        os.umask(before)
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("compress", [False, True])
def test_a_full_disk_is_an_os_error_and_the_file_before_stays(compress, tmp_path):
    save(nn.Linear(3, 2), tmp_path / "m")
    code = f"""
import resource, signal, torch
from bayesprune.sparse import save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))  # as a full disk, but for the number of the error
try:
    save(torch.nn.Linear(100, 100), {str(tmp_path / "m")!r}, compress={compress})
except OSError as error:
    print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"{errno.EFBIG}\n", done.stderr
    assert load(tmp_path / "m").in_features == 3
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_only_compressed_files_need_constriction(tmp_path):
    code = f"""
import sys, torch
from bayesprune.sparse import load, save
save(torch.nn.Linear(3, 2), {str(tmp_path / "m")!r})
load({str(tmp_path / "m")!r})
assert "constriction" not in sys.modules
save(torch.nn.Linear(3, 2), {str(tmp_path / "m")!r}, compress=True)
assert "constriction" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
