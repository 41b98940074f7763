"""The weighted loss of Stage 1 says what its formula says, on one process and on two."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from two_ranks import on_two_ranks

from selfilter_ray.stage1 import weighted_loss
from selfilter_ray.stage1.loss import (
    IGNORED,
    coefficients,
    combine,
    supervised_tokens,
    with_score_gradient,
)

REDUCTIONS = ("sum", "mean")
VOCABULARY = 7


def batch(seed, samples, length=9, silent=()):
    """Logits, labels and z of a random batch; the samples in ``silent`` have no supervision."""
    random = np.random.default_rng(seed)
    logits_BTV = torch.tensor(random.normal(size=(samples, length, VOCABULARY)) * 3)
    labels_BT = torch.tensor(random.integers(0, VOCABULARY, (samples, length)))
    labels_BT[torch.tensor(random.random((samples, length)) < 0.5)] = IGNORED
    for sample in silent:
        labels_BT[sample] = IGNORED
    return logits_BTV, labels_BT, torch.tensor(random.normal(size=samples) * 2)


def plain_sums(logits_BTV, labels_BT):
    """S_i and n_i, token by token."""
    sums, counts = [], []
    for logits_TV, labels_T in zip(logits_BTV.tolist(), labels_BT.tolist(), strict=True):
        losses = []
        for before, label in zip(logits_TV[:-1], labels_T[1:], strict=True):
            if label != IGNORED:
                total = math.fsum(math.exp(value) for value in before)
                losses.append(math.log(total) - before[label])
        sums.append(math.fsum(losses))
        counts.append(len(losses))
    return sums, counts


def plain_weights(z_B):
    exponents = [math.exp(z) for z in z_B.tolist()]
    return [exponent / sum(exponents) for exponent in exponents]


def plain_loss(logits_BTV, labels_BT, z_B, reduction):
    sums, counts = plain_sums(logits_BTV, labels_BT)
    weights = plain_weights(z_B)
    if reduction == "mean":
        terms = zip(weights, sums, counts, strict=True)
        return sum(w * S / n for w, S, n in terms if n)
    total = sum(len(sums) * w * S for w, S in zip(weights, sums, strict=True))
    return total / sum(counts)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("samples", [1, 2, 5, 16])
@pytest.mark.parametrize("seed", range(4))
def test_loss_is_the_formula_read_plainly(reduction, samples, seed):
    logits_BTV, labels_BT, z_B = batch(seed, samples)
    loss = weighted_loss(logits_BTV, labels_BT, z_B, reduction)
    assert loss.item() == pytest.approx(plain_loss(logits_BTV, labels_BT, z_B, reduction), rel=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_samples_without_supervision_take_weight_but_add_no_loss(reduction):
    logits_BTV, labels_BT, z_B = batch(5, 6, silent=(0, 3))
    z_B[3] = 4.0
    loss = weighted_loss(logits_BTV, labels_BT, z_B, reduction)
    assert loss.item() == pytest.approx(plain_loss(logits_BTV, labels_BT, z_B, reduction), rel=1e-5)
    alone = weighted_loss(logits_BTV[[1, 2]], labels_BT[[1, 2]], z_B[[1, 2]], reduction)
    assert loss.item() < alone.item()


def test_default_reduction_is_the_paper_s_sum():
    logits_BTV, labels_BT, z_B = batch(1, 4)
    paper = weighted_loss(logits_BTV, labels_BT, z_B, "sum", "device")
    assert weighted_loss(logits_BTV, labels_BT, z_B).item() == paper.item()
    assert weighted_loss(logits_BTV, labels_BT, z_B, "mean").item() != paper.item()


@pytest.mark.parametrize("seed", range(5))
def test_gradient_in_z_is_the_closed_form(seed):
    logits_BTV, labels_BT, z_B = batch(seed, 8, silent=(2,))
    z_B.requires_grad_(True)
    weighted_loss(logits_BTV, labels_BT, z_B, "sum").backward()

    sums, counts = plain_sums(logits_BTV, labels_BT)
    weights = plain_weights(z_B)
    mean = sum(w * S for w, S in zip(weights, sums, strict=True))
    expected_B = [
        w * (S - mean) * len(sums) / sum(counts) for w, S in zip(weights, sums, strict=True)
    ]
    np.testing.assert_allclose(z_B.grad, expected_B, rtol=1e-4, atol=1e-6)


def test_a_step_down_the_gradient_takes_weight_from_the_sample_with_the_highest_loss():
    logits_BTV, labels_BT, _ = batch(3, 6)
    z_B = torch.zeros(6, requires_grad=True)
    weighted_loss(logits_BTV, labels_BT, z_B).backward()
    sums, _ = plain_sums(logits_BTV, labels_BT)
    assert int(z_B.grad.argmax()) == int(np.argmax(sums))


def test_gradient_in_logits_stays_at_supervised_positions():
    logits_BTV, labels_BT, z_B = batch(2, 4)
    logits_BTV.requires_grad_(True)
    weighted_loss(logits_BTV, labels_BT, z_B).backward()
    touched_BT = logits_BTV.grad.abs().sum(-1) > 0
    assert torch.equal(touched_BT[:, :-1], labels_BT[:, 1:] != IGNORED)
    assert not touched_BT[:, -1].any()


@pytest.mark.parametrize(
    "arguments", [("median", "device"), ("sum", "node"), ("", "device"), ("SUM", "device")]
)
def test_unknown_settings_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        weighted_loss(*batch(0, 2), *arguments)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_bfloat16_logits_are_summed_in_float32(reduction):
    logits_BTV, labels_BT, z_B = batch(4, 6)
    halves_BTV = logits_BTV.bfloat16()
    loss = weighted_loss(halves_BTV, labels_BT, z_B.bfloat16(), reduction)
    rounded = plain_loss(halves_BTV.double(), labels_BT, z_B.bfloat16().double(), reduction)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(rounded, rel=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_batch_without_supervision_costs_nothing_and_has_finite_gradients(reduction):
    logits_BTV, labels_BT, z_B = batch(0, 3, silent=range(3))
    logits_BTV.requires_grad_(True)
    z_B.requires_grad_(True)
    loss = weighted_loss(logits_BTV, labels_BT, z_B, reduction)
    loss.backward()
    assert loss.item() == 0.0
    assert not logits_BTV.grad.any()
    assert not z_B.grad.any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_extreme_scores_do_not_overflow(reduction):
    logits_BTV, labels_BT, _ = batch(0, 3)
    z_B = torch.tensor([1e4, -1e4, 0.0], requires_grad=True)
    loss = weighted_loss(logits_BTV, labels_BT, z_B, reduction)
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(z_B.grad).all()


def test_global_scope_in_one_process_is_the_device_s():
    parts = batch(6, 5)
    assert weighted_loss(*parts, "sum", "global").item() == weighted_loss(*parts).item()


SAMPLES = st.lists(
    st.tuples(st.floats(-1e4, 1e4, width=32), st.integers(0, 40), st.floats(0, 500, width=32)),
    min_size=1,
    max_size=12,
)


def columns(samples):
    """z, numbers of tokens and summed losses; a sample without tokens has no loss."""
    z, tokens, sums = zip(*samples, strict=True)
    paid = [loss if count else 0.0 for count, loss in zip(tokens, sums, strict=True)]
    return torch.tensor(z), torch.tensor(tokens).float(), torch.tensor(paid)


def loss_and_pull(z_G, loss_of):
    z_G = z_G.clone().requires_grad_(True)
    loss = loss_of(z_G)
    loss.backward()
    return loss.detach(), z_G.grad


@given(SAMPLES, st.sampled_from(REDUCTIONS), st.data())
@hypothesis_settings(deadline=None, max_examples=60)
def test_the_mean_over_a_round_s_chunks_is_the_loss_over_the_round(samples, reduction, data):
    z_G, tokens_G, loss_sum_G = columns(samples)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(samples)), max_size=3)) | {len(samples)})
    chunks = [slice(a, b) for a, b in zip([0, *cuts], cuts, strict=False) if b > a]

    def by_chunks(z_G):
        losses = []
        for own in chunks:
            sizes = {"own_B": own, "tokens": tokens_G.sum(), "chunks": len(chunks)}
            c_B = coefficients(z_G, tokens_G[own], reduction, **sizes)
            weighted = (c_B.detach() * loss_sum_G[own]).sum()
            losses.append(with_score_gradient(weighted, c_B, loss_sum_G[own]))
        return torch.stack(losses).mean()

    whole, pull_G = loss_and_pull(z_G, lambda z: combine(loss_sum_G, tokens_G, z, reduction))
    found, found_G = loss_and_pull(z_G, by_chunks)
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found_G, pull_G, rtol=1e-3, atol=1e-2)
    assert torch.isfinite(found_G).all()


def test_a_chunk_s_places_may_be_any_of_the_round():
    z_G, tokens_B = torch.randn(7), torch.tensor([3.0, 5.0])
    sizes = {"tokens": torch.tensor(30.0), "chunks": 3}
    places = coefficients(z_G, tokens_B, own_B=torch.tensor([2, 6]), **sizes)
    weights_G = torch.softmax(z_G, 0)
    torch.testing.assert_close(places, 3 * 7 * weights_G[[2, 6]] / 30)


def test_the_first_label_is_predicted_by_nothing():
    labels_BT = torch.tensor([[5, IGNORED, 5], [IGNORED, IGNORED, IGNORED]])
    assert supervised_tokens(labels_BT).tolist() == [1.0, 0.0]


def gradients(rows, reduction, scope):
    """Of the loss over some rows, in the score weight and in logits that all samples share."""
    logits_BTV, labels_BT, _ = batch(9, 8, silent=(1,))
    features_BD = torch.tensor(np.random.default_rng(9).normal(size=(8, 4)), dtype=torch.float32)
    shared_TV = torch.zeros(logits_BTV.shape[1:], requires_grad=True)
    weight_D = torch.linspace(-1, 1, 4, requires_grad=True)
    loss = weighted_loss(
        (logits_BTV.float() + shared_TV)[rows],
        labels_BT[rows],
        (features_BD @ weight_D)[rows],
        reduction,
        scope,
    )
    loss.backward()
    return {"loss": loss.detach(), "weight_D": weight_D.grad, "shared_TV": shared_TV.grad}


def own_gradients(rank):
    """What each rank of two has before the ranks' gradients are averaged."""
    rows = [0, 1, 2] if rank == 0 else [3, 4, 5, 6, 7]
    return {reduction: gradients(rows, reduction, "global") for reduction in REDUCTIONS}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return on_two_ranks(own_gradients, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_global_scope_over_two_ranks_is_one_process_with_the_whole_batch(two_ranks, reduction):
    whole = gradients(list(range(8)), reduction, "device")
    for name, value in whole.items():
        mean = (two_ranks[0][reduction][name] + two_ranks[1][reduction][name]) / 2
        np.testing.assert_allclose(mean, value, rtol=1e-5, atol=1e-6, err_msg=name)
        assert not np.allclose(two_ranks[0][reduction][name], value)
