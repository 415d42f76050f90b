"""A run folder after what can befall one: kills, other people's files, shapes that are not ours."""

import subprocess
import sys
from pathlib import Path

from bayesprune.runs.folder import RunFolder


def test_a_kill_while_the_recipe_is_first_written_is_not_in_the_way(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal
from bayesprune._files import replace
replace(pathlib.Path("recipe.toml"), lambda fresh: os.kill(os.getpid(), signal.SIGKILL))
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, timeout=60)
    assert len(list(tmp_path.iterdir())) == 1
    folder = RunFolder(tmp_path)
    assert not folder.holds_something_else()
    folder.write_json(folder.fit_file, {})
    assert [file.name for file in tmp_path.iterdir()] == ["fit.json"]
    assert folder.holds_something_else()
