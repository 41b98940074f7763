"""Statistics of answer tokens, against the formulas written out and against autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from largest_tensor import LargestTensor

from selfilter_ray.measure.token_statistics import token_statistics
from selfilter_ray.stage1.loss import IGNORED, sample_losses

VOCABULARY = 50
NAMES = ("loss_sum", "loss", "el2n", "sum_p2", "p_y", "margin", "grand")


def batch(size, samples=4, length=17, bias=False, seed=0, scale=1.0):
    """Hidden states, labels, weight and bias; the second sample has no supervised token."""
    random = torch.Generator().manual_seed(seed)
    hidden_BTD = torch.randn(samples, length, size, generator=random) * scale
    labels_BT = torch.randint(0, VOCABULARY, (samples, length), generator=random)
    labels_BT[torch.rand(samples, length, generator=random) < 0.4] = IGNORED
    labels_BT[1] = IGNORED
    weight_VD = torch.randn(VOCABULARY, size, generator=random)
    bias_V = torch.randn(VOCABULARY, generator=random) if bias else None
    return hidden_BTD, labels_BT, weight_VD, bias_V


def written_out(hidden_TD, labels_T, weight_VD, bias_V):
    """The statistics of one sample in float64, with one-hot vectors and a backward pass."""
    weight = weight_VD.double().requires_grad_()
    bias = 0.0 if bias_V is None else bias_V.double()
    supervised = labels_T[1:] != IGNORED
    logits_NV = (hidden_TD.double()[:-1] @ weight.T + bias)[supervised]
    onehot_NV = torch.nn.functional.one_hot(labels_T[1:][supervised], VOCABULARY).bool()
    p_NV = logits_NV.softmax(1)
    nll_N = -p_NV[onehot_NV].log()
    (gradient_VD,) = torch.autograd.grad(nll_N.mean(), weight)
    others_NV = p_NV.masked_fill(onehot_NV, -1.0)
    return {
        "loss_sum": nll_N.sum(),
        "loss": nll_N.mean(),
        "el2n": (p_NV - onehot_NV.double()).norm(dim=1).mean(),
        "sum_p2": p_NV.square().sum(1).mean(),
        "p_y": p_NV[onehot_NV].mean(),
        "margin": (p_NV[onehot_NV] - others_NV.amax(1)).mean(),
        "grand": gradient_VD.norm(),
    }


# In the wide case GraNd comes from the products of pairs of tokens, in the narrow one from slices
# of the gradient: the samples have 8 to 12 supervised tokens.
@pytest.mark.parametrize("size", [3, 64], ids=["narrow", "wide"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 256])
def test_every_statistic_is_its_formula(size, bias, chunk_tokens):
    hidden_BTD, labels_BT, weight_VD, bias_V = batch(size, bias=bias, scale=3 / size**0.5)
    found = token_statistics(hidden_BTD, labels_BT, weight_VD, bias_V, chunk_tokens)
    assert found.tokens_B.tolist() == (labels_BT[:, 1:] != IGNORED).sum(1).tolist()
    for row in (0, 2, 3):
        expected = written_out(hidden_BTD[row], labels_BT[row], weight_VD, bias_V)
        for name in NAMES:
            value = getattr(found, f"{name}_B")[row].item()
            assert value == pytest.approx(expected[name].item(), rel=2e-5), name


def test_el2n_is_the_root_in_the_paper():
    hidden_BTD, labels_BT, weight_VD, _ = batch(8, length=2)
    labels_BT[:] = 7
    found = token_statistics(hidden_BTD, labels_BT, weight_VD)
    root = (found.sum_p2_B - 2 * found.p_y_B + 1).sqrt()
    torch.testing.assert_close(found.el2n_B, root, rtol=1e-5, atol=0)


def test_a_sample_without_a_supervised_token_has_no_means():
    hidden_BTD, labels_BT, weight_VD, _ = batch(8)
    found = token_statistics(hidden_BTD, labels_BT, weight_VD)
    assert (found.tokens_B[1].item(), found.loss_sum_B[1].item()) == (0, 0.0)
    assert all(getattr(found, f"{name}_B")[1].isnan() for name in NAMES[1:])
    alone = token_statistics(hidden_BTD[1:2], labels_BT[1:2], weight_VD)
    assert alone.tokens_B.tolist() == [0]
    assert alone.grand_B.isnan().all()


def test_padding_on_either_side_changes_nothing():
    hidden_BTD, labels_BT, weight_VD, _ = batch(8, length=9)
    plain = token_statistics(hidden_BTD, labels_BT, weight_VD)
    for before, after in ((0, 5), (5, 0), (2, 3)):
        hidden = torch.nn.functional.pad(hidden_BTD, (0, 0, before, after), value=99.0)
        labels = torch.nn.functional.pad(labels_BT, (before, after), value=IGNORED)
        labels[:, before] = IGNORED  # as every prompt's first token is
        padded = token_statistics(hidden, labels, weight_VD)
        for name in NAMES:
            expected = getattr(plain, f"{name}_B")
            torch.testing.assert_close(getattr(padded, f"{name}_B"), expected, equal_nan=True)


def test_losses_are_those_of_training():
    hidden_BTD, labels_BT, weight_VD, bias_V = batch(16, samples=6, bias=True)
    logits_BTV = torch.nn.functional.linear(hidden_BTD, weight_VD, bias_V)
    loss_sum_B, tokens_B = sample_losses(logits_BTV, labels_BT)
    found = token_statistics(hidden_BTD, labels_BT, weight_VD, bias_V, chunk_tokens=5, grand=False)
    torch.testing.assert_close(found.loss_sum_B.float(), loss_sum_B)
    assert found.tokens_B.tolist() == tokens_B.tolist()
    assert found.grand_B is None


def test_a_bfloat16_head_is_left_as_it_is_and_its_logits_are_widened():
    hidden_BTD, labels_BT, weight_VD, _ = (
        value if value is None or not value.is_floating_point() else value.bfloat16()
        for value in batch(16, scale=0.2)
    )
    logits_BTV = hidden_BTD @ weight_VD.T
    found = token_statistics(hidden_BTD, labels_BT, weight_VD)
    loss_sum_B, _ = sample_losses(logits_BTV, labels_BT)
    torch.testing.assert_close(found.loss_sum_B.float(), loss_sum_B, rtol=1e-3, atol=1e-3)
    p_NV = logits_BTV[0, :-1].float().softmax(1)
    places = labels_BT[0, 1:] != IGNORED
    error_NV = p_NV - torch.nn.functional.one_hot(labels_BT[0, 1:].clamp(min=0), VOCABULARY)
    gradient_VD = error_NV[places].T @ hidden_BTD[0, :-1][places].float() / places.sum()
    assert found.grand_B[0].item() == pytest.approx(gradient_VD.norm().item(), rel=1e-2)


def test_a_model_that_is_sure_keeps_its_digits():
    """p of the label is 1 - 2e-6, where float32 knows 1 to 6e-8: the plain root would be off."""
    gap = 17.0
    weight_VD = torch.eye(VOCABULARY)
    hidden_BTD = torch.zeros(1, 2, VOCABULARY)
    hidden_BTD[0, 0, 7] = gap
    found = token_statistics(hidden_BTD, torch.tensor([[0, 7]]), weight_VD)
    rest = (VOCABULARY - 1) * np.exp(-gap)
    miss = rest / (1 + rest)
    others = (VOCABULARY - 1) * (np.exp(-gap) / (1 + rest)) ** 2
    assert found.el2n_B.item() == pytest.approx(np.sqrt(miss**2 + others), rel=0.05)


@pytest.mark.parametrize(("size", "tokens"), [(4, 60), (64, 60)], ids=["narrow", "wide"])
def test_nothing_of_the_vocabulary_s_width_is_made_for_more_than_a_chunk(size, tokens):
    hidden_BTD, labels_BT = torch.randn(2, tokens + 1, size), torch.full((2, tokens + 1), 3)
    weight_VD = torch.randn(5000, size)
    seen = {}
    for chunk_tokens in (4, 2 * tokens):
        with LargestTensor(weight_VD) as largest:
            token_statistics(hidden_BTD, labels_BT, weight_VD, None, chunk_tokens)
        seen[chunk_tokens] = largest.elements
    assert seen[4] <= 4 * 5000
    assert seen[2 * tokens] == 2 * tokens * 5000
