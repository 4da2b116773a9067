"""The packed form gives the same bits back, takes the bytes that it promises, and refuses what it is not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sparsity.core import UserError
from sparsity.models.packed import FILE, load_packed, packed_bytes, save_packed

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8]


def bits(tensor):
    return tensor.flatten().view(torch.uint8)


def sparse(shape, dtype, sparsity, seed=0):
    g = torch.Generator().manual_seed(seed)
    keep = torch.rand(shape, generator=g) >= sparsity
    return (torch.randn(shape, generator=g) * 100).to(dtype) * keep.to(dtype)


@given(
    shape=st.lists(st.integers(0, 9), min_size=0, max_size=3),
    dtype=st.sampled_from(DTYPES),
    sparsity=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 99),
)
def test_a_round_trip_keeps_every_bit(tmp_path_factory, shape, dtype, sparsity, seed):
    path = tmp_path_factory.mktemp("packed") / FILE
    tensors = {"a.weight": sparse(shape, dtype, sparsity, seed), "b": sparse((5, 3), dtype, 1 - sparsity, seed)}
    save_packed(tensors.items(), path)
    found = load_packed(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype)
        assert torch.equal(bits(found[name]), bits(tensor))


def test_minus_zero_nan_and_infinity_are_values(tmp_path):
    weight = torch.zeros(100)
    weight[[3, 50, 70, 99]] = torch.tensor([-0.0, torch.nan, torch.inf, 1e-45])
    save_packed([("weight", weight)], tmp_path / FILE)
    assert load_file(tmp_path / FILE)["weight.values"].shape == (4,)
    assert torch.equal(bits(load_packed(tmp_path / FILE)["weight"]), bits(weight))


@pytest.mark.parametrize("dtype, share", [(torch.bfloat16, 9 / 16), (torch.float32, 17 / 32)])
def test_half_the_weights_take_what_the_formula_says(tmp_path, dtype, share):
    weight = torch.ones(64, 64, dtype=dtype)
    weight[:, ::2] = 0
    save_packed([("weight", weight)], tmp_path / FILE)
    stored = sum(t.numel() * t.element_size() for t in load_file(tmp_path / FILE).values())
    assert stored == packed_bytes(weight) == share * weight.numel() * weight.element_size()


def test_a_dense_tensor_stays_as_it_is(tmp_path):
    weight = torch.ones(64, 64)
    save_packed([("weight", weight)], tmp_path / FILE)
    assert load_file(tmp_path / FILE).keys() == {"weight"}
    assert packed_bytes(weight) == 64 * 64 * 4


def test_another_file_is_refused(tmp_path):
    save_file({"weight": torch.ones(3)}, tmp_path / FILE)
    with pytest.raises(UserError, match=r"in the format None: expected 'sparsity-lab packed 1'"):
        load_packed(tmp_path / FILE)


def test_values_that_do_not_fit_their_bits_are_refused(tmp_path):
    save_packed([("weight", sparse((16, 16), torch.float32, 0.5))], tmp_path / FILE)
    parts, metadata = load_file(tmp_path / FILE), {"format": "sparsity-lab packed 1", "shapes": '{"weight": [16, 16]}'}
    parts["weight.values"] = parts["weight.values"][1:]
    save_file(parts, tmp_path / FILE, metadata=metadata)
    with pytest.raises(UserError, match=r"weight has .* values for .* bits: it is damaged"):
        load_packed(tmp_path / FILE)
