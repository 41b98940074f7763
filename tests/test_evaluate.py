"""Evaluation of a tuned model: what one pass says is what decoding would do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
from measured_pool import make_config
from PIL import Image
from tiny_vlms import save_tiny
from transformers import AutoModelForImageTextToText, AutoProcessor

from selfilter_ray.config import LimitsConfig, PretrainedVlm, TrainConfig
from selfilter_ray.errors import ConfigError
from selfilter_ray.evaluate.chat_template import TEMPLATES, chat_template
from selfilter_ray.evaluate.evaluation import SUMMARY, TABLE, evaluate
from selfilter_ray.evaluate.evaluator import Evaluator
from selfilter_ray.evaluate.export import export
from selfilter_ray.evaluate.settings import EvaluateConfig
from selfilter_ray.evaluate.summary import summarize
from selfilter_ray.evaluate.table import SCHEMA
from selfilter_ray.measure.token_statistics import token_statistics
from selfilter_ray.samples.files import table_of
from selfilter_ray.samples.record import ASSISTANT, SYSTEM, USER, Sample, Turn
from selfilter_ray.stage1.data import Example
from selfilter_ray.stage1.loss import IGNORED
from selfilter_ray.stage1.pictures import KeptPictures, _size
from selfilter_ray.stage1.vlm import prepare_vlm

LIMITS = LimitsConfig()
TRAIN = TrainConfig(bf16=False, max_length=400, prompt="plain")
LEARNED, UNSEEN = ("a", "b", "c", "d"), ("e", "f", "g", "h")
COMPARED = ("token_loss", "right", "exact", "blind_token_loss", "blind_right", "blind_exact")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny tensors are not worth sharing out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Two of each kind: a picture, a conversation, two pictures, none."""
    folder = tmp_path_factory.mktemp("pictures")
    texts = {
        "a": ["<image>\nWhat?", "red"],
        "b": ["<image>\nWhat?", "blue", "Sure?", "yes"],
        "c": ["<image><image>\nSame?", "no"],
        "d": ["Sing!", "la la"],
        "e": ["<image>\nWhat?", "a thing of many colours"],
        "f": ["<image>\nWhere?", "there", "Sure?", "no"],
        "g": ["<image><image>\nWhich?", "first"],
        "h": ["Talk!", "why"],
    }
    return {id: made_sample(folder, id, turns) for id, turns in texts.items()}


def never():
    raise AssertionError("it was there")


def made_sample(folder, id, texts):
    names = [str(folder / f"{id}{n}.png") for n in range(texts[0].count("<image>"))]
    for number, name in enumerate(names):
        Image.new("RGB", (32, 32), (255 * (ord(id) % 2), 31 * (ord(id) - 97), 120 * number)).save(
            name
        )
    turns = tuple(Turn((USER, ASSISTANT)[n % 2], text) for n, text in enumerate(texts))
    kind = {"source": f"s/{len(names)}", "record": json.dumps({"question_type": texts[0][-5:]})}
    return Sample(id=id, turns=turns, images=tuple(names), locator="", **kind)


@pytest.fixture(scope="module")
def tuned(samples, tmp_path_factory):
    """A tiny LLaVA that knows half of the samples by heart."""
    folder = save_tiny("llava", tmp_path_factory.mktemp("tiny") / "vlm")
    learn(folder, [samples[id] for id in LEARNED], 5e-3)
    return folder


@pytest.fixture(scope="module")
def from_scratch(samples, tmp_path_factory):
    """The same of a model that this package builds, whose words never join prompt and answer."""
    folder = tmp_path_factory.mktemp("scratch") / "vlm"
    texts = [turn.text for sample in samples.values() for turn in sample.turns]
    prepare_vlm(make_config().train.vlm, folder, texts, 0)
    learn(folder, [samples[id] for id in LEARNED], 1e-2, 150)
    return folder


def learn(folder, samples, learning_rate, steps=60):
    made = evaluator(folder)
    vlm = AutoModelForImageTextToText.from_pretrained(folder).train()
    batch = made.vlm.data.padded([example(made, sample) for sample in samples])
    optimizer = torch.optim.Adam(vlm.parameters(), lr=learning_rate)
    for _ in range(steps):
        logits_BTV = vlm(**batch.inputs(torch.float32)).logits
        loss = torch.nn.functional.cross_entropy(
            logits_BTV[:, :-1].flatten(0, 1), batch.labels_BT[:, 1:].flatten(), ignore_index=IGNORED
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vlm.save_pretrained(folder)


def evaluator(folder, train=TRAIN, base=None, **settings):
    return Evaluator(str(folder), train, LIMITS, EvaluateConfig(**settings), base=base)


def example(made, sample, pictures=True):
    whole = made.vlm.whole(sample)
    if not pictures:
        whole = made.vlm.without_image(whole, sample)
    shown = made.vlm.pictures(sample) if pictures else []
    return Example(0, whole.input_ids, whole.labels, shown, torch.zeros(0))


def by_id(table):
    return {row["id"]: row for row in table.to_pylist()}


def close(row, other, names=COMPARED):
    for name in names:
        if isinstance(row[name], float):
            assert row[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6), name
        else:
            assert row[name] == other[name], name


@pytest.fixture(scope="module")
def evaluated(tuned, samples):
    return by_id(evaluator(tuned, blind=True, batch_size=3)(table_of(list(samples.values()))))


def says_it_all(made, vlm, example):
    """Whether ``generate`` says each answer, given the reference before it."""
    ids, labels = example.input_ids, example.labels
    starts = [t for t in range(1, len(ids)) if labels[t] != IGNORED and labels[t - 1] == IGNORED]
    for start in starts:
        answer = []
        for token, label in zip(ids[start:], labels[start:], strict=True):
            if label == IGNORED:
                break
            answer.append(token)
        batch = made.vlm.data.padded(
            [example._replace(input_ids=ids[:start], labels=labels[:start])]
        )
        inputs = batch.inputs(torch.float32)
        said = vlm.generate(**inputs, do_sample=False, max_new_tokens=len(answer))
        if said[0, start:].tolist() != answer:
            return False
    return bool(starts)


@pytest.mark.parametrize("pictures", [True, False], ids=["seeing", "blind"])
def test_exact_is_what_greedy_generation_says(pictures, tuned, samples, evaluated):
    made = evaluator(tuned)
    vlm = AutoModelForImageTextToText.from_pretrained(tuned).eval()
    column = "exact" if pictures else "blind_exact"
    found = {}
    for id, sample in samples.items():
        found[id] = says_it_all(made, vlm, example(made, sample, pictures))
        assert evaluated[id][column] == found[id], id
    if pictures:
        assert all(found[id] for id in LEARNED) and not any(found[id] for id in UNSEEN)


def test_the_loss_is_that_of_the_model_and_right_is_its_share(tuned, samples, evaluated):
    made = evaluator(tuned)
    vlm = AutoModelForImageTextToText.from_pretrained(tuned).eval()
    partly = 0
    for id, sample in samples.items():
        batch = made.vlm.data.padded([example(made, sample)])
        with torch.no_grad():
            logits_TV = vlm(**batch.inputs(torch.float32)).logits[0, :-1]
        labels_T = batch.labels_BT[0, 1:]
        at = labels_T != IGNORED
        loss = torch.nn.functional.cross_entropy(logits_TV[at], labels_T[at])
        right = (logits_TV[at].argmax(1) == labels_T[at]).double().mean()
        assert evaluated[id]["token_loss"] == pytest.approx(loss.item(), rel=1e-4, abs=1e-6)
        assert evaluated[id]["right"] == pytest.approx(right.item())
        assert evaluated[id]["answer_tokens"] == at.sum()
        partly += 0 < right < 1
    assert partly


def test_without_pictures_only_samples_with_pictures_change(evaluated):
    for id in ("d", "h"):
        assert evaluated[id]["blind_token_loss"] == evaluated[id]["token_loss"]
        assert evaluated[id]["status"] == "text_only"
    for id in "abcefg":
        assert evaluated[id]["blind_token_loss"] != pytest.approx(evaluated[id]["token_loss"])
        assert evaluated[id]["status"] == "ok"


def test_batches_and_order_change_nothing(tuned, samples, evaluated):
    backwards = table_of(list(reversed(samples.values())))
    for settings in ({"batch_size": 1}, {"batch_size": 8, "chunk_tokens": 2}):
        table = evaluator(tuned, blind=True, **settings)(backwards)
        assert table.schema == SCHEMA
        assert table["id"].to_pylist() == list(reversed(samples))
        for id, row in by_id(table).items():
            close(row, evaluated[id])


def test_among_equal_logits_the_smallest_id_is_said():
    hidden_BTD = torch.ones(1, 4, 2)
    weight_VD = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [0.5, 0.5]])
    for labels, right in (([9, 1, 1, 1], 1.0), ([9, 2, 2, 1], 1 / 3), ([9, 0, 3, 2], 0.0)):
        found = token_statistics(hidden_BTD, torch.tensor([labels]), weight_VD, grand=False)
        assert found.right_B.tolist() == [pytest.approx(right)]


def test_pictures_that_were_decoded_before_are_not_opened_again(tuned, samples, evaluated):
    table = table_of([samples["a"], samples["c"]])
    shared = KeptPictures(2**20)
    evaluate(tuned, table, TRAIN, pictures=shared)
    names = {*samples["a"].images, *samples["c"].images}
    assert len(shared) == len(names)
    first = shared.get(samples["a"].images[0], never)
    shared.get("gone.png", lambda: first)
    moved = replace(samples["a"], images=("gone.png",))
    found = evaluate(tuned, table_of([moved, samples["c"]]), TRAIN, pictures=shared)
    for id, row in by_id(found.table).items():
        close(row, evaluated[id], ("token_loss", "right", "exact"))


def test_no_more_pictures_are_kept_than_there_is_room_for(tuned, samples):
    one = evaluator(tuned).vlm.picture(samples["a"].images[0])
    kept = KeptPictures(2 * _size(one) - 1)
    assert kept.get("one", lambda: one) is kept.get("one", never) is one
    assert kept.get("two", lambda: one) is one and len(kept) == 1
    with pytest.raises(AssertionError):
        kept.get("two", never)
    assert len(KeptPictures()) == 0 and KeptPictures().get("one", lambda: one) is one


def test_a_cut_answer_is_neither_right_nor_wrong(tuned, samples, evaluated):
    made = evaluator(tuned)
    prompt = next(t for t, label in enumerate(made.vlm.whole(samples["a"]).labels) if label >= 0)
    train = TRAIN.model_copy(update={"max_length": prompt + 1})
    rows = by_id(evaluator(tuned, train, blind=True)(table_of([samples["a"], samples["h"]])))
    assert (rows["a"]["complete"], rows["a"]["answer_tokens"]) == (False, 1)
    assert rows["a"]["exact"] is None and rows["a"]["blind_exact"] is None
    assert rows["a"]["right"] == 1.0 and rows["a"]["token_loss"] > 0
    long = replace(samples["h"], turns=(Turn(USER, "why " * 60), samples["h"].turns[1]))
    (row,) = evaluator(tuned, train)(table_of([long])).to_pylist()
    assert (row["status"], row["answer_tokens"], row["exact"]) == ("no_answer", 0, None)
    summary = summarize(evaluator(tuned, train)(table_of([samples["a"], long])), 8)
    assert summary.statuses == {"no_answer": 1, "ok": 1}
    assert (summary.overall.samples, summary.overall.short) == (1, 0)
    assert summary.overall.accuracy is None and summary.overall.token_loss is not None


def test_a_picture_that_is_gone_fails_its_sample_only(tuned, samples, evaluated, tmp_path):
    gone = replace(samples["a"], images=(str(tmp_path / "gone.png"),))
    rows = by_id(evaluator(tuned, blind=True)(table_of([gone, samples["e"]])))
    assert rows["a"]["status"] == "image_missing" and rows["a"]["detail"]
    assert all(rows["a"][name] is None for name in COMPARED)
    close(rows["e"], evaluated["e"])


def test_the_summary_is_the_mean_of_the_rows(tuned, samples, evaluated, tmp_path):
    settings = EvaluateConfig(short_tokens=8, blind=True)
    found = evaluate(tuned, table_of(list(samples.values())), TRAIN, settings=settings)
    rows = by_id(found.table)
    short = {id for id in rows if rows[id]["answer_tokens"] <= 8}
    assert set(LEARNED) <= short and "e" not in short
    overall = found.summary.overall
    assert (overall.samples, overall.short) == (8, len(short))
    assert overall.accuracy == pytest.approx(4 / len(short))
    assert overall.token_loss == pytest.approx(sum(r["token_loss"] for r in rows.values()) / 8)
    blind = sum(rows[id]["blind_exact"] for id in short) / len(short)
    assert overall.blind_accuracy == pytest.approx(blind)
    assert set(found.summary.by_source) == {"s/0", "s/1", "s/2"}
    assert found.summary.by_source["s/2"].samples == 2
    assert found.summary.by_question_type["What?"].samples == 3
    found.write(tmp_path)
    assert pq.read_table(tmp_path / TABLE).equals(found.table)
    assert json.loads((tmp_path / SUMMARY).read_text()) == found.to_json()
    seeing = evaluate(tuned, table_of([samples["a"]]), TRAIN).summary.overall
    assert seeing.blind_accuracy is None and seeing.blind_token_loss is None


MESSAGES = {
    "one": [Turn(USER, "<image>\nWhat's it?")],
    "more": [Turn(USER, "Is it?\n<image><image>"), Turn(ASSISTANT, "so"), Turn(USER, " Sure? ")],
    "system": [Turn(SYSTEM, "Be brief."), Turn(USER, "Why?")],
}


def as_parts(turn):
    words = turn.text.replace("<image>", "")
    pictures = [{"type": "image"}] * turn.text.count("<image>")
    return {"role": turn.role, "content": [*pictures, {"type": "text", "text": words}]}


@pytest.mark.parametrize("form", ["text", "parts"])
@pytest.mark.parametrize("turns", MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize("prompt", TEMPLATES)
def test_the_chat_template_is_the_prompt_of_the_training(prompt, turns, form, tuned):
    family = evaluator(tuned).vlm.data.family
    segments = family.segments([*turns, Turn(ASSISTANT, "It is this.")], prompt)
    wanted = "".join(segment.text for segment in segments)
    end = wanted.rindex("It is this.")
    messages = [
        as_parts(turn) if form == "parts" else {"role": turn.role, "content": turn.text}
        for turn in turns
    ]
    template = chat_template(prompt, family)
    made = family.tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert made == wanted[:end].removesuffix(" ")
    whole = [*messages, {"role": "assistant", "content": "It is this."}]
    said = family.tokenizer.apply_chat_template(whole, chat_template=template, tokenize=False)
    assert said == wanted


def test_other_formats_keep_the_models_own_template(tuned):
    family = evaluator(tuned).vlm.data.family
    assert chat_template("template", family) is None
    assert chat_template("vicuna_v0", family) is None
    assert chat_template("auto", family) == chat_template("vicuna_v1", family)


def test_an_exported_model_answers_through_transformers_alone(from_scratch, samples, tmp_path):
    folder = export(from_scratch, tmp_path / "exported", TRAIN)
    assert "--model llava_hf" in (folder / "README.txt").read_text()
    table = table_of(list(samples.values()))
    wanted, rows = (by_id(evaluator(place)(table)) for place in (from_scratch, folder))
    assert wanted == rows
    processor = AutoProcessor.from_pretrained(folder)
    vlm = AutoModelForImageTextToText.from_pretrained(folder).eval()
    assert processor.tokenizer.chat_template == processor.chat_template
    for id in ("a", "c", "e", "g"):
        sample = samples[id]
        text = processor.apply_chat_template(
            [as_parts(sample.turns[0])], tokenize=False, add_generation_prompt=True
        )
        pictures = [Image.open(name) for name in sample.images]
        inputs = processor(text=text, images=pictures, return_tensors="pt")
        said = vlm.generate(**inputs, do_sample=False, max_new_tokens=40)
        answer = processor.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert (answer == " " + sample.turns[1].text) == rows[id]["exact"] == (id in LEARNED), id


def test_a_folder_with_something_in_it_is_left_alone(tuned, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        export(tuned, tmp_path, TRAIN)


def test_adapters_are_merged_into_what_is_exported(tuned, samples, evaluated, tmp_path):
    pytest.importorskip("peft")
    adapters = trained_adapters(tuned, tmp_path)
    table = table_of(list(samples.values()))
    wanted = by_id(evaluator(adapters, blind=True)(table))
    folder = export(adapters, tmp_path / "merged", TRAIN)
    assert not list(folder.glob("adapter*"))
    rows = by_id(evaluator(folder, blind=True)(table))
    for id, row in rows.items():
        close(row, wanted[id], ("token_loss", "exact", "blind_token_loss"))
    assert rows["a"]["token_loss"] != pytest.approx(evaluated["a"]["token_loss"])


def trained_adapters(base, folder):
    """What the trainer leaves of a model with adapters."""
    from selfilter_ray.stage1.model import Stage1Model
    from selfilter_ray.stage1.outputs import save_vlm
    from selfilter_ray.stage1.score_net import ScoreNet
    from selfilter_ray.stage1.trainer import Paths

    config = SimpleNamespace(
        train=TrainConfig(trainable={"language_model": "lora"}, gradient_checkpointing=False)
    )
    vlm = AutoModelForImageTextToText.from_pretrained(base)
    model = Stage1Model(vlm, ScoreNet(2, "zeros"), config.train)
    torch.manual_seed(0)
    weights = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            weights[name] = (value + 0.2 * torch.randn_like(value)).detach()
    trainer = SimpleNamespace(
        paths=Paths(folder, folder, folder, str(base)),
        engine=SimpleNamespace(module=model),
        config=config,
        data=SimpleNamespace(family=evaluator(base).vlm.data.family),
    )
    save_vlm(trainer, weights)
    return folder / "vlm"


def test_a_model_by_a_relative_path_is_found_from_everywhere(tuned, monkeypatch):
    """Ray's workers have working directories of their own."""
    folder = Path(tuned)
    monkeypatch.chdir(folder.parent)
    found = prepare_vlm(PretrainedVlm(path=folder.name), folder.parent / "unused", (), 0)
    assert found == str(folder.resolve())
