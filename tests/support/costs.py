"""Load each file of a folder and say what it cost; ``sparse/saving/test_costs.py`` runs it alone.

    python tests/support/costs.py <folder>

Prints one JSON line: by file, the seconds of work and the bytes of memory that ``load`` and ``contents`` took, and what
they ended with.
"""

import json
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import nn

from bayesprune.sparse import load, save
from bayesprune.sparse.saving.contents import contents
from support.measured import allocated


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder, found = Path(sys.argv[1]), {}
    for name in ("warm", "warm.safetensors"):  # what is imported and made ready once is no file's cost
        save(nn.Linear(100, 100), folder / name, compress=name == "warm")
        load(folder / name)
        contents(folder / name)
        (folder / name).unlink()
    for path in sorted(folder.iterdir()):
        for read in (load, contents):
            start = time.process_time()
            result, most = allocated(lambda read=read, path=path: read(path))
            took, told = time.process_time() - start, f"{type(result).__name__}: {str(result)[:200]}"
            found[f"{path.name} {read.__name__}"] = {"seconds": took, "bytes": most, "told": told}
            del result
    print(json.dumps(found))


if __name__ == "__main__":
    main()
