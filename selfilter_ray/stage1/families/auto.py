"""Any other image-text-to-text model of transformers that has a chat template.

Nothing is known of it but what transformers' interfaces tell, so that is checked when it is loaded,
and a model that does not fit is refused rather than trained on something else.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from selfilter_ray.errors import ConfigError
from selfilter_ray.samples.record import ASSISTANT, IMAGE_TOKEN, USER, Turn
from selfilter_ray.stage1.families.contract import Family, Parts, Picture

PROJECTOR = re.compile(r"projector|connector|merger|aligner|adapter|resampler|embed_vision")
TRIAL_SIZES = ((32, 32), (48, 96))
TYPES = ("mm_token_type_ids", "token_type_ids")


class Auto(Family):
    """A model whose pictures' tensors are joined along their first dimension.

    Raises:
        ConfigError: when the processor writes other tokens for a conversation than this package
            would, or gives its pictures in another form.
    """

    def __init__(self, path: str, config: Any, processor: Any) -> None:
        super().__init__(path, config, processor)
        if config.is_encoder_decoder:
            raise ConfigError(f"{path} is an encoder with a decoder: Stage 1 trains decoders.")
        self._types: tuple[str, ...] = ()
        self._try_out()

    @classmethod
    def parts(cls, model: torch.nn.Module) -> Parts:
        vlm: Any = model
        names = {module: name for name, module in model.named_modules()}
        decoder, head = vlm.get_decoder(), vlm.get_output_embeddings()
        language_model, head_name = names.get(decoder, ""), names.get(head, "")
        container = language_model.rpartition(".")[0]
        if not (container and head_name) or vlm.get_input_embeddings() not in decoder.modules():
            raise ConfigError(
                f"{type(model).__name__} does not show where its language model is: models of type "
                f"{vlm.config.model_type} are not supported."
            )
        others = list(_pieces(model.get_submodule(container), container, {decoder, head}))
        return Parts(
            language_model=language_model,
            head=head_name,
            projector=tuple(name for name in others if PROJECTOR.search(_last(name))),
            vision=tuple(name for name in others if not PROJECTOR.search(_last(name))),
        )

    def picture(self, image: Image.Image) -> Picture:
        tokens, tensors = super().picture(image)
        odd = [name for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
        if odd:
            raise ConfigError(
                f"the processor of {self.path} gives {', '.join(odd)} of a picture, which is no "
                "tensor: this kind of model is not supported."
            )
        return Picture(tokens, tensors)

    def gather(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        for name in pictures[0].tensors:
            shapes = {tuple(picture.tensors[name].shape[1:]) for picture in pictures}
            if len(shapes) > 1:
                raise ConfigError(
                    f"the pictures of a batch have different {name} under {self.path}: "
                    f"{sorted(shapes)}. Scale the images to one size, or set train.batch_size: 1."
                )
        return super().gather(pictures)

    def token_inputs(self, input_ids_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self._types:
            return {}
        kinds = self.processor.create_mm_token_type_ids(input_ids_BT.tolist())
        return {name: torch.tensor(kinds) for name in self._types}

    def _try_out(self) -> None:
        """One conversation with two pictures, encoded here and by the processor."""
        from selfilter_ray.stage1.prompt import encode

        images = [Image.new("RGB", size) for size in TRIAL_SIZES]
        question = f"{IMAGE_TOKEN}{IMAGE_TOKEN}What is this?"
        turns = [Turn(USER, question), Turn(ASSISTANT, "It is this.")]
        text = "".join(segment.text for segment in self.segments(turns, self.prompt))
        pictures = [self.tokens_for(size) for size in TRIAL_SIZES]
        own = encode(turns, self.prompt, self, pictures, max_length=sys.maxsize).input_ids
        begins = self.tokenizer.bos_token
        made = self.processor(
            text=[text],
            images=images,
            add_special_tokens=not (begins and text.startswith(begins)),
        )
        if list(made["input_ids"][0]) != own:
            raise ConfigError(
                f"the processor of {self.path} writes other tokens for a picture beside words than "
                "for a picture alone: this kind of model is not supported."
            )
        self._types = tuple(name for name in TYPES if name in made)


def _pieces(container: torch.nn.Module, name: str, known: set[Any]) -> Iterator[str]:
    """What there is beside the language model. A tower that holds its projector is split once."""
    for child_name, child in container.named_children():
        whole, below = f"{name}.{child_name}", dict(child.named_children())
        if child in known:
            continue
        split = any(PROJECTOR.search(part) for part in below) and not PROJECTOR.search(child_name)
        pieces = {f"{whole}.{part}": inside for part, inside in below.items()}
        for piece, module in (pieces if split else {whole: child}).items():
            if any(True for _ in module.parameters()):
                yield piece
    yield from (f"{name}.{own}" for own, _ in container.named_parameters(recurse=False))


def _last(name: str) -> str:
    return name.rpartition(".")[2]
