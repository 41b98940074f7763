"""The public functions give what the public Self-Filter release gives on the same inputs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from selfilter_ray.select import select_diverse
from selfilter_ray.stage1 import weighted_loss

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["positive", "negative", "mixed_sign", "strong_penalty"])
def test_select_diverse_picks_what_the_release_picks(name):
    golden = np.load(DATA / f"stage2_{name}.npz")
    picks = select_diverse(
        golden["features"],
        golden["difficulty"],
        budget=len(golden["picks"]),
        gamma=float(golden["gamma"]),
        k_nearest=int(golden["k_nearest"]),
        difficulty="raw",
    )
    assert picks.indices.tolist() == golden["picks"].tolist()


@pytest.mark.parametrize("name", ["1", "2"])
def test_weighted_loss_and_gradients_are_the_release_s(name):
    golden = np.load(DATA / f"stage1_loss_{name}.npz")
    logits_BTV = torch.tensor(golden["logits"], requires_grad=True)
    weight_1D = torch.tensor(golden["score_weight"], requires_grad=True)
    score_logits_B = (torch.tensor(golden["features"]) @ weight_1D.T).squeeze(-1)

    loss = weighted_loss(logits_BTV, torch.tensor(golden["labels"]), score_logits_B)
    loss.backward()

    weights_B = torch.softmax(score_logits_B, 0).detach().numpy()
    np.testing.assert_allclose(weights_B, golden["weights"], rtol=1e-5)
    np.testing.assert_allclose(loss.item(), golden["loss"], rtol=1e-6)
    np.testing.assert_allclose(weight_1D.grad, golden["grad_score_weight"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(logits_BTV.grad, golden["grad_logits"], rtol=1e-4, atol=1e-7)
