"""The chunked cross-entropy is the plain one: values, gradients, digits; and it stays small."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from largest_tensor import LargestTensor

from selfilter_ray.stage1.chunked_loss import chunked_loss

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = st.tuples(st.integers(0, 13), st.integers(2, 11), st.integers(1, 5))  # N, V, D


def parts(tokens, vocabulary, hidden, bias=True, seed=0, dtype=torch.float64, scale=2.0):
    """Hidden states, weight, bias, labels and coefficients, some of them zero."""
    random = torch.Generator().manual_seed(seed)
    shapes = ((tokens, hidden), (vocabulary, hidden), (vocabulary,))
    values = [scale * torch.randn(shape, generator=random).to(dtype) for shape in shapes]
    targets_N = torch.randint(vocabulary, (tokens,), generator=random)
    coefficient_N = torch.randn(tokens, generator=random).to(
        torch.promote_types(dtype, torch.float)
    )
    coefficient_N[::3] = 0.0
    return [values[0], values[1], values[2] if bias else None, targets_N, coefficient_N]


def plainly(hidden_ND, weight_VD, bias_V, targets_N, coefficient_N):
    """The same by way of all logits."""
    logits_NV = torch.nn.functional.linear(hidden_ND, weight_VD, bias_V)
    exact_NV = logits_NV.to(coefficient_N.dtype)
    nll_N = torch.nn.functional.cross_entropy(exact_NV, targets_N, reduction="none")
    return (coefficient_N * nll_N).sum(), nll_N


def gradients(loss_of, given_parts, upstream=1.0, frozen=()):
    """Losses and the gradients of hidden states, weight and bias."""
    fresh = [None if value is None else value.clone() for value in given_parts]
    for place, value in enumerate(fresh[:3]):
        if value is not None and place not in frozen:
            value.requires_grad_(True)
    weighted, nll_N = loss_of(*fresh)
    (weighted * upstream).backward()
    found = [None if value is None else value.grad for value in fresh[:3]]
    return weighted.detach(), nll_N.detach(), found


def chunk_bytes(tokens, vocabulary):
    """So that chunks have so many tokens."""
    return 4 * vocabulary * tokens


@given(SIZES, st.integers(1, 14), st.booleans(), st.integers(0, 99), st.floats(-3, 3))
@hypothesis_settings(deadline=None, max_examples=40)
def test_losses_and_gradients_are_the_plain_ones(sizes, chunk, bias, seed, upstream):
    tokens, vocabulary, hidden = sizes
    given_parts = parts(tokens, vocabulary, hidden, bias, seed)

    def ours(*fresh):
        return chunked_loss(*fresh, chunk_bytes(chunk, vocabulary))

    expected, expected_N, plain = gradients(plainly, given_parts, upstream)
    weighted, nll_N, found = gradients(ours, given_parts, upstream)
    torch.testing.assert_close(weighted, expected)
    torch.testing.assert_close(nll_N, expected_N)
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (1, 2), (0, 1), (0, 2)])
def test_what_is_frozen_gets_no_gradient_and_the_rest_theirs(frozen):
    given_parts = parts(7, 9, 4)

    def ours(*fresh):
        return chunked_loss(*fresh, chunk_bytes(3, 9))

    _, _, plain = gradients(plainly, given_parts, frozen=frozen)
    _, _, found = gradients(ours, given_parts, frozen=frozen)
    torch.testing.assert_close(found, plain)
    assert all(found[place] is None for place in frozen)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [4, 64])
def test_bfloat16_loses_no_more_digits_than_the_plain_way(bias, chunk):
    """A sum over many chunks kept in bfloat16 would."""
    given_parts = parts(64, 40, 24, bias, dtype=torch.bfloat16, scale=0.5)
    given_parts = [value if value is None else value.to(DEVICE) for value in given_parts]
    exact = [in_float64(value) for value in given_parts]

    def ours(*fresh):
        return chunked_loss(*fresh, chunk_bytes(chunk, 40))

    true, _, true_gradients = gradients(plainly, exact)
    _, plain_N, plain_gradients = gradients(plainly, given_parts)
    weighted, nll_N, found = gradients(ours, given_parts)
    assert weighted.dtype == nll_N.dtype == torch.float32
    torch.testing.assert_close(nll_N, plain_N, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(weighted.double(), true, rtol=0.02, atol=0.02)
    for own, plain, exactly in zip(found, plain_gradients, true_gradients, strict=True):
        if own is not None:
            assert own.dtype == torch.bfloat16
            assert distance(own, exactly) <= 1.1 * distance(plain, exactly)


def in_float64(value):
    return value.double() if value is not None and value.is_floating_point() else value


def distance(value, exact):
    return (value.double() - exact).norm().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_do_not_overflow(dtype):
    hidden_ND = torch.tensor([[1e4], [-1e4], [0.0]], dtype=dtype)
    weight_VD = torch.tensor([[1.0], [-1.0], [0.5]], dtype=dtype)
    given_parts = [hidden_ND, weight_VD, None, torch.tensor([0, 0, 2]), torch.ones(3)]
    _, nll_N, found = gradients(chunked_loss, given_parts)
    torch.testing.assert_close(nll_N, torch.tensor([0.0, 2e4, math.log(3)]), rtol=4e-3, atol=0)
    assert all(torch.isfinite(value).all() for value in found if value is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_is_larger_than_a_chunk_s_logits_or_the_weight(dtype):
    tokens, vocabulary, hidden, chunk = 64, 500, 16, 8
    given_parts = parts(tokens, vocabulary, hidden, dtype=dtype)
    for value in given_parts[:3]:
        value.requires_grad_(True)
    with LargestTensor(given_parts[1]) as largest:
        chunked_loss(*given_parts, chunk_bytes(chunk, vocabulary))[0].backward()
    assert largest.elements == hidden * vocabulary
    given_parts[1].requires_grad_(False)
    with LargestTensor(given_parts[1]) as largest:
        chunked_loss(*given_parts, chunk_bytes(chunk, vocabulary))[0].backward()
    assert largest.elements == chunk * vocabulary


def test_without_gradients_none_are_made():
    given_parts = parts(8, 300, 50)
    given_parts[1].requires_grad_(True)
    with torch.no_grad(), LargestTensor(given_parts[1]) as largest:
        weighted, nll_N = chunked_loss(*given_parts, chunk_bytes(2, 300))
    assert largest.elements == 2 * 300
    assert not weighted.requires_grad
    torch.testing.assert_close(nll_N, plainly(*given_parts)[1].detach())


def test_a_second_backward_pass_is_refused():
    given_parts = parts(3, 5, 2)
    given_parts[0].requires_grad_(True)
    weighted, _ = chunked_loss(*given_parts)
    weighted.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run the forward pass again"):
        weighted.backward()
