# SPDX-License-Identifier: Apache-2.0
"""Memory and descriptors of each process over time, and whether they drift."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

MEMORY = 4.0  # MB, and a share, that a process may have grown between the first and the last third
SHARE = 0.05
DESCRIPTORS = 8  # connections come and go
THREADS = 3


@dataclass
class Process:
    """One process's samples: (seconds since the start, MB, descriptors, threads)."""

    name: str
    pid: int
    samples: list[tuple[float, float, int, int]] = field(default_factory=list)

    def take(self, moment: float) -> None:
        """One more sample. OSError when it is gone."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        descriptors = len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
        memory = int(values["VmRSS"].split()[0]) / 1024
        self.samples.append((moment, memory, descriptors, int(values["Threads"])))

    def after(self, moment: float) -> list[tuple[float, float, int, int]]:
        """The samples since then."""
        return [sample for sample in self.samples if sample[0] >= moment]

    def drift(self, warm: float) -> list[str]:
        """What grew between the first and the last third of the time after `warm` seconds."""
        kept = self.after(warm)
        third = len(kept) // 3
        if third < 3:
            return [f"{self.name}: too few samples"]
        found = []
        for at, word, allowed in ((1, "MB", MEMORY), (2, "descriptors", DESCRIPTORS), (3, "threads", THREADS)):
            first, last = (median(sample[at] for sample in part) for part in (kept[:third], kept[-third:]))
            if last - first > allowed + (SHARE * first if at == 1 else 0):
                found.append(f"{self.name}: {word} drift from {first:.1f} to {last:.1f}")
        return found

    def row(self, warm: float) -> str:
        """One line of the table."""
        kept = self.after(warm) or self.samples
        memory = [sample[1] for sample in kept]
        files, threads = [sample[2] for sample in kept], [sample[3] for sample in kept]
        return (
            f"| {self.name} | {self.samples[0][1]:.1f} | {memory[0]:.1f} | {max(memory):.1f} | {memory[-1]:.1f}"
            f" | {slope([(at, value) for at, value, _, _ in kept]):+.2f}"
            f" | {median(files):.0f}, {max(files)} | {median(threads):.0f}, {max(threads)} |"
        )


HEAD = (
    "| process | MB at the start | MB after warm-up | most MB | MB at the end | MB an hour"
    " | descriptors (median, most) | threads (median, most) |\n|---|---|---|---|---|---|---|---|"
)


def slope(points: list[tuple[float, float]]) -> float:
    """Least squares, per hour."""
    count = len(points)
    middle_x, middle_y = (sum(point[i] for point in points) / count for i in (0, 1))
    below = sum((x - middle_x) ** 2 for x, _ in points)
    return 3600 * sum((x - middle_x) * (y - middle_y) for x, y in points) / below if below else 0.0
