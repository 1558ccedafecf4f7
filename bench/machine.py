"""The machine of a measurement: names, and the raw figures of the processor (`raw.c`), which every table states."""

import os
import platform
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def machine() -> dict[str, str]:
    """Processor, kernel, interpreter, day."""
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} × {processor(Path('/proc/cpuinfo').read_text(encoding='utf-8'))}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def processor(cpuinfo: str) -> str:
    """The first processor's name, family and model: virtual machines give different ones the same name."""
    words = dict[str, str]()
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        words.setdefault(name.strip(), value.strip())
    kind = [
        f"{word} {words[name]}"
        for word, name in (("family", "cpu family"), ("model", "model"))
        if name in words
    ]
    return words.get("model name", "") + (f" ({', '.join(kind)})" if kind else "")


def file_name(about: dict[str, str]) -> str:
    """A name for this machine's results: "2-amd-epyc-family-26-model-2"."""
    return re.sub(r"[^a-z0-9]+", "-", about["cpu"].lower()).strip("-")


def place(path: Path, kind: str, about: dict[str, str]) -> Path:
    """The file for results: a directory has one file for each machine."""
    return path / f"{kind}-{file_name(about)}.json" if path.is_dir() else path


def raw_figures() -> dict[str, float]:
    """Nanoseconds of a sandbox's basic operations; empty where they cannot be measured."""
    with tempfile.TemporaryDirectory(prefix="cloche-raw-") as folder:
        binary = f"{folder}/raw"
        built = subprocess.run(
            ["gcc", "-O2", "-pthread", "-w", "-o", binary, str(HERE / "raw.c")], check=False, timeout=60
        )
        if built.returncode:
            return {}
        done = subprocess.run([binary], capture_output=True, text=True, timeout=300, check=False)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return {row[0]: float(row[1]) for row in rows if len(row) == 2}


def line_ns(raw: dict[str, float]) -> float:
    """A cache line to another core and one back, over all pairs; 0 with one core."""
    trips = [value for name, value in raw.items() if name.startswith("line ")]
    return statistics.median(trips) if trips else 0.0


def describe(about: dict[str, str], raw: dict[str, float]) -> str:
    """The lines above a table."""
    figures = ", ".join(f"{name} {value:.0f}" for name, value in raw.items())
    return f"{about['cpu']}, Linux {about['kernel']}, Python {about['python']}\nraw, ns: {figures or 'not measured'}"
