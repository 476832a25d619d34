"""A chat template with the features of published ones, and tools for it."""

from __future__ import annotations

TOOLS = [
    {"type": "function", "function": {"name": "größe", "description": "a < b", "parameters": {"x": [1, 2.5, None]}}}
]

# What chat templates do: tools, calls, answers of tools, thoughts split off, counted media, turns from the back.
WITH_TOOLS = """
{%- macro write(content, count) -%}
    {%- if content is string %}{{- content }}{% elif content is iterable and content is not mapping -%}
        {%- for part in content -%}
            {%- if 'image' in part or part.type == 'image' -%}
                {%- if count %}{% set seen.images = seen.images + 1 %}{% endif -%}
                {%- if add_vision_id %}Picture {{ seen.images }}: {% endif -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part.text is defined -%}{{- part['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- elif content is none or content is undefined -%}{{- '' }}
    {%- else %}{{- raise_exception('content of a strange kind') }}{%- endif -%}
{%- endmacro -%}
{%- set seen = namespace(images=0, last=messages|length - 1, found=false) -%}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- write(messages[0].content, false) + '\\n\\n' }}{% endif %}
    {%- for tool in tools %}{{- '\\n' ~ tool | tojson }}{% endfor %}
    {{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages[::-1] -%}
    {%- set index = (messages|length - 1) - loop.index0 -%}
    {%- if message.role == 'user' and not seen.found and not message.content is none -%}
        {%- set seen.found = true -%}{%- set seen.last = index -%}
    {%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- if loop.first and message.role == 'system' and tools %}{% continue %}{% endif -%}
    {%- set thought = '' -%}
    {%- set content = message.content -%}
    {%- if message.reasoning_content is string -%}{%- set thought = message.reasoning_content -%}
    {%- elif content is string and '</think>' in content -%}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
    {%- endif -%}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if thought and loop.index0 > seen.last -%}
        {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' -}}
    {%- endif %}
    {%- generation %}{{- write(content, true) }}{% endgeneration %}
    {%- for call in message.tool_calls or [] %}
        {%- set call = call.function if call.function else call %}
        {{- '\\n<tool_call>' ~ call.name ~ ' ' }}
        {{- call.arguments if call.arguments is string else call.arguments | tojson }}{{- '</tool_call>' }}
    {%- endfor %}
    {{- eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% if thinking_on %}<think>{% endif %}{% endif %}"""
