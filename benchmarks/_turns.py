"""What network benchmarks share: sides that take turns, so that a busy machine slows all alike."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def measure(
    sides: dict[str, Callable[[], object]], *, rounds: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Milliseconds of each side in each round; the first `warm_up` rounds are not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm_up + rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if number >= warm_up:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def print_table(times: dict[str, list[float]], reference: str, notes: dict[str, str]) -> None:
    """Median and range of every side, and how often it fits into the reference's median."""
    whole = statistics.median(times[reference])
    for name, values in times.items():
        middle = statistics.median(values)
        span = f"{min(values):8.2f} .. {max(values):8.2f}"
        print(
            f"{name:34s} {middle:9.2f} ms  [{span}]  {whole / middle:6.2f}x  {notes.get(name, '')}"
        )


def print_machine(dtype: str) -> None:
    """Processor, threads, versions, and how busy the machine is besides."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), {dtype}"
        f"{load}; {versions}, numpy {np.__version__}"
    )


def processor() -> str:
    """Name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
