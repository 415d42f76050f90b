"""These tests run in a process of their own, in Triton's interpreter: see ``tests/gpu/test_interpreted.py``."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
