"""The dashboard of the runs that `tracker=[trackio]` recorded: trackio's own page, served to this machine only."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

FOLDER = "outputs/trackio"  # as in conf/tracker/trackio.yaml
ORDER = "perplexity/*,evaluation/*,sparsity/*,layers/*,layer/*"  # of the plots


def main(words: Sequence[str], name: str) -> int:
    """Serve the page on 127.0.0.1 until Ctrl-C. `name`: the command's name in its help."""
    parser = argparse.ArgumentParser(prog=name, description="All tracked runs in the browser; Ctrl-C ends it.")
    parser.add_argument(
        "--folder",
        default=os.environ.get("TRACKIO_DIR", FOLDER),
        help=f"where the runs were tracked (default: TRACKIO_DIR, else {FOLDER})",
    )
    folder = Path(parser.parse_args(words).folder).expanduser()
    if not folder.is_dir():
        print(f"{folder} is not there yet: runs of other folders are shown with --folder", flush=True)
    os.environ["TRACKIO_DIR"] = str(folder.absolute())  # trackio reads both when it is imported
    os.environ.setdefault("TRACKIO_PLOT_ORDER", ORDER)
    from trackio import show

    show(host="127.0.0.1")
    return 0
