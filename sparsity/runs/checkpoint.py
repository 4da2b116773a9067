"""A pruned model as `AutoModelForCausalLM.from_pretrained` loads it: dense safetensors with exact zeros, and the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ..models import Loaded
from ..models.checkpoint import quiet
from .store import RunStore

FOLDER = "model"


def size(loaded: Loaded) -> int:
    """Bytes of the weights on disk, tied ones once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in loaded.model.parameters())


def save(store: RunStore, loaded: Loaded, result: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Model, generation config, tokenizer with its chat template, and a model card. All of it appears at once, or nothing."""
    with store.writing(FOLDER) as path, quiet():
        loaded.model.save_pretrained(path)
        loaded.tokenizer.save_pretrained(path)
        (path / "README.md").write_text(model_card(loaded, result, config), encoding="utf-8")


def model_card(loaded: Loaded, result: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """What was done to which model, and what it cost: enough to do it again."""
    sparsity, perplexity = result["sparsity"], result["perplexity"]
    measured = "not measured"
    if perplexity["dense"] is not None:
        protocol = result["evaluation"]["perplexity"]
        measured = (
            f"{perplexity['pruned']:.2f} (dense: {perplexity['dense']:.2f}), {protocol['windows']} windows of "
            f"{protocol['seqlen']} tokens of {result['dataset'].get('name', 'the evaluation text')}"
        )
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["pruned", "sparse", "sparsity-lab"],
    }
    recipe = {key: config[key] for key in ("method", "pattern", "corrector", "calibration", "scope", "dtype")}
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---
# {loaded.name}, {sparsity["found"]:.1%} of the pruned layers' weights zero

Pruned after training, layer by layer. The weights are stored dense, with exact zeros: the file is as large as the dense model's,
and it does not run faster by itself.

| | |
|---|---|
| base model | {loaded.name} ({", ".join(f"{k}: {v}" for k, v in loaded.origin.items())}) |
| sparsity asked / found | {sparsity["asked"]:.4f} / {sparsity["found"]:.4f} |
| pruned | {sparsity["weights"]:,} weights in {sparsity["layers"]} layers |
| perplexity | {measured} |
| mask sha256 | `{result["mask_sha256"]}` |
| run key | `{result["run_key"]}` |

```
{result["command"]}
```

```yaml
{yaml.safe_dump(recipe, sort_keys=False).strip()}
```
"""
