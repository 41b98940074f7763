"""CoIDO's objective against a naive reference, and where its gradients point."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from selfilter_ray.stage1.balance import balance_loss, coupled

SAMPLES = st.lists(st.tuples(st.floats(-20, 20), st.integers(0, 4)), min_size=1, max_size=16)


def reference_balance(z, clusters):
    """One sample after the other, in Python's floats."""
    highest = max(z)
    exponents = [math.exp(value - highest) for value in z]
    weights = [len(z) * exponent / sum(exponents) for exponent in exponents]
    means = []
    for cluster in sorted(set(clusters)):
        mine = [w for w, c in zip(weights, clusters, strict=True) if c == cluster]
        means.append(sum(mine) / len(mine))
    middle = sum(means) / len(means)
    return sum((mean - middle) ** 2 for mean in means) / len(means)


def balance(z, clusters):
    return balance_loss(torch.tensor(z, dtype=torch.float32), torch.tensor(clusters))


@given(SAMPLES)
@hypothesis_settings(deadline=None)
def test_balance_is_the_variance_of_the_mean_weights_of_clusters(samples):
    z, clusters = zip(*samples, strict=True)
    expected = reference_balance(z, clusters)
    assert balance(z, clusters).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("z", "clusters"),
    [
        ([3.0, -1.0, 2.0], [1, 1, 1]),  # one cluster
        ([0.0, 0.0, 0.0, 0.0], [0, 0, 0, 7]),  # all alike, whatever the sizes
        ([5.0, 1.0, 5.0, 1.0], [0, 0, 1, 1]),  # clusters alike
        ([5.0], [3]),
    ],
)
def test_nothing_to_balance_costs_nothing(z, clusters):
    assert balance(z, clusters).item() == pytest.approx(0.0, abs=1e-10)


def test_balance_does_not_depend_on_order_or_on_the_clusters_numbers():
    z, clusters = [1.0, -2.0, 0.5, 3.0], [0, 1, 0, 2]
    order = [2, 0, 3, 1]
    shuffled = balance([z[row] for row in order], [clusters[row] for row in order])
    assert shuffled.item() == pytest.approx(balance(z, clusters).item(), rel=1e-6)
    assert balance(z, [40, 3, 40, 9]).item() == pytest.approx(balance(z, clusters).item(), rel=1e-6)


def test_balance_pulls_a_cluster_of_high_weights_down_and_one_of_low_weights_up():
    z_B = torch.tensor([1.0, 1.0, -1.0, -1.0], requires_grad=True)
    balance_loss(z_B, torch.tensor([0, 0, 1, 1])).backward()
    assert (z_B.grad[:2] > 0).all()  # descent lowers these
    assert (z_B.grad[2:] < 0).all()


@given(SAMPLES.filter(lambda samples: len(samples) > 1))
@hypothesis_settings(deadline=None, max_examples=30)
def test_gradients_are_those_of_finite_differences(samples):
    z_B = torch.tensor([z / 10 for z, _ in samples], requires_grad=True)
    clusters_B = torch.tensor([cluster for _, cluster in samples])
    (gradient_B,) = torch.autograd.grad(balance_loss(z_B, clusters_B), z_B)
    z, clusters = z_B.detach().double().tolist(), clusters_B.tolist()
    for place in range(len(z)):
        sides = [
            reference_balance([*z[:place], z[place] + step, *z[place + 1 :]], clusters)
            for step in (1e-5, -1e-5)
        ]
        expected = (sides[0] - sides[1]) / 2e-5
        assert gradient_B[place].item() == pytest.approx(expected, rel=1e-2, abs=1e-4)


@pytest.mark.parametrize("log_variance", [(0.0, 0.0), (1.5, -0.5), (-3.0, 2.0)])
def test_losses_are_joined_under_their_uncertainties(log_variance):
    importance, balance, s = 3.0, 0.25, np.array(log_variance)
    expected = 0.5 * (np.exp(-s[0]) * importance + np.exp(-s[1]) * balance + s.sum())
    found = coupled(torch.tensor(importance), torch.tensor(balance), torch.tensor(log_variance))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_an_uncertainty_grows_with_its_loss_and_rests_where_both_are_equal():
    """The derivative by s is (1 - exp(-s) L) / 2: zero at s = log L."""
    s_2 = torch.zeros(2, requires_grad=True)
    coupled(torch.tensor(3.0), torch.tensor(0.25), s_2).backward()
    assert s_2.grad.tolist() == pytest.approx([-1.0, 0.375])  # descent raises s_1, lowers s_2
    resting_2 = torch.tensor([math.log(3.0), math.log(0.25)], requires_grad=True)
    coupled(torch.tensor(3.0), torch.tensor(0.25), resting_2).backward()
    assert resting_2.grad.tolist() == pytest.approx([0.0, 0.0], abs=1e-7)


def test_a_larger_uncertainty_makes_a_loss_count_less():
    z_B = torch.tensor([1.0, -1.0], requires_grad=True)
    pulls = []
    for s in (0.0, 2.0):
        loss = coupled(
            torch.tensor(1.0), balance_loss(z_B, torch.tensor([0, 1])), torch.tensor([0.0, s])
        )
        pulls.append(torch.autograd.grad(loss, z_B)[0].abs().sum().item())
    assert pulls[1] == pytest.approx(pulls[0] * math.exp(-2.0), rel=1e-5)
