"""Token ids of a text, and sequences of them: random ones for calibration, consecutive windows for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsity.core import UserError


def tokenise(text: str, tokenizer: Callable[..., Any]) -> Tensor:
    """The token ids (N,) of the whole text, from one tokenizer call with default arguments.

    The text is not tokenised in pieces, because tokens may span a cut and each piece would get its own first token.
    """
    # `verbose=False`: no warning that the text is longer than the model allows; it is cut into sequences afterwards.
    return torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.int64)


def sample(ids_N: Tensor, num_sequences: int, seqlen: int, generator: torch.Generator) -> Tensor:
    """Sequences (B, T) with independent starts, uniform in [0, N - T]. They may overlap, as in the papers.

    Raises `UserError` if the text has fewer than B T tokens.
    """
    return sample_apart(ids_N, num_sequences, 0, seqlen, generator)[0]


def sample_apart(
    ids_N: Tensor, num_sequences: int, held_out: int, seqlen: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sequences (B, T) as `sample` draws them, and `held_out` more sequences (H, T) that share no position with them.

    The starts of the latter are uniform over all that are possible. Raises `UserError` if the text is too short, or if the first
    sequences leave no place for the others.
    """
    _positive(num_sequences=num_sequences, seqlen=seqlen)
    if len(ids_N) < num_sequences * seqlen:
        raise UserError(
            f"The calibration text has {len(ids_N):,} tokens. Expected at least {num_sequences} sequences x {seqlen} "
            f"tokens = {num_sequences * seqlen:,}. Ask for fewer or shorter sequences, or give a longer text."
        )
    all_NT = ids_N.unfold(0, seqlen, 1)
    starts_B = torch.randint(len(all_NT), (num_sequences,), generator=generator)
    if not held_out:
        return all_NT[starts_B], all_NT[:0]
    apart_N = torch.ones(len(all_NT), dtype=torch.bool)
    for start in starts_B.tolist():
        apart_N[max(start - seqlen + 1, 0) : start + seqlen] = False
    free_S = apart_N.nonzero()[:, 0]
    if not len(free_S):
        raise UserError(
            f"The calibration text has {len(ids_N):,} tokens, and {num_sequences} sequences of {seqlen} leave no {seqlen} "
            f"consecutive tokens to hold out. Ask for fewer or shorter sequences, or give a longer text."
        )
    starts_H = free_S[torch.randint(len(free_S), (held_out,), generator=generator)]
    return all_NT[starts_B], all_NT[starts_H]


def windows(ids_N: Tensor, seqlen: int, limit: int | None) -> Tensor:
    """The first `limit` (None: all) windows (B, T): window i is ids[i*T : (i+1)*T]. An incomplete last window is dropped.

    Raises `UserError` if the text has fewer windows than `limit`, or none.
    """
    _positive(seqlen=seqlen, limit=1 if limit is None else limit)
    found = len(ids_N) // seqlen
    asked = max(found, 1) if limit is None else limit
    if found < asked:
        raise UserError(
            f"The evaluation text has {len(ids_N):,} tokens, which are {found} windows of {seqlen}. Expected at least "
            f"{asked}. Ask for fewer or shorter windows, or give a longer text."
        )
    return ids_N[: asked * seqlen].view(asked, seqlen)


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"{name} is {number}. Expected at least 1; set it higher.")
