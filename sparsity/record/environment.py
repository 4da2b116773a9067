"""The environment of a run: versions, hardware, commit, command. It helps to explain why two results differ."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:  # imported only where a device is used: a report uses this room and must not load torch
    import torch

from .started import started

PACKAGES = (
    "sparsity-lab",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "lm-eval",
    "hydra-core",
    "omegaconf",
    "safetensors",
    "numpy",
)


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """The environment of this run as a JSON value. `processes`: the number of processes that share the run."""
    import torch

    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*started(processes), *sys.argv[1:]]),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "processes": processes,
            "threads": torch.get_num_threads(),
            "memory_bytes": psutil.virtual_memory().total,
            "device": str(device),
            "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        },
    }


def circumstances(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """The conditions that can change the last bits of a computation, besides versions. `processes`: the number that share it."""
    import torch

    if device.type == "cpu":
        return {
            "device": "cpu",
            "processes": processes,
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "processes": processes, "deterministic": torch.are_deterministic_algorithms_enabled()}


def commit() -> str | None:
    """The commit of this checkout, with "+changes" if sparsity/ or run.py differ from it; None outside a git checkout."""
    root = Path(__file__).parents[2]
    if not (root / "run.py").is_file():  # installed, perhaps inside a repository that is somebody else's
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--", "sparsity", "run.py") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory() -> int:
    """Peak resident memory of this process in bytes, since it started."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux `getrusage` would include the peak of the parent process
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # in kilobytes, except on macOS


def resident() -> int:
    """Current resident memory of this process in bytes."""
    held: int = psutil.Process().memory_info().rss
    return held


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
