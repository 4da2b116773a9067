"""A user's mistake is one message, never a traceback; anything else is a defect and keeps its traceback.

Hydra's own complaints about options are completed here: it lists the options of a group, but not the keys of a configuration.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..core import UserError


def explained(main: Callable[[], Any], conf: Path) -> None:
    """Run `main`; end with status 1 and one message after a user's mistake, with 130 after Ctrl-C."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on instead of printing them
    try:
        main()
    except KeyboardInterrupt:
        _end("interrupted: the run folder has no result.json, so the same command starts this run again", 130)
    except UserError as error:
        _end(f"error: {error}", 1)
    except (HydraException, OmegaConfBaseException) as error:
        _end(f"error: {describe(error, conf)}", 1)


def describe(error: BaseException, conf: Path) -> str:
    """Hydra's message without its search path, and for an unknown key the keys that exist."""
    text = re.sub(r"\n\s*Config search path:.*", "", str(error), flags=re.DOTALL)
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and cause is not None and str(cause).split("\n")[0] not in text:
        text += "\n" + str(cause).split("\n")[0]
    unknown = re.search(r"Could not override '([^']+)'", text)
    return text.strip() + (_suggest(unknown.group(1), conf) if unknown else "")


def _suggest(key: str, conf: Path) -> str:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        keys = list(_keys(OmegaConf.to_container(compose("config"))))
    parent = key.rpartition(".")[0]
    beside = [k for k in keys if k.rpartition(".")[0] == parent] or [k for k in keys if "." not in k]
    close = difflib.get_close_matches(key, keys, n=3)
    hint = f"\nDid you mean: {', '.join(close)}?" if close else ""
    return f"{hint}\nOptions{f' of {parent}' if parent else ''}: {', '.join(sorted(beside))}"


def _keys(node: Any, path: str = "") -> Iterator[str]:
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        yield name
        if isinstance(value, dict):
            yield from _keys(value, name)


def _end(message: str, status: int) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr)
    sys.exit(status)
