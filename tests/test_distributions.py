"""The wheel and the source distribution: whole, and described for a page where nothing lies beside the README."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from support.paths import ROOT

BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a clone knows which files are the project's")


def tracked() -> set[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source distribution and a wheel of the tracked files."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    made = []
    for build in ("build_sdist", "build_wheel"):
        command = [sys.executable, "-c", BUILD, build, str(out)]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        made.append(out / done.stdout.split()[-1])
    return made[0], made[1]


def test_the_source_distribution_holds_every_file_of_the_project(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    assert tracked() <= held, sorted(tracked() - held)


def test_the_wheel_holds_the_package_whole_and_nothing_else(built: tuple[Path, Path]) -> None:
    held = zipfile.ZipFile(built[1]).namelist()
    package = {name for name in tracked() if name.startswith("bayesprune/")}
    assert {name for name in held if ".dist-info/" not in name} == package
    assert any(name.endswith("/entry_points.txt") for name in held)


def test_every_link_of_the_description_is_absolute_and_leads_to_a_file(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        about = Parser().parsestr(wheel.read(name).decode())
    urls = dict(url.split(", ", 1) for url in about.get_all("Project-URL", []))
    assert {"Repository", "Documentation", "Changelog", "Issues"} <= set(urls)
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    links = re.findall(r"\]\(([^)\s]+)", about.get_payload())
    assert len(links) > 10 and all(link.startswith(("https://", "#")) for link in links)
    files = [link for link in links if link.startswith(f"{urls['Repository']}/")]
    for link in files:
        path = re.sub(r"#.*", "", link.removeprefix(f"{urls['Repository']}/").split("/main/", 1)[1])
        assert (ROOT / path).exists(), link
    assert files
