"""What strangers' files and full disks do to a command: escapes are shown, and it ends in one line."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.command import FIT, MINE, bayesprune, inside, refused

import bayesprune as bp
from bayesprune._text import visible
from bayesprune.cli.output import facts, say, show, tell, trouble

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "mine.py").write_text(MINE)
    with inside(tmp_path):
        yield tmp_path


def test_escapes_are_written_out_and_other_text_is_left() -> None:
    assert visible(ESCAPES) == r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
    assert visible("é 日本 ×\n\ttab 😀") == "é 日本 ×\n\ttab 😀"


def test_nothing_that_is_said_sends_them(capsys: pytest.CaptureFixture[str]) -> None:
    for speak in (say, trouble, tell, show, lambda text: show(facts(text, [[text, text]]))):
        speak(f"a{ESCAPES}b")
    out, err = capsys.readouterr()
    assert not set(out + err) & set("\x1b\x07\x9b\u202e") and out.count("owned") >= 4 and err.count("owned") == 2


def test_a_models_names_are_shown(here: Path) -> None:
    net = torch.nn.Module()
    net.register_parameter(f"w{ESCAPES}", torch.nn.Parameter(torch.ones(2, 2)))
    bp.save(net, here / "model.safetensors")
    done = bayesprune("info", "model.safetensors")
    assert done.code == 0 and "owned" in done.out and not set(done.out) & set("\x1b\x07\x9b\u202e")
    with pytest.raises(bp.FileError) as error:
        raise bp.FileError(ESCAPES)
    assert "\x1b" not in str(error.value)


def test_names_of_ones_own_modules_need_no_rule(here: Path) -> None:
    assert bayesprune("fit", "--net", "mine:Named", "--data", "mine:classes", "--epochs", "1").code == 0
    told = bayesprune("masks", "run", "--keep", "0.5", "--json", "--trust").json
    assert list(told["weights"]) == ["h.task[0].weight", "h.a=b.weight"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("most", [2_000, 10_000])
def test_a_full_disk_is_one_line_and_the_same_command_works_afterwards(here: Path, most: int) -> None:
    command = [sys.executable, "-c", "from bayesprune.cli import main; main()", *FIT, "--epochs", "1"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # noqa: E731
    full = subprocess.run(command, capture_output=True, text=True, timeout=240, preexec_fn=limit, check=False)
    lines = [line for line in full.stderr.splitlines() if line.startswith("bayesprune: ")]
    assert full.returncode == 1 and len(lines) == 1 and "Traceback" not in full.stderr, full.stderr
    left = {file.name for file in (here / "run").iterdir()}
    assert left <= {".lock", "recipe.toml", "checkpoints", "progress.json", "dense.safetensors"}
    assert bayesprune(*FIT, "--epochs", "1").code == 0


SHAPES = (
    "[]",
    "null",
    "3",
    '"x"',
    "{}",
    '{"history": 3}',
    '{"history": {"epochs": []}}',
    '{"history": {"epochs": [3]}}',
)


def test_a_fit_or_masks_of_another_shape_are_one_line(here: Path) -> None:
    assert bayesprune(*FIT, "--epochs", "1").code == 0
    assert bayesprune("masks", "run", "--keep", "0.5").code == 0
    fit, masks = here / "run" / "fit.json", here / "run" / "masks.safetensors"
    right, kept = fit.read_text(), masks.read_bytes()
    found = json.loads(right)
    wrong = [*SHAPES, *(json.dumps(found | {name: value}) for name in found for value in (3, None, [], "x"))]
    for text in wrong:
        if text == json.dumps(found | {"size": 3}):
            continue
        fit.write_text(text)
        for command in (("info", "run"), ("masks", "run", "--keep", "0.5")):
            done = bayesprune(*command)
            assert done.code in (0, 2) and "Traceback" not in done.err, (text, command, done.err)
            assert done.code == 0 or "fit.json is damaged" in done.err, (text, command, done.err)
    fit.write_text(right)
    for about in ("[]", "3", "null"):
        length = int.from_bytes(kept[:8], "little")
        header = json.loads(kept[8 : 8 + length])
        header["__metadata__"]["bayesprune"] = about
        new = json.dumps(header).encode()
        masks.write_bytes(len(new).to_bytes(8, "little") + new + kept[8 + length :])
        assert "masks.safetensors is damaged" in refused("info", "run")
