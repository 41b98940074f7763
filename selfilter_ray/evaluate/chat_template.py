"""The prompt that a model was tuned with, as a chat template: other programs then ask it the same.

Messages may hold their content as one text with ``<image>`` in it, or as parts.
"""

from __future__ import annotations

import json

from selfilter_ray.samples.record import IMAGE_TOKEN
from selfilter_ray.stage1.families.contract import Family
from selfilter_ray.stage1.prompt import AUTO
from selfilter_ray.stage1.segments import VICUNA_SYSTEM

# The pictures of a message stand before its words, each on a line of its own.
CONTENT = """
{%- macro said(message) -%}
{%- set seen = namespace(pictures=0, words='') -%}
{%- if message['content'] is string -%}
{%- set seen.pictures = message['content'].count(PLACEHOLDER) -%}
{%- set seen.words = message['content'].replace(PLACEHOLDER, '') -%}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{%- set seen.words = seen.words + part['text'] -%}
{%- elif part['type'] == 'image' -%}
{%- set seen.pictures = seen.pictures + 1 -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- (MARK + '\\n') * seen.pictures + (seen.words.strip() if seen.pictures else seen.words) -}}
{%- endmacro -%}
"""
SYSTEM_SENTENCE = """
{%- set system = namespace(words=[]) -%}
{%- for message in messages if message['role'] == 'system' -%}
{%- set system.words = system.words + [said(message)] -%}
{%- endfor -%}
{{- (system.words | join(' ') or SYSTEM) + ' ' -}}
"""
DIALOGUE = """
{%- for message in messages if message['role'] != 'system' -%}
{%- if message['role'] == 'assistant' -%}
{{- 'ASSISTANT: ' + said(message) + END -}}
{%- else -%}
{{- 'USER: ' + said(message) + ' ' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""
CHATML = """
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + said(message) + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
TEMPLATES = {
    "vicuna_v1": CONTENT + SYSTEM_SENTENCE + DIALOGUE,
    "plain": CONTENT + DIALOGUE,
    "chatml": CONTENT + CHATML,
}


def chat_template(prompt: str, family: Family) -> str | None:
    """The chat template of a prompt format (``train.prompt``).

    Returns:
        Jinja's text; None for the model's own (``template``), and for formats whose answers end
        without the tokenizer's end mark, which other programs would not see.
    """
    source = TEMPLATES.get(family.prompt if prompt == AUTO else prompt)
    if source is None:
        return None
    names = {
        "PLACEHOLDER": IMAGE_TOKEN,
        "MARK": family.image_mark,
        "SYSTEM": VICUNA_SYSTEM,
        "END": family.eos,
    }
    definitions = "".join(f"{{%- set {name} = {json.dumps(v)} -%}}" for name, v in names.items())
    return definitions + source.strip()
