"""The job that Hydra starts: its folder, the folder of finished runs, and the chosen options, read from Hydra's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ..options.components import Parts, build, check_targets, components
from ..options.mistakes import MISTAKES
from ..options.settings import Settings, read
from ..processes import Processes, connected
from ..record import console
from ..record.groups import COMPONENTS, SHARED
from ..record.numbers import is_number
from ..record.store import RunStore
from ..stages.job import Place
from ..stages.loading import Held
from . import together
from .errors import hand_on
from .pipeline import run
from .sweeps import Point, kin, note, own

HELD = Held()  # the points of a sweep that run in one process share a model


def job(config: DictConfig) -> float | None:
    """Do one run in all processes that torchrun started. Returns the number that `objective` names, for a sweeper to minimise."""
    with connected(together.rank(), together.size()) as processes:
        return _job(config, processes)


def _job(config: DictConfig, processes: Processes) -> float | None:
    OmegaConf.set_struct(config, True)
    hydra = cast(DictConfig, HydraConfig.get())
    sweep = hydra.mode == RunMode.MULTIRUN
    where = place(hydra, config.name)
    try:
        result, folder = run(config, where, HELD if sweep else None, processes)
        if sweep and result:
            note(Path(hydra.sweep.dir), Point(hydra.job.num, where.swept, str(folder), None))
    except Exception as error:
        if sweep:
            why = " ".join(str(error).split()) if isinstance(error, MISTAKES) else f"{type(error).__name__}: {error}"
            note(Path(hydra.sweep.dir), Point(hydra.job.num, where.swept, None, why))
        hand_on(error, hydra.job.num if sweep else None)
        raise
    finally:
        if processes.rank == 0:
            # after an early mistake no folder is left
            RunStore(Path(hydra.runtime.output_dir)).drop_if_empty()
    return _objective(config.objective, result, where.overrides)


def _objective(path: str, result: Mapping[str, Any], overrides: Sequence[str]) -> float | None:
    """The number of the result that `objective` names; None if there is none. A line says so if the user chose this objective."""
    found: Any = result
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    if is_number(found):
        return found
    if result and any(word.startswith("objective=") for word in overrides):
        console.say(
            f"objective={path} is no number of this run's result: expected the path of one in result.json, such as "
            f"perplexity.pruned or sparsity.found. A sweeper that minimises gets no number"
        )
    return None


def place(hydra: DictConfig, name: str) -> Place:
    """The folders and choices of a run.

    Finished runs are searched below the folder that `hydra.run.dir` or `hydra.sweep.dir` names, else below outputs/<name>.
    """
    sweep = hydra.mode == RunMode.MULTIRUN
    option = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    named = any(override.lstrip("+").startswith(f"{option}=") for override in hydra.overrides.hydra)
    root = Path(hydra.sweep.dir if sweep else hydra.run.dir) if named else Path("outputs") / name
    # nested groups such as method@method.routes.mlp count too
    groups = (*COMPONENTS, *SHARED)
    choices = {str(g): str(option) for g, option in hydra.runtime.choices.items() if str(g).partition("@")[0] in groups}
    # unresolved, as they were typed: an override may hold a reference, such as seed=${oc.env:SEED}
    words = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(words, list)
    words = [str(word) for word in words]
    folder = Path(hydra.sweep.dir).absolute() if sweep else None
    swept = own(folder, words) if folder else []
    others = partial(_composed, str(hydra.job.config_name), kin(folder, words)) if folder else tuple
    return Place(Path(hydra.runtime.output_dir), root.absolute(), choices, words, folder, swept, others)


def _composed(name: str, points: Sequence[Sequence[str]]) -> Iterator[tuple[Parts, Settings]]:
    """Yield the components and settings of the points that can be composed.

    A point that cannot is left out, since its own run reports the mistake: an option of one corrector may not exist for another.
    Yields nothing in a worker process that has not initialised Hydra.
    """
    for words in points if GlobalHydra.instance().is_initialized() else ():
        with suppress(*MISTAKES):
            config = compose(name, list(words))
            settings, options = read(config), components(config)
            check_targets(options, settings.allow)
            yield build(options), settings
