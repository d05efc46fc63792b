"""A figure, what it is compared with, and how the results are kept and shown."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results.json"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure."""

    name: str
    value: float
    baseline: str
    unit: str
    must: float
    aim: float
    more_is_better: bool = False

    @property
    def met(self) -> str:
        """Whether the figure reaches its aim, only its must, or neither."""

        def reaches(bound: float) -> bool:
            return self.value >= bound if self.more_is_better else self.value <= bound

        if reaches(self.aim):
            return "aim"
        return "must" if reaches(self.must) else "no"


def keep(figures: list[Figure]) -> None:
    """Write the results over those of earlier runs, figure by figure, and show all of them."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"figures": []}
    today = datetime.now(UTC).date().isoformat()
    by_name = {figure["name"]: figure for figure in kept["figures"]}
    for figure in figures:
        values = asdict(figure) | {"met": figure.met, "date": today}
        values["value"] = round(figure.value, 3)
        by_name[figure.name] = values
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    result = {"machine": machine, "figures": list(by_name.values())}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    _show(result["figures"])


def _show(figures: object) -> None:
    table = Table("figure", "value", "against", "must", "aim", "met")
    assert isinstance(figures, list)
    for figure in figures:
        table.add_row(
            figure["name"], f"{figure['value']:g} {figure['unit']}", figure["baseline"],
            f"{figure['must']:g}", f"{figure['aim']:g}", figure["met"],
        )  # fmt: skip
    Console(width=160).print(table)


def interleaved(
    ours: Callable[[], None],
    baseline: Callable[[], None],
    rounds: int,
    prepare: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Return two medians, in seconds, measured turn by turn so that noise meets both.

    ``prepare`` makes each turn ready and is not measured.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for kept, work in zip(times, (ours, baseline), strict=True):
            prepare()
            kept.append(seconds(work))
    return statistics.median(times[0]), statistics.median(times[1])


def seconds(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def plot(name: str, x: str, y: str, lines: Mapping[str, Mapping[int, float]]) -> None:
    """Draw how a cost grows, beside the results."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    for label, points in lines.items():
        axes.plot(list(points), list(points.values()), marker="o", label=label)
    axes.set(xlabel=x, ylabel=y, xlim=(0, None), ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(RESULTS.parent / name, dpi=110)
    pyplot.close(figure)
