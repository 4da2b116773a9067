"""python tests/help/harness.py ARGUMENTS: run.py, slowed down, counted, or stopped in the middle of a write.

Environment variables say which:

SLOW=seconds      before every layer and every forward pass of a block
COUNTED=file      appends the name of every layer that is pruned, and "pass <block>" of every forward pass
STALL=part        a write of a file whose name holds this stops after half of its bytes, says so on stdout, and waits
LIMIT=bytes       no file may grow beyond this: the disk is full
"""

from __future__ import annotations

import os
import resource
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsity import engine
from sparsity.stream import BlockStream

ROOT = Path(__file__).parents[2]


def count(line: str) -> None:
    time.sleep(float(os.environ.get("SLOW", "0")))
    if "COUNTED" in os.environ:
        with open(os.environ["COUNTED"], "a") as file:
            file.write(f"{line}\n")


def counting(inner: Callable[..., Any], line: Callable[..., str]) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        count(line(*arguments))
        return inner(*arguments)

    return counted


def stalling(write: Callable[[Path, Any], int], half: Callable[[Path, Any], int]) -> Callable[..., int]:
    def stalled(path: Path, content: Any, *arguments: Any, **options: Any) -> int:
        if os.environ["STALL"] in path.name:
            half(path, content[: len(content) // 2])
            print("STALLED", flush=True)
            time.sleep(600)
        return write(path, content, *arguments, **options)

    return stalled


def main() -> None:
    engine._prune_layer = counting(engine._prune_layer, lambda plan, block, site, *_: site.name)
    BlockStream._run = counting(BlockStream._run, lambda stream, block, *_: f"pass {block.index}")  # type: ignore[method-assign]
    if "STALL" in os.environ:
        Path.write_bytes = stalling(Path.write_bytes, Path.write_bytes)  # type: ignore[method-assign]
        Path.write_text = stalling(Path.write_text, Path.write_text)  # type: ignore[method-assign]
    if "LIMIT" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["LIMIT"]),) * 2)
    sys.argv[0] = str(ROOT / "run.py")
    runpy.run_path(sys.argv[0], run_name="__main__")


main()
