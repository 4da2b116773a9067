"""The stage `save`: writes the pruned model as a checkpoint that `AutoModelForCausalLM.from_pretrained` loads.

It holds dense safetensors with exact zeros, the recipe, and `sparsity.json` with the number of zeros of each layer, counted again
in the saved file. With packed=true the packed form is written too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..cache import content_hash
from ..core import Site, UserError
from ..linalg import nonzeros
from ..models import Decoder, Loaded
from ..models.packed import FILE, save_packed
from ..record.groups import PRUNING
from ..record.result import Result
from ..record.store import RunStore
from .job import Job
from .sizes import shapes
from .stage import Cost, Found, Outlook, Plain

if TYPE_CHECKING:
    from .work import Work

FOLDER, PACKED = "model", "packed"
MANIFEST = "sparsity.json"


@dataclass(frozen=True)
class Save(Plain):
    """The stage `save`."""

    name = "save"
    shared = False

    def check(self, job: Job) -> None:
        if job.settings.packed and not job.settings.save:
            raise UserError("packed=true packs the checkpoint that save=true writes: expected both. Add save=true")
        if job.settings.packed and job.parts.model.stream:
            raise UserError(
                "packed=true holds the whole model, and model.stream=true leaves its blocks in their files: expected one of them. "
                "Pack the saved checkpoint where it fits: method=dense model=local save=true packed=true"
            )

    def cost(self, outlook: Outlook) -> Cost:
        return Cost(disk={"checkpoint": outlook.shapes.weights * outlook.settings.save})

    def do(self, work: Work, known: None) -> Found:
        job = work.job
        if job.settings.save:
            with work.busy("saving"):
                save(
                    job.store,
                    work.dense.loaded,
                    work.decoder,
                    work.plan.sites,
                    work.result,
                    job.config,
                    job.settings.packed,
                )
        return Found()


def save(
    store: RunStore,
    loaded: Loaded,
    decoder: Decoder,
    sites: Sequence[Site],
    result: Result,
    config: Mapping[str, Any],
    packed: bool,
) -> None:
    """Write model, generation config, tokenizer with its chat template, model card and manifest: all of them, or nothing.

    Raises `UserError` if they cannot be written.
    """
    from ..models.checkpoint import quiet  # loads transformers, which a run that finished earlier does not need

    try:
        with store.writing(FOLDER) as path, quiet():
            (loaded.files.save if loaded.files else loaded.model.save_pretrained)(path)
            loaded.tokenizer.save_pretrained(path)
            (path / "README.md").write_text(model_card(loaded, result, config), encoding="utf-8")
            found = manifest(decoder, sites, result, config, path)
            (path / MANIFEST).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        if packed:
            with store.writing(PACKED) as path:
                shutil.copytree(store.folder / FOLDER, path, ignore=shutil.ignore_patterns("*.safetensors*"))
                save_packed(_stored(store.folder / FOLDER), path / FILE)
    except (OSError, SafetensorError) as error:
        size = shapes(decoder).weights / 2**30
        raise UserError(
            f"the checkpoint cannot be written to {store.folder} ({error}): expected {size:.2f} GiB. Free some "
            f"space; the same command then resumes here, if it kept a journal"
        ) from error


def manifest(
    decoder: Decoder, sites: Sequence[Site], result: Result, config: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """The content of sparsity.json: the zeros of each layer.

    Raises `RuntimeError` if a layer has another number of zeros in the saved file than in the model.
    """
    in_file = {name: tensor.numel() - nonzeros(tensor) for name, tensor in _stored(folder)}
    layers = {}
    for site, weight_OI in ((layer.site, layer.weight_OI) for layer in decoder.layers(sites)):
        # The file may give a weight another name than the model does: then "counted_in_file" is false.
        zeros, counted = weight_OI.numel() - nonzeros(weight_OI), in_file.get(f"{site.name}.weight")
        if counted not in (zeros, None):
            raise RuntimeError(
                f"{site.name} has {zeros} zeros in the model and {counted} in {folder}: it was not saved as it is"
            )
        layers[site.name] = {
            "rows": weight_OI.shape[0],
            "columns": weight_OI.shape[1],
            "zeros": zeros,
            "sparsity": zeros / weight_OI.numel(),
            "counted_in_file": counted is not None,
        }
    return {
        "schema": 1,
        "base_model": result.model.content(),
        "run_key": result.run_key,
        "config_sha256": content_hash(config),
        **result.composition,
        "mask_sha256": result.keep_sha256,
        "sparsity": result.sparsity.content(),
        "layers": layers,
    }


def _stored(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of a saved checkpoint, one at a time."""
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            names = [*file.keys()]
        for name in names:  # opened for each tensor: pages of a mapped file stay in memory until it is closed
            with safe_open(shard, framework="pt") as file:
                yield name, file.get_tensor(name)


def model_card(loaded: Loaded, result: Result, config: Mapping[str, Any]) -> str:
    """The README.md of a checkpoint: the model, the recipe, the results, and the command to repeat the run."""
    sparsity, perplexity = result.sparsity, result.perplexity
    measured = "not measured"
    if perplexity.dense is not None:
        protocol = result.evaluation["perplexity"]
        measured = (
            f"{perplexity.pruned:.2f} (dense: {perplexity.dense:.2f}), {protocol['windows']} windows of "
            f"{protocol['seqlen']} tokens of {result.dataset.name or 'the evaluation text'}"
        )
    others = [measure for measure in result.measures if measure.name.startswith("evaluation.") and not measure.folded]
    further = "".join(f"\n| {measure.title} | {measure.told()} |" for measure in others)
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["pruned", "sparse", "sparsity-lab"],
    }
    recipe = {key: config[key] for key in (*PRUNING, "calibration", "scope", "dtype")}
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---
# {loaded.name}, {sparsity.found:.1%} of the pruned layers' weights zero

Pruned after training, layer by layer. The model does not run faster by itself. Files `model*.safetensors` hold the weights with
exact zeros, and are as large as the dense model's. A file `model.packed.safetensors` leaves the zeros out; sparsity-lab reads it
(`model=local model.path=FOLDER`), and transformers alone does not.

| | |
|---|---|
| base model | {loaded.name} ({", ".join(f"{k}: {v}" for k, v in loaded.origin.items())}) |
| sparsity asked / found | {sparsity.asked:.4f} / {sparsity.found:.4f} |
| pruned | {sparsity.weights:,} weights in {sparsity.layers} layers |
| perplexity | {measured} |{further}
| mask sha256 | `{result.keep_sha256}` |
| run key | `{result.run_key}` |

```
{result.command}
```

```yaml
{yaml.safe_dump(recipe, sort_keys=False).strip()}
```
"""
