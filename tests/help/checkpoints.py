"""Small checkpoints: made, saved, compared and harmed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sparsity.models import Decoder, Loaded, Tiny

TINY = Tiny(seed=0, hidden_size=32, num_blocks=2, tie_word_embeddings=True)


def tiny(tie_word_embeddings: bool = True) -> Loaded:
    """The model that `model=tiny` loads."""
    return Tiny(seed=0, hidden_size=64, num_blocks=2, tie_word_embeddings=tie_word_embeddings).load(None)


def save(loaded: Loaded, folder: Path) -> Path:
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def save_with_zeros(folder: Path) -> float:
    """Saves `tiny` with zeros of its own in one layer. Returns the fraction of its prunable weights that they are."""
    loaded = tiny()
    decoder = Decoder(loaded.model)
    decoder.layer(decoder.sites[3]).weight_OI[::2] = 0
    save(loaded, folder)
    return zeros(*(decoder.layer(site).weight_OI for site in decoder.sites))


def zeros(*weights: Tensor) -> float:
    """The fraction of zeros among all of them."""
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def same(a: Loaded, b: Loaded) -> bool:
    one, two = a.model.state_dict(), b.model.state_dict()
    return one.keys() == two.keys() and all(x.dtype == two[n].dtype and torch.equal(x, two[n]) for n, x in one.items())


def tied(loaded: Loaded) -> bool:
    return loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight


def edited(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
