"""What a server sends back, checked before it is believed."""

from __future__ import annotations

from pydantic import BaseModel, Field, ValidationError

from selfilter_ray.scorers.judge.answers import Answer


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def read_reply(body: str, seconds: float) -> Answer | None:
    """The answer in the body of a reply, or None when it is no chat completion."""
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError:
        return None
    choice, usage = completion.choices[0], completion.usage or _Usage()
    return Answer(
        text=choice.message.content or "",
        finish_reason=choice.finish_reason,
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        seconds=round(seconds, 3),
    )
