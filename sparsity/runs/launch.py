"""What Hydra knows about a job, in our words: its folder, where to look for finished runs, and what was chosen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from .errors import hand_on
from .groups import COMPONENTS, SHARED
from .pipeline import Place, run
from .store import RunStore


def job(config: DictConfig) -> float | None:
    """One run. Returns the pruned model's perplexity, which a sweeper may minimise."""
    OmegaConf.set_struct(config, True)
    hydra = cast(DictConfig, HydraConfig.get())
    try:
        result = run(config, place(hydra, config.name))
    except Exception as error:
        hand_on(error, hydra.job.num if hydra.mode == RunMode.MULTIRUN else None)
        raise
    finally:
        RunStore(Path(hydra.runtime.output_dir)).drop_if_empty()  # a mistake that was seen early leaves nothing behind
    perplexity: float | None = result.get("perplexity", {}).get("pruned")
    return perplexity


def place(hydra: DictConfig, name: str) -> Place:
    """Finished runs are looked up below the folder that `hydra.run.dir` or `hydra.sweep.dir` names, else below outputs/<name>."""
    sweep = hydra.mode == RunMode.MULTIRUN
    option = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    named = any(override.lstrip("+").startswith(f"{option}=") for override in hydra.overrides.hydra)
    root = Path(hydra.sweep.dir if sweep else hydra.run.dir) if named else Path("outputs") / name
    # a nested group, such as method@method.routes.mlp, is one too
    groups = (*COMPONENTS, *SHARED)
    choices = {str(g): str(option) for g, option in hydra.runtime.choices.items() if str(g).partition("@")[0] in groups}
    # as they were typed: an override may hold a reference, such as seed=${oc.env:SEED}
    words = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(words, list)
    words = [str(word) for word in words]
    swept = _swept(words) if sweep else []
    folder = Path(hydra.sweep.dir).absolute() if sweep else None
    return Place(Path(hydra.runtime.output_dir), root.absolute(), choices, words, folder, swept)


def _swept(words: list[str]) -> list[str]:
    """A point's words, without those that were typed with one value for all points."""
    parser = OverridesParser.create()
    typed = parser.parse_overrides([word for word in sys.argv[1:] if "=" in word and not word.startswith("-")])
    fixed = {override.key_or_group for override in typed if not override.is_sweep_override()}
    return [word for word in words if parser.parse_override(word).key_or_group not in fixed]
