"""The whole module's loss and gradients are those of the formulas over its VLM's logits."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from selfilter_ray.config import TrainConfig
from selfilter_ray.stage1.balance import balance_loss, coupled
from selfilter_ray.stage1.loss import IGNORED, Round, sample_losses, weighted_loss
from selfilter_ray.stage1.model import Batch, Stage1Model
from selfilter_ray.stage1.score_net import ScoreNet

SAMPLES, LENGTH, VOCABULARY, INPUTS = 5, 8, 40, 3
CLUSTERS = torch.tensor([0, 1, 0, 2, 1])
SIZES = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SETTINGS = {
    "selfilter": {},
    "mean": {"loss_reduction": "mean"},
    "plain": {"objective": "plain"},
    "coido": {"objective": "coido"},
}


def stage1_model(**train):
    torch.manual_seed(0)
    vlm = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(image_size=8, patch_size=4, **SIZES),
            text_config=LlamaConfig(vocab_size=VOCABULARY, **SIZES),
            image_token_index=VOCABULARY - 1,
        )
    )
    config = TrainConfig(gradient_checkpointing=False, bf16=False, **train)
    model = Stage1Model(vlm.train(), ScoreNet(INPUTS, "uniform"), config, CLUSTERS)
    if model.coupled:
        model.log_variance_2.data = torch.tensor([0.7, -0.4])
    return model


def batch(rows):
    random = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(VOCABULARY - 1, (SAMPLES, LENGTH), generator=random)
    labels_BT = ids_BT.where(torch.rand(SAMPLES, LENGTH, generator=random) < 0.6, IGNORED)
    labels_BT[3] = IGNORED
    features_BD = torch.randn(SAMPLES, INPUTS, generator=random)
    mask_BT = torch.ones_like(ids_BT)
    parts = (torch.arange(SAMPLES), ids_BT, mask_BT, labels_BT)
    return Batch(*(part[rows] for part in parts), {}, {}, features_BD[rows])


def by_logits(model, whole):
    """The loss, read plainly."""
    logits_BTV = model.vlm(input_ids=whole.input_ids_BT).logits
    z_B = model.score_net(whole.features_BD)
    loss = weighted_loss(logits_BTV, whole.labels_BT, z_B, model.loss_reduction)
    if model.coupled:
        loss = coupled(loss, balance_loss(z_B, CLUSTERS[whole.rows]), model.log_variance_2)
    return loss


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("setting", SETTINGS)
def test_loss_and_gradients_are_those_of_the_formula(setting):
    model = stage1_model(**SETTINGS[setting])
    whole = batch(slice(None))
    plain = by_logits(model, whole)
    expected = gradients(model, plain)
    losses = model(whole)
    torch.testing.assert_close(losses.loss, plain)
    torch.testing.assert_close(gradients(model, losses.loss), expected)
    logits_BTV = model.vlm(input_ids=whole.input_ids_BT).logits
    loss_sum_B, tokens_B = sample_losses(logits_BTV, whole.labels_BT)
    torch.testing.assert_close(losses.loss_sum_B, loss_sum_B.detach())
    assert torch.equal(losses.tokens_B, tokens_B)
    assert expected.get("score_net.linear.weight", torch.ones(1)).any()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_global_weights_over_a_round_in_chunks_are_those_of_one_batch(reduction):
    model = stage1_model(weight_scope="global", loss_reduction=reduction)
    whole = batch(slice(None))
    expected = gradients(model, by_logits(model, whole))
    tokens = (whole.labels_BT[:, 1:] != IGNORED).sum()
    losses = []
    for rows in ([0, 4], [1, 2, 3]):
        chunk = Round(whole.features_BD, torch.tensor(rows), tokens, 2)
        losses.append(model(batch(rows), chunk).loss)
    torch.testing.assert_close(sum(losses) / 2, by_logits(model, whole))
    torch.testing.assert_close(gradients(model, sum(losses) / 2), expected)
