"""Every family of VLM, each with a tiny model of its own architecture.

What the table in docs/families.md says of ZeRO-3 and resuming is shown in test_families_zero3.py.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from family_pool import (
    MORE_TEXT,
    ONE,
    PICTURES,
    ROUNDS,
    SAMPLES,
    TEXT,
    TRAIN,
    TWO,
    TinyStage1,
    images_of,
    tiny_stage1,
    turns_of,
    write_pictures,
)
from tiny_tokenizers import GEMMA, byte_tokenizer
from tiny_vlms import TINY

from selfilter_ray.config import LimitsConfig, TrainConfig
from selfilter_ray.errors import ConfigError
from selfilter_ray.measure.vlm import MeasuredVlm, Prompt
from selfilter_ray.samples.files import sample_of
from selfilter_ray.samples.record import IMAGE_TOKEN
from selfilter_ray.stage1.families.auto import Auto
from selfilter_ray.stage1.families.registry import family_class
from selfilter_ray.stage1.loss import IGNORED
from selfilter_ray.stage1.outputs import save_vlm
from selfilter_ray.stage1.segments import VICUNA_SYSTEM

# What a model is to say: the words between these.
SAYS = {
    "llava": ("", "</s>"),
    "llava_next": ("", "</s>"),
    "minigpt4": ("", "###"),
    "qwen2_vl": ("", "<|im_end|>"),
    "qwen2_5_vl": ("", "<|im_end|>"),
    "qwen3_vl": ("", "<|im_end|>"),
    "idefics3": (" ", "<end_of_utterance>"),
    "smolvlm": (" ", "<end_of_utterance>"),
    "internvl": ("", "<|im_end|>"),
    "cohere2_vision": ("", "<|END_OF_TURN_TOKEN|>"),
}
# Where the parts are: language model and head, projector.
LANGUAGE = {
    "minigpt4": ("language_model.",),
    "idefics3": ("model.text_model.", "lm_head."),
    "smolvlm": ("model.text_model.", "lm_head."),
}
PROJECTOR = {
    "llava_next": ("model.multi_modal_projector.", "model.image_newline"),
    "minigpt4": ("language_projection.",),
    "qwen2_vl": ("model.visual.merger.",),
    "qwen2_5_vl": ("model.visual.merger.",),
    "qwen3_vl": ("model.visual.merger.", "model.visual.deepstack_merger_list."),
    "idefics3": ("model.connector.",),
    "smolvlm": ("model.connector.",),
}


ADAPTERS = {"trainable": {"language_model": "lora"}, "lora": {"rank": 2}}


def language_of(name: str) -> tuple[str, ...]:
    return LANGUAGE.get(name, ("model.language_model.", "lm_head."))


def projector_of(name: str) -> tuple[str, ...]:
    return PROJECTOR.get(name, ("model.multi_modal_projector.",))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny tensors are not worth sharing out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("pictures")
    write_pictures(folder)
    return folder


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request, pictures, tmp_path_factory) -> TinyStage1:
    return tiny_stage1(request.param, pictures, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def untrained(tiny):
    return tiny.model().eval()


def losses_of(model, batch) -> torch.Tensor:
    """The summed loss of each sample."""
    with torch.no_grad():
        return model(batch).loss_sum_B


def reference_inputs(tiny: TinyStage1, name: str, pictures: Path):
    """What the model's own processor makes of a whole conversation with all its pictures."""
    processor, images = tiny.data.family.processor, images_of(name, pictures)
    if tiny.data.family.prompt != "template":
        text = [written_out(tiny.name, name)]
        if tiny.name == "minigpt4":  # its processor puts all pictures before the text
            tokens = processor.tokenizer(text[0].replace("<image>", "<image>" * 4))["input_ids"]
            pixels = processor.image_processor(images, return_tensors="pt") if images else {}
            return {"input_ids": torch.tensor([tokens]), **pixels}
        return processor(text=text, images=images or None, return_tensors="pt")
    remaining = iter(images)
    messages = [
        {
            "role": turn.role,
            "content": [
                *({"type": "image", "image": next(remaining)} for _ in turn.text.split("\n")[:-1]),
                {"type": "text", "text": turn.text.split("\n")[-1]},
            ],
        }
        for turn in turns_of(name)
    ]
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt"
    )


def written_out(family: str, name: str) -> str:
    """The prompts of families whose models bring no chat template."""
    if family == "minigpt4":
        said = [
            f"Human: {question} ###Assistant: {answer}###" for question, answer in SAMPLES[name]
        ]
        return "###" + "".join(said).replace("<image>\n", "<Img><image></Img> ")
    said = [f"USER: {question} ASSISTANT: {answer}</s>" for question, answer in SAMPLES[name]]
    return f"{VICUNA_SYSTEM} " + "".join(said)


@pytest.mark.parametrize("row", range(len(SAMPLES)), ids=list(SAMPLES))
def test_ids_are_those_that_the_processor_gives_for_the_whole_conversation(tiny, pictures, row):
    reference = reference_inputs(tiny, list(SAMPLES)[row], pictures)
    assert tiny.data[row].input_ids == reference["input_ids"][0].tolist()


def test_the_model_sees_what_the_processor_would_show_it(tiny, untrained, pictures):
    reference = dict(reference_inputs(tiny, list(SAMPLES)[TWO], pictures))
    reference.pop("num_patches", None)
    batch = tiny.batch(TWO)
    vlm = tiny.vlm().eval()
    with torch.no_grad():
        expected = vlm(**reference).logits
        found = vlm(**batch.inputs(torch.float32)).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("row", range(len(SAMPLES)), ids=list(SAMPLES))
def test_supervised_are_the_assistants_words_and_the_end_mark_and_no_more(tiny, row):
    example, (lead, end) = tiny.data[row], SAYS[tiny.name]
    runs: list[list[int]] = [[]]
    for token, label in zip(example.input_ids, example.labels, strict=True):
        if label == IGNORED:
            runs += [[]] if runs[-1] else []
        else:
            assert label == token
            runs[-1].append(label)
    said = [tiny.data.tokenizer.decode(run) for run in runs if run]
    answers = [answer for _, answer in SAMPLES[list(SAMPLES)[row]]]
    assert said == [f"{lead}{answer}{end}" for answer in answers]


def test_a_picture_matters_to_the_loss_of_its_own_sample_only(tiny, untrained):
    examples = [tiny.data[row] for row in (ONE, ROUNDS)]
    other = tiny.data[TWO].pictures[1]._replace(tensors=examples[0].pictures[0].tensors)
    darker = {
        name: value * 0.5 if value.is_floating_point() else value
        for name, value in other.tensors.items()
    }
    changed = examples[0]._replace(pictures=[examples[0].pictures[0]._replace(tensors=darker)])
    before = losses_of(untrained, tiny.data.collate(examples))
    after = losses_of(untrained, tiny.data.collate([changed, examples[1]]))
    assert abs(before[0] - after[0]) > 1e-3
    assert abs(before[1] - after[1]) < 1e-4


def test_a_few_steps_lower_the_loss(tiny):
    model, batch = tiny.model().train(), tiny.batch(TEXT, ONE, TWO, ROUNDS)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    seen = []
    for _ in range(4):
        loss = model(batch).loss
        seen.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert seen[-1] < seen[0] - 0.02


def test_training_passes_over_frozen_towers_have_no_dropout(tiny):
    model, batch = tiny.model().train(), tiny.batch(ONE, TWO)
    assert torch.equal(model(batch).loss, model(batch).loss)


def changed_by_a_step(model, batch) -> set[str]:
    """Names of the VLM's parameters that one step changes."""
    before = {name: value.detach().clone() for name, value in model.vlm.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    model.train()(batch).loss.backward()
    optimizer.step()
    return {
        name for name, value in model.vlm.named_parameters() if not torch.equal(value, before[name])
    }


def test_by_default_language_model_and_projector_learn_and_nothing_else(tiny):
    model = tiny.model()
    names = [name for name, _ in model.vlm.named_parameters()]
    intended = projector_of(tiny.name)
    if tiny.name != "minigpt4":  # its language model is frozen too
        intended += language_of(tiny.name)
    expected = {name for name in names if name.startswith(intended)}
    assert changed_by_a_step(model, tiny.batch(ONE, TWO)) == expected


def test_with_adapters_they_and_the_projector_learn_and_nothing_else(tiny):
    model = tiny.model(**ADAPTERS)
    names = [name for name, _ in model.vlm.named_parameters()]
    parts, projector = language_of(tiny.name), projector_of(tiny.name)
    prefix = "base_model.model."
    adapters = {name for name in names if "lora_" in name}
    # The second factor begins at zero, so that the first has no gradient in the first step.
    expected = {name for name in adapters if "lora_B" in name} | {
        name for name in names if name.startswith(tuple(prefix + part for part in projector))
    }
    assert adapters and all(name.startswith(prefix + parts[0]) for name in adapters)
    assert changed_by_a_step(model, tiny.batch(ONE, TWO)) == expected


def test_padding_company_and_order_do_not_change_a_samples_loss(tiny, untrained):
    rows = list(range(len(SAMPLES)))
    alone = torch.cat([losses_of(untrained, tiny.batch(row)) for row in rows])
    together = losses_of(untrained, tiny.batch(*rows))
    reverse = losses_of(untrained, tiny.batch(*rows[::-1])).flip(0)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reverse, alone, rtol=1e-4, atol=1e-4)


def test_a_hidden_blank_picture_leaves_the_loss_of_a_text_alone(tiny, untrained):
    batch = tiny.batch(TEXT, MORE_TEXT)
    length = max(len(tiny.data[row].input_ids) for row in (TEXT, MORE_TEXT))
    assert batch.pictures and batch.input_ids_BT.shape[1] > length
    ids_BT, labels_BT = batch.input_ids_BT[:, :length], batch.labels_BT[:, :length]
    assert tiny.data.family.image_id not in ids_BT
    vlm = tiny.vlm().eval()
    text_model = vlm.language_model if tiny.name == "minigpt4" else vlm
    with torch.no_grad():
        logits_BTV = text_model(
            input_ids=ids_BT,
            attention_mask=batch.attention_mask_BT[:, :length],
            **tiny.data.family.token_inputs(ids_BT),
        ).logits
    expected = torch.nn.functional.cross_entropy(
        logits_BTV[:, :-1].transpose(1, 2), labels_BT[:, 1:], reduction="none"
    ).sum(1)
    torch.testing.assert_close(losses_of(untrained, batch), expected, rtol=1e-4, atol=1e-4)


def test_a_cut_never_goes_through_a_picture(tiny):
    whole = tiny.data[TWO]
    marks = sum(len(picture.tokens) for picture in whole.pictures)
    config = tiny.data.config.model_copy(update={"max_length": 8})
    tiny.data.config, before = config, tiny.data.config
    try:
        cut = tiny.data[TWO]
    finally:
        tiny.data.config = before
    last = whole.pictures[1].tokens
    assert cut.input_ids == whole.input_ids[: len(cut.input_ids)]
    assert cut.input_ids[-len(last) :] == last
    assert len(cut.input_ids) > marks


@pytest.fixture(scope="module", params=[{}, ADAPTERS], ids=["whole", "adapters"])
def saved(request, tiny, tmp_path_factory):
    """A model after a step, and the folder that Stage 1 leaves of it."""
    model, output = tiny.model(**request.param), tmp_path_factory.mktemp("output")
    changed_by_a_step(model, tiny.batch(ONE, TWO))
    weights = {
        name: value.detach().clone()
        for name, value in model.named_parameters()
        if value.requires_grad or not request.param
    }
    train = TrainConfig.model_validate(TRAIN | request.param)
    trainer = SimpleNamespace(
        paths=SimpleNamespace(output=output),
        engine=SimpleNamespace(module=model),
        config=SimpleNamespace(train=train),
        data=tiny.data,
    )
    save_vlm(trainer, weights)
    return model.eval(), output / "vlm"


def test_the_scoring_pass_of_what_was_saved_agrees_with_training(tiny, saved):
    model, folder = saved
    train = TrainConfig.model_validate(TRAIN)
    if tiny.name == "cohere2_vision":  # its text model's config has a scale of the logits
        with pytest.raises(ConfigError, match="changes its logits"):
            MeasuredVlm(str(folder), train, LimitsConfig(), bf16=False, device="cpu")
        return
    measured = MeasuredVlm(str(folder), train, LimitsConfig(), bf16=False, device="cpu")
    samples = [sample_of(row) for row in tiny.data.samples.to_pylist()]
    prompts = [Prompt(measured.whole(one), measured.pictures(one)) for one in samples]
    for rows in ((TEXT, ONE, TWO, ROUNDS), (MORE_TEXT,)):
        batch = [prompts[row] for row in rows]
        found = measured.statistics(batch, chunk_tokens=16, grand=False).loss_sum_B
        expected = losses_of(model, tiny.batch(*rows)).double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_model_whose_pictures_melt_into_the_text_around_them_is_refused():
    tokenizer = byte_tokenizer(
        "<end_of_turn>",
        "<start_of_turn>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    images = transformers.Gemma3ImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.Gemma3Processor(images, tokenizer, GEMMA, image_seq_length=4)
    with pytest.raises(ConfigError, match="other tokens for a picture beside words"):
        Auto("a gemma", transformers.Gemma3Config(), processor)


def test_a_model_that_takes_no_pictures_is_refused():
    with pytest.raises(ConfigError, match="models of type bert are not supported"):
        family_class(transformers.BertConfig())


def test_every_picture_of_the_samples_has_its_mark():
    for name, rounds in SAMPLES.items():
        marks = sum(question.count(IMAGE_TOKEN) for question, _ in rounds)
        assert marks == len(PICTURES.get(name, ()))


def test_the_table_in_the_docs_names_tests_that_are_there():
    folder = Path(__file__).parent
    text = (folder.parent / "docs" / "families.md").read_text()
    sources = [
        (folder / f"{file}.py").read_text() for file in ("test_families", "test_families_zero3")
    ]
    named = re.findall(r"`(test_\w+)`", text)
    assert len(set(named)) == 5
    for name in named:
        (source,) = (source for source in sources if f"\ndef {name}(" in source)
        (arguments,) = re.findall(rf"\ndef {name}\((.*?)\)", source)
        assert {"tiny", "family"} & set(arguments.split(", "))  # what runs over all families
    cells = re.findall(r"`\[(\w+)\]`", text.partition("## What is tested")[2])
    assert Counter(cells) == dict.fromkeys(TINY, 5)
