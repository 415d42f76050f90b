"""While testing, what bayesprune keeps on disk lies in pytest's own cache, and plans are measured anew in every run."""

import os
import shutil

import pytest


def pytest_configure(config: pytest.Config) -> None:
    folder = config.cache.mkdir("bayesprune")
    shutil.rmtree(folder / "plans", ignore_errors=True)
    os.environ["BAYESPRUNE_CACHE"] = str(folder)
