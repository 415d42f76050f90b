"""At the end of a run: which nets were refused, and why."""

from collections import Counter
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    calls = [r for rs in terminalreporter.stats.values() for r in rs if getattr(r, "when", "") == "call"]
    refused = [what for r in calls for key, what in r.user_properties if key == "refused"]
    if not refused:
        return
    terminalreporter.section("refused by the zoo's doors")
    for door, name, told in refused:
        terminalreporter.line(f"{door:14}{name:44}{' '.join(told.split())[:200]}")
    counts = Counter(door for door, *_ in refused)
    terminalreporter.line(", ".join(f"{door}: {n}" for door, n in counts.items()))
