"""LLaVA's prompt for Vicuna v1 and its label mask, token by token against a reference.

The reference follows the description of the format with a byte-pair coder of its own, and so shares
no line with what it checks: a system sentence, then round by round ``USER: ``, each picture with a
line end behind it, the question, `` ASSISTANT: ``, the answer, ``</s>``. The answer with its space
in front and the ``</s>`` are supervised. The tokenizer is made as LLaMA's: words carry the space in
front of them, every stretch of text between special tokens begins with one, what no piece covers is
spelled in bytes, and ``<s>`` comes first.
"""

from __future__ import annotations

import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from selfilter_ray.samples.record import ASSISTANT, SYSTEM, USER, Turn
from selfilter_ray.stage1.families.llava import Llava
from selfilter_ray.stage1.prompt import encode

CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives",
    "detailed, helpful, and polite answers to the user's questions. USER: What is in the image?",
    "ASSISTANT: The image shows a red square and a blue circle. Yes. No. Three.",
]
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACE, IMAGE, IGNORED, LONG = "\u2581", "<image>", -100, 100_000
PATCHES = 4  # (28 / 14) ** 2
SYSTEM_SENTENCE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives detailed, helpful, and polite answers to the user's questions."
)


class Coder:
    """Byte-pair coding as it is defined: merge the pair that was learnt first, until none is."""

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
        self.vocabulary = vocabulary
        self.rank = {pair: number for number, pair in enumerate(merges)}

    def ids(self, text: str) -> list[int]:
        """Of a text in which every space is one that stands before a word."""
        words = text.replace(" ", SPACE).replace(SPACE, " " + SPACE).split(" ")
        return [id for word in words for id in self._word(word)]

    def _word(self, word: str) -> list[int]:
        pieces = list(word)
        while pairs := [pair for pair in pairwise(pieces) if pair in self.rank]:
            first = min(pairs, key=self.rank.__getitem__)
            place = next(n for n, pair in enumerate(pairwise(pieces)) if pair == first)
            pieces[place : place + 2] = ["".join(first)]
        return [id for piece in pieces for id in self._piece(piece)]

    def _piece(self, piece: str) -> list[int]:
        if piece in self.vocabulary:
            return [self.vocabulary[piece]]
        return [self.vocabulary[f"<0x{byte:02X}>"] for byte in piece.encode()]


@pytest.fixture(scope="module")
def learnt() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Pieces that never hold a space but in front, in LLaMA's order: special, bytes, pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS * 3, trainers.BpeTrainer(vocab_size=160, show_progress=False)
    )
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocabulary = {piece: id for id, piece in enumerate([*SPECIAL, *BYTES, *pieces])}
    merges = [tuple(pair) for pair in model["merges"]]
    assert len(merges) > 60
    assert not any(SPACE in "".join(pair)[1:] for pair in merges)
    return vocabulary, merges


@pytest.fixture(scope="module")
def coder(learnt) -> Coder:
    return Coder(*learnt)


@pytest.fixture(scope="module")
def llava(learnt) -> Llava:
    """LLaVA's family with a tokenizer in the form of LLaMA's ``tokenizer.json``."""
    vocabulary, merges = learnt
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special, additional_special_tokens=[IMAGE]
    )
    pictures = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        pictures,
        fast,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return Llava("llava", SimpleNamespace(image_seq_length=PATCHES), processor)


def reference(rounds, coder, system=SYSTEM_SENTENCE):
    """Ids and labels of rounds (pictures, question, answer), and where the last picture ends."""
    bos, eos = coder.vocabulary["<s>"], coder.vocabulary["</s>"]
    image = len(coder.vocabulary)  # added behind all others
    ids, labels, last = [bos], [IGNORED], 0

    def write(new, supervised=False):
        ids.extend(new)
        labels.extend(new if supervised else [IGNORED] * len(new))

    before = f"{system} USER: "
    for pictures, question, answer in rounds:
        stretch = before
        for _ in range(pictures):
            write(coder.ids(f" {stretch}") if stretch else [])
            write([image] * PATCHES)
            last = len(ids)
            stretch = "\n"
        write(coder.ids(f" {stretch}{question} ASSISTANT:"))
        write(coder.ids(f" {answer}"), supervised=True)
        write([eos], supervised=True)
        before = "USER: "
    return ids, labels, last


def conversation(rounds):
    turns = []
    for pictures, question, answer in rounds:
        turns += [Turn(USER, f"{IMAGE}\n" * pictures + question), Turn(ASSISTANT, answer)]
    return turns


def encoded(rounds, family, max_length=LONG, turns=None):
    pictures = [family.tokens_for((28, 28))] * sum(round[0] for round in rounds)
    return encode(turns or conversation(rounds), "auto", family, pictures, max_length)


CONVERSATIONS = {
    "one round": [(1, "What is in the image?", "The image shows a red square.")],
    "several rounds": [
        (1, "What is in the image?", "A circle."),
        (0, "Of what colour?", "Blue, and the square is red."),
        (0, "Sure?", "Yes."),
    ],
    "several images": [(2, "Which image shows a circle?", "The first."), (1, "And now?", "No.")],
    "text only": [(0, "Hello!", "Hi."), (0, "What is 2 + 2?", "4")],
    "other scripts": [(1, "\u4e16\u754c?", "\u0928\u092e\u0938\u094d\u0924\u0947 \U0001f600")],
    "line ends and spaces": [(1, "Look:\n\n1. a\n2.  b", " Two\n\n  spaces \n"), (0, " ?", "\n")],
    "empty": [(1, "What?", ""), (0, "", "Yes.")],
    "words of the format": [(0, "USER: ASSISTANT: hi", "ASSISTANT: USER: no"), (0, "?", "x")],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_ids_and_labels_are_the_reference_s(name, llava, coder):
    ids, labels, last = reference(CONVERSATIONS[name], coder)
    found = encoded(CONVERSATIONS[name], llava)
    assert found.input_ids == ids
    assert found.labels == labels
    assert found.pictures_end == last


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<\u2581"), max_size=30)
WORDS = st.lists(st.sampled_from(" ".join(CORPUS).split()), max_size=8).map(" ".join)
ROUND = st.tuples(st.integers(0, 2), TEXT | WORDS, TEXT | WORDS)


@given(rounds=st.lists(ROUND, min_size=1, max_size=4), cut=st.integers(1, 80))
@settings(max_examples=150, deadline=None)
def test_ids_and_labels_are_the_reference_s_whatever_is_said_and_wherever_it_is_cut(
    rounds, cut, llava, coder
):
    # A turn with pictures is stripped: its pictures stand before its words, wherever they were.
    rounds = [(n, question.strip() if n else question, answer) for n, question, answer in rounds]
    ids, labels, last = reference(rounds, coder)
    assert encoded(rounds, llava)[:2] == (ids, labels)
    end = max(cut, last)
    assert encoded(rounds, llava, max_length=cut)[:2] == (ids[:end], labels[:end])


def test_a_system_turn_takes_the_place_of_the_system_sentence(llava, coder):
    rounds = CONVERSATIONS["several rounds"]
    turns = [Turn(SYSTEM, "Be brief."), *conversation(rounds)]
    ids, labels, _ = reference(rounds, coder, system="Be brief.")
    assert encoded(rounds, llava, turns=turns)[:2] == (ids, labels)


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (300, 20), (17, 410)])
def test_a_picture_of_any_size_is_the_same_tokens_and_one_square(size, llava):
    picture = llava.picture(Image.new("RGB", size))
    assert picture.tokens == [llava.image_id] * PATCHES
    assert picture.tensors["pixel_values"].shape == (1, 3, 28, 28)


def test_the_library_s_own_processor_writes_the_same_ids(llava):
    rounds = CONVERSATIONS["several images"]
    text = "".join(segment.text for segment in llava.segments(conversation(rounds), "vicuna_v1"))
    images = [Image.new("RGB", size) for size in ((20, 60), (28, 28), (90, 31))]
    made = llava.processor(text=text, images=images)
    assert made["input_ids"][0] == encoded(rounds, llava).input_ids
