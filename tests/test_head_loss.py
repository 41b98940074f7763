"""Losses out of a VLM's own forward pass are those of its logits, whatever is around its head."""

from __future__ import annotations

import os

import pytest
import torch
from largest_tensor import LargestTensor
from transformers import LlamaConfig, LlamaForCausalLM
from two_ranks import on_two_ranks

from selfilter_ray.errors import SelfilterError
from selfilter_ray.stage1.engine import prepare_accelerator
from selfilter_ray.stage1.head_loss import HeadLoss, head_inputs
from selfilter_ray.stage1.loss import IGNORED, sample_losses

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
COEFFICIENTS = torch.tensor([0.3, 0.0, 1.7])


def llama(tied=False, kind=LlamaForCausalLM):
    torch.manual_seed(0)
    return kind(LlamaConfig(**SIZES, tie_word_embeddings=tied)).train()


class Scaled(LlamaForCausalLM):
    """Changes its logits in a way that no setting tells of."""

    def forward(self, *arguments, **keywords):
        output = super().forward(*arguments, **keywords)
        output.logits = output.logits * 3.0
        return output


class Headless(LlamaForCausalLM):
    """Multiplies by its head's weight without calling the head."""

    def forward(self, input_ids=None, **keywords):
        output = self.model(input_ids)
        output.logits = output.last_hidden_state @ self.lm_head.weight.T
        return output


def softcapped():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5)
    config._attn_implementation = "eager"
    return Gemma2ForCausalLM(config).train()


def with_adapters(kind):
    """LoRA in the layers, or around the head as well."""
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "lm_head"] if kind == "head" else ["q_proj"]
    torch.manual_seed(0)
    adapted = get_peft_model(llama(), LoraConfig(target_modules=targets, init_lora_weights=False))
    return adapted.train()


def checkpointed():
    vlm = llama()
    vlm.gradient_checkpointing_enable({"use_reentrant": False})
    return vlm


MODELS = {
    "plain": (llama, True),
    "tied": (lambda: llama(tied=True), True),
    "checkpointed": (checkpointed, True),
    "lora": (lambda: with_adapters("layers"), True),
    "lora head": (lambda: with_adapters("head"), False),
    "softcapped": (softcapped, False),
    "scaled": (lambda: llama(kind=Scaled), False),
}


def batch(length=9, silent=(), seed=0):
    random = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(1, 50, (3, length), generator=random)
    labels_BT = ids_BT.where(torch.rand(3, length, generator=random) < 0.6, IGNORED)
    for sample in silent:
        labels_BT[sample] = IGNORED
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 6:] = 0
    labels_BT[1, 6:] = IGNORED
    return {"input_ids": ids_BT, "attention_mask": mask_BT}, labels_BT


def gradients(vlm):
    found = {name: value.grad for name, value in vlm.named_parameters() if value.requires_grad}
    vlm.zero_grad()
    return found


def plainly(vlm, inputs, labels_BT, upstream=1.0):
    """By way of all logits."""
    logits_BTV = vlm(**inputs, use_cache=False).logits[:, : labels_BT.shape[1]]
    loss_sum_B, _ = sample_losses(logits_BTV, labels_BT)
    weighted = (COEFFICIENTS * loss_sum_B).sum()
    (weighted * upstream).backward()
    return weighted.detach(), loss_sum_B.detach(), gradients(vlm)


def by_head(head_loss, vlm, inputs, labels_BT, upstream=1.0):
    weighted, loss_sum_B = head_loss(vlm, inputs, labels_BT, COEFFICIENTS)
    assert not loss_sum_B.requires_grad
    (weighted * upstream).backward()
    return weighted.detach(), loss_sum_B, gradients(vlm)


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_the_model_s_logits(name):
    make, fused = MODELS[name]
    vlm = make()
    head_loss = HeadLoss(vlm, chunk_bytes=4 * 50 * 4)
    for seed, upstream in ((0, 1.0), (1, 0.25)):
        inputs, labels_BT = batch(seed=seed)
        expected = plainly(vlm, inputs, labels_BT, upstream)
        found = by_head(head_loss, vlm, inputs, labels_BT, upstream)
        torch.testing.assert_close(found, expected)
        assert any(value.any() for value in found[2].values())
        assert head_loss.fused == fused
    assert "forward" not in vlm.get_output_embeddings().__dict__


@pytest.mark.parametrize("name", ["tied", "softcapped"])
def test_a_batch_without_supervision_costs_nothing_and_reaches_every_parameter(name):
    vlm = MODELS[name][0]()
    weighted, loss_sum_B, found = by_head(HeadLoss(vlm), vlm, *batch(silent=range(3)))
    assert weighted.item() == 0.0
    assert loss_sum_B.tolist() == [0.0, 0.0, 0.0]
    assert all(value is not None and not value.any() for value in found.values())


def test_texts_may_go_on_behind_their_labels():
    vlm = llama()
    inputs, labels_BT = batch()
    shorter_BT = labels_BT[:, :5]
    found = by_head(HeadLoss(vlm), vlm, inputs, shorter_BT)
    torch.testing.assert_close(found, plainly(vlm, inputs, shorter_BT))


def test_a_frozen_head_gets_no_gradient():
    vlm = llama()
    vlm.lm_head.requires_grad_(False)
    inputs, labels_BT = batch()
    expected = plainly(vlm, inputs, labels_BT)
    torch.testing.assert_close(by_head(HeadLoss(vlm), vlm, inputs, labels_BT), expected)
    assert vlm.lm_head.weight.grad is None


def test_the_vocabulary_is_never_as_wide_as_the_batch():
    vlm = llama()
    inputs, labels_BT = batch(length=200)
    with LargestTensor(*vlm.parameters()) as largest:
        by_head(HeadLoss(vlm, chunk_bytes=4 * 50 * 8), vlm, inputs, labels_BT)
    with LargestTensor(*vlm.parameters()) as plain:
        plainly(vlm, inputs, labels_BT)
    widest = 3 * 2 * 200 * 200  # attention's scores at most
    assert largest.elements <= widest
    assert plain.elements >= 3 * 199 * 50


def test_a_model_that_does_not_call_its_head_is_refused():
    vlm = llama(kind=Headless)
    with pytest.raises(SelfilterError, match="does not call its output embedding"):
        HeadLoss(vlm)(vlm, *batch(), COEFFICIENTS)


def test_a_model_that_leaves_positions_out_is_refused():
    vlm = llama()
    inputs, labels_BT = batch()
    with pytest.raises(SelfilterError, match="every position"):
        HeadLoss(vlm)(vlm, {**inputs, "logits_to_keep": 4}, labels_BT, COEFFICIENTS)
    assert vlm(**inputs).logits.shape == (3, 9, 50)


def test_head_inputs_are_what_gives_the_logits():
    vlm = llama()
    inputs, _ = batch()
    with torch.inference_mode():
        expected = vlm(**inputs).logits
        with head_inputs(vlm) as seen:
            vlm(**inputs)
        torch.testing.assert_close(vlm.lm_head(seen.hidden_BTD), expected)


class Trained(torch.nn.Module):
    """What DeepSpeed is given; the loss of rank 1 is over a batch without supervision."""

    def __init__(self, vlm):
        super().__init__()
        self.vlm = vlm
        self.head_loss = HeadLoss(vlm, chunk_bytes=4 * 50 * 4)

    def forward(self, inputs, labels_BT):
        return self.head_loss(self.vlm, inputs, labels_BT, COEFFICIENTS).weighted


OVER_RANKS = ("tied", "checkpointed", "scaled")
ZERO_3 = {
    "train_micro_batch_size_per_gpu": 3,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
    "steps_per_print": 2**31,
}


def under_zero_3(rank):
    """Gradients of two steps, for a model with a head of its own and one that shares it."""
    prepare_accelerator()
    os.environ["LOCAL_RANK"] = str(rank)
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    found = {}
    for name in OVER_RANKS:
        trained = Trained(MODELS[name][0]())
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.0)
        engine, *_ = deepspeed.initialize(
            model=trained, optimizer=optimizer, config=ZERO_3, dist_init_required=False
        )
        for seed in (0, 1):
            engine.backward(engine(*batch(seed=seed, silent=range(3) if rank else ())))
            for place, value in trained.vlm.named_parameters():
                found[name, seed, place] = safe_get_full_grad(value)
            engine.step()
    return found


def test_under_zero_3_on_two_ranks_gradients_are_the_mean_of_the_ranks_plain_ones(tmp_path):
    found, _ = on_two_ranks(under_zero_3, tmp_path)
    for name in OVER_RANKS:
        vlm = MODELS[name][0]()
        for seed in (0, 1):
            _, _, plain = plainly(vlm, *batch(seed=seed))
            for place, value in plain.items():
                torch.testing.assert_close(
                    found[name, seed, place].view_as(value), value / 2, msg=f"{name} {place}"
                )
