"""What Stage 1 has to know of a kind of VLM: one small adapter, the same for every model.

A sample becomes tokens in the same way for all of them. Its conversation is rendered to one text
that holds ``image_token`` once a picture; the text is tokenized; then each image token gives way to
the ids that the model's own processor writes for that picture (``stage1/prompt.py``).

Shapes: B batch, T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from PIL import Image

from selfilter_ray.errors import ConfigError
from selfilter_ray.samples.record import IMAGE_TOKEN, Turn
from selfilter_ray.stage1.segments import PROMPTS, TEMPLATE, Segment
from selfilter_ray.stage1.template import template_segments

BLANK_SIZE = (32, 32)
TEXT_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})


class Picture(NamedTuple):
    """One image as the model takes it.

    Attributes:
        tokens: ids that stand for it in the prompt, its markers included.
        tensors: model inputs; their first dimension is what a batch's pictures are joined along.
    """

    tokens: list[int]
    tensors: dict[str, torch.Tensor]


class Parts(NamedTuple):
    """Names of submodules (or parameters) within the model; "" or () where there is none."""

    language_model: str
    head: str
    projector: tuple[str, ...] = ()
    vision: tuple[str, ...] = ()


class Family(ABC):
    """An adapter for one kind of VLM. This base drives any processor of transformers.

    Attributes:
        model_types: values of ``config.model_type`` that it stands for.
        prompt: what ``train.prompt: auto`` means: a key of ``PROMPTS``, or ``template``.
        language_model: what ``train.trainable.language_model: auto`` means.
        needs_pictures: whether the model's forward pass fails without one.
        image_token: what the prompt's text holds once a picture; one token.
        image_mark: what a mark of the pool becomes in the prompts that are written here (not in
            chat templates): the image token with the text that the model wants around it.
        image_id: id of ``image_token``.
        eos: what ends an answer in those prompts.

    Args:
        path: what ``from_pretrained`` takes; for messages.
        config: the model's.
        processor: as ``load_processor`` makes it.

    Raises:
        ConfigError: when the tokenizer is not a fast one, or lacks the image token.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    prompt: ClassVar[str] = TEMPLATE
    language_model: ClassVar[Literal["full", "frozen"]] = "full"
    needs_pictures: ClassVar[bool] = False

    def __init__(self, path: str, config: Any, processor: Any) -> None:
        self.path, self.config, self.processor = path, config, processor
        self.tokenizer = processor.tokenizer
        self.image_token = self._image_token()
        self.image_mark = self.image_token
        self.eos = str(self.tokenizer.eos_token or "")
        if not self.tokenizer.is_fast:
            raise ConfigError(f"{path} has no fast tokenizer: Stage 1 needs its offsets.")
        self.image_id = self._image_id()
        self._tokens: dict[tuple[int, int], list[int]] = {}

    @classmethod
    def load_processor(cls, path: str, config: Any) -> Any:
        """The processor that turns text and images into the model's inputs."""
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(path)

    @classmethod
    @abstractmethod
    def parts(cls, model: torch.nn.Module) -> Parts:
        """Where the model's parts are."""

    @classmethod
    def constants(cls, model: torch.nn.Module) -> tuple[str, ...]:
        """Names of submodules or parameters that never learn, whatever part they are in."""
        return ()

    def segments(self, turns: Sequence[Turn], prompt: str) -> list[Segment]:
        """The prompt's text, ``image_token`` once a picture.

        Args:
            prompt: a key of ``PROMPTS``, or ``template`` for the processor's chat template.

        Raises:
            ConfigError: when the chat template is missing, or does not show where answers are.
        """
        if prompt == TEMPLATE:
            return template_segments(self.processor, self._without_own_token(turns), self.path)
        segments = PROMPTS[prompt](self._without_own_token(turns), self.eos)
        return [
            segment._replace(text=segment.text.replace(IMAGE_TOKEN, self.image_mark))
            for segment in segments
        ]

    def picture(self, image: Image.Image) -> Picture:
        """One RGB image as tokens and tensors, by the library's own processor."""
        made: Mapping[str, Any] = self.processor(
            text=[self.image_token], images=[image], add_special_tokens=False, return_tensors="pt"
        )
        tensors = {name: made[name] for name in made if name not in TEXT_INPUTS}
        return Picture(made["input_ids"][0].tolist(), tensors)

    def tokens_for(self, size: tuple[int, int]) -> list[int]:
        """``picture(image).tokens`` of any image of that width and height: they hang on no more."""
        if size not in self._tokens:
            self._tokens[size] = self.picture(Image.new("RGB", size)).tokens
        return self._tokens[size]

    @property
    def fixed_tokens(self) -> list[int] | None:
        """A picture's tokens where they are the same for images of any size, otherwise None."""
        return None

    def blank(self) -> Picture:
        """A small picture, for batches that have none."""
        return self.picture(Image.new("RGB", BLANK_SIZE))

    def gather(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """Model inputs of a batch's pictures, in order; never of none."""
        names = pictures[0].tensors
        return {name: torch.cat([one.tensors[name] for one in pictures]) for name in names}

    def token_inputs(self, input_ids_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        """Model inputs, each (B, T), that are made from the ids."""
        return {}

    def save(self, folder: str) -> None:
        """Write what ``load_processor`` reads."""
        self.processor.save_pretrained(folder)

    def _image_token(self) -> str:
        token = getattr(self.processor, "image_token", None)
        if token is None:
            raise ConfigError(
                f"the processor of {self.path} names no image token: this kind of model is not "
                "supported."
            )
        return str(getattr(token, "content", token))

    def _image_id(self) -> int:
        found = self.tokenizer.encode(self.image_token, add_special_tokens=False)
        if len(found) != 1 or found[0] == self.tokenizer.unk_token_id:
            raise ConfigError(
                f"{self.image_token} is not one token of {self.path}'s tokenizer: add it as a "
                "special token."
            )
        return int(found[0])

    def _without_own_token(self, turns: Sequence[Turn]) -> list[Turn]:
        """A text that happens to hold the model's image token must not add a picture."""
        if self.image_token == IMAGE_TOKEN:
            return list(turns)
        return [Turn(turn.role, turn.text.replace(self.image_token, "")) for turn in turns]
