"""The body of /v1/score and /v1/select, as OpenAPI shows it.

Only the form is checked here, and a body of the wrong form is refused whole, with the path of the
field. What is wrong with a sample whose form is right is told of that sample alone, see ``reader``.
Lists stop at their first bad entry: a body of millions of them must not make millions of errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from selfilter_ray.samples.parse import MAX_ID_CHARACTERS

MOST_FIELDS = 16  # more than any object has


def _wrong(message: str) -> PydanticCustomError:
    """What a validator raises; of a ValueError, the message would begin with its name."""
    return PydanticCustomError("wrong_form", "{message}", {"message": message})


class Form(BaseModel):
    """No field but the known ones, no value of another type, no NaN and no Infinity.

    A field that is null is one that was not sent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MOST_FIELDS:
            raise _wrong(f"{len(value)} fields, of which most are unknown")
        return value


def _one_of(*choices: list[str]) -> Callable[[dict[str, Any]], None]:
    """For OpenAPI: which fields go together, and none is null. Validators say the former too."""

    def change(schema: dict[str, Any]) -> None:
        if choices:
            schema["oneOf"] = [{"required": names} for names in choices]
        for name, field in schema["properties"].items():
            kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
            if len(kinds) == 1:
                schema["properties"][name] = kinds[0]
            elif kinds:
                schema["properties"][name] = {"anyOf": kinds}

    return change


def _by_type(**kinds: Any) -> Callable[[Any, ValidatorFunctionWrapHandler], Any]:
    """Choose among the members of a union by the JSON type.

    A plain union would name its members in the path of an error, which is to be a JSON pointer.
    """
    adapters = {name: TypeAdapter(kind) for name, kind in kinds.items()}

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        adapter = adapters.get(type(value).__name__)
        if adapter is None:
            raise _wrong(f"must be one of: {', '.join(NAMES[name] for name in adapters)}")
        return adapter.validate_python(value)

    return validate


NAMES = {"list": "a list", "dict": "an object", "str": "a string"}
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Numbers = Annotated[list[Number], Field(min_length=1, fail_fast=True)]


class EncodedVector(Form):
    """The bytes of the numbers one after the other, little endian, in base64."""

    base64: str
    dtype: Literal["float16", "float32"]


VectorIn = Annotated[
    Numbers | EncodedVector, WrapValidator(_by_type(list=Numbers, dict=EncodedVector))
]


class FeaturesIn(Form):
    """Features as the run's embedder makes them: each of length 1, the image's zero for no image.

    ``GET /v1/stats`` has their number.
    """

    image_embedding: VectorIn
    text_embedding: VectorIn


class ImageIn(Form):
    """One of ``base64`` (the bytes of a file), ``path`` below the folder that the service allows,
    or ``url`` where the service fetches images."""

    model_config = ConfigDict(json_schema_extra=_one_of(["base64"], ["path"], ["url"]))

    base64: str | None = None
    path: str | None = None
    url: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ImageIn:
        if sum(value is not None for value in (self.base64, self.path, self.url)) != 1:
            raise _wrong("an image is exactly one of base64, path and url")
        return self


class PartIn(Form):
    """A piece of a turn: a text, or the place of the next image."""

    model_config = ConfigDict(json_schema_extra=_one_of())

    type: Literal["text", "image"]
    text: str | None = None

    @model_validator(mode="after")
    def _text_of_a_text(self) -> PartIn:
        if (self.type == "text") != (self.text is not None):
            raise _wrong("a part of type text has a text, one of type image has none")
        return self


Parts = Annotated[list[PartIn], Field(fail_fast=True)]
Text = Annotated[str | Parts, WrapValidator(_by_type(str=str, list=Parts))]


class TurnIn(Form):
    """A turn: ``from`` and ``value``, or ``role`` and ``content``.

    ``<image>`` in a text, or a part of type image, is the place of an image; with no such mark at
    all, the images stand before the first question.
    """

    model_config = ConfigDict(json_schema_extra=_one_of(["from", "value"], ["role", "content"]))

    from_: str | None = Field(default=None, alias="from")
    value: Text | None = None
    role: str | None = None
    content: Text | None = None

    @model_validator(mode="after")
    def _one_style(self) -> TurnIn:
        given = [field is not None for field in (self.from_, self.value, self.role, self.content)]
        if given not in ([True, True, False, False], [False, False, True, True]):
            raise _wrong("a turn is from and value, or role and content")
        return self


def _printable(id: str) -> str:
    if not id.isprintable():
        raise _wrong("an id has no control or unprintable characters")
    return id


SampleId = Annotated[
    str, Field(min_length=1, max_length=MAX_ID_CHARACTERS), AfterValidator(_printable)
]


class SampleIn(Form):
    """A sample: a conversation with its images, or the features of one."""

    model_config = ConfigDict(json_schema_extra=_one_of(["conversations"], ["features"]))

    id: SampleId
    image: ImageIn | None = None
    images: Annotated[list[ImageIn], Field(fail_fast=True)] | None = None
    conversations: Annotated[list[TurnIn], Field(fail_fast=True)] | None = None
    features: FeaturesIn | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> SampleIn:
        if (self.conversations is None) == (self.features is None):
            raise _wrong("a sample has either conversations or features")
        if self.features is not None and (self.image is not None or self.images is not None):
            raise _wrong("a sample with features has no image")
        if self.image is not None and self.images is not None:
            raise _wrong("give image or images, not both")
        return self

    @property
    def all_images(self) -> list[ImageIn]:
        return [self.image] if self.image is not None else self.images or []


class SamplesRequest(Form):
    """Some samples. How many a request may hold is a setting of the service."""

    samples: Annotated[list[SampleIn], Field(min_length=1, fail_fast=True)]
