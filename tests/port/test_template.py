"""Chat templates are rendered as in transformers, and found in the same places."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor
from transformers.utils.chat_template_utils import render_jinja_template

from port.errors import ConfigError, InputError
from port.template import ChatTemplate
from reference.checkpoint import make_checkpoint
from reference.template import chat_template
from tests.port.template_samples import TOOLS, WITH_TOOLS

TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "  what?\n"}, {"type": "video"}]},
    {"role": "assistant", "content": "A <b>cat</b> & 'dog'"},
    {"role": "user", "content": [{"type": "text", "text": "naïve 🐈"}]},
]
CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "how big?"},
    {
        "role": "assistant",
        "reasoning": "hm",
        "content": None,
        "tool_calls": [{"function": {"name": "größe", "arguments": {"x": 1}}}],
    },
    {"role": "tool", "content": "12\n"},
    {"role": "assistant", "content": "<think>\nwell\n</think>\n\n12 m", "tool_calls": None},
]
TEMPLATES = {
    "the checkpoints' own": chat_template(),
    "tools": WITH_TOOLS,
    "blocks and whitespace": "{% for m in messages %}\n  {% if m.content %}\nU{{ m.role }}\n{% endif %}\n{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}{{ [1, 2]|tojson(separators=(',', ':')) }}",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "loops": "{% for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}"
    "{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{{ loop.cycle('a', 'b') }}{% else %}none{% endfor %}"
    "{% for m in nothing %}x{% else %}empty{% endfor %}",
    "recursion": "{% for x in [1, [2, [3]], 4] recursive %}{% if x is number %}{{ x }}{% else %}({{ loop(x) }})"
    "{% endif %}{% endfor %}",
    "namespaces": "{% set n = namespace(x=0) %}{% for i in range(5) %}{% set n.x = n.x + i %}{% endfor %}{{n.x}}",
    "ranges": "{{ range(3)|list }}{{ range(2, 9, 3)|length }}{{ range(5)[1:3]|join('-') }}{{ range(4)[-1] }}",
    "filters": "{{ messages|map(attribute='role')|join(', ') }}"
    "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}"
    "{{ 'a\nb'|indent(2) }}{{ 'aXa'|replace('X', '--') }}{{ {'b': 1, 'a': 2}|dictsort }}{{ [3, 1]|sort|first }}"
    "{{ '%s-%d'|format('x', 3) }}{{ 'abc'|upper|reverse }}{{ [1, 2]|sum }}"
    "{{ nowhere|default(12345678) }}{{ 'q'|center(5) }}",
    "methods": "{{ 'a,b'.split(',') }}{{ '-'.join(['x', 'y']) }}{{ 'x{}{:>4}'.format(1, 2) }}"
    "{{ 'aa'.replace('a', 'b') }}"
    "{{ 'Ab'.lower().startswith('a') }}{{ messages[0].items()|list }}{{ messages[0].get('role') }}"
    "{{ 'x' * 3 ~ [1] ~ none }}",
    "arithmetic": "{{ 2 ** 10 }}{{ 7 % 4 }}{{ '%03d%%' % 7 }}{{ [1] + [2] }}{{ 3 * 'ab' }}{{ 7 // 2 }}"
    "{{ 10 ** 10 ** 10 }}",
    "literals": "{{ (1, 'a') }}{{ {'k': [1, {}]} }}{% set a, b = 1, 2 %}{{ a }}{{ b }}{{ 1 in (1, 2) }}{{ dict(a=1) }}",
    "captured": "{% set x %}{% for m in messages %}{{ m.role }}{% endfor %}{% endset %}{{ x|length }}"
    "{% filter upper %}a{% endfilter %}"
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}{{ m(1) }}{% call m(3) %}in{% endcall %}",
    "prompt": "{{ messages | length }}{% if add_generation_prompt %}>{% endif %}",
    "special tokens": "{{ eos_token }}{{ pad_token }}[{{ bos_token }}]",
    "generation": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "dict": "{{ dict(a=1) }}{{ dict.fromkeys([1, 2], 3) }}{{ dict.items is defined }}",
    "time": "{{ strftime_now('%Y-%m') }}",
    "undefined": "[{{ tools }}][{{ nowhere }}]",
    "media": "{{ messages[0].content }}",
}
SPECIAL = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
COMPILED = ChatTemplate(WITH_TOOLS, "here", special=SPECIAL)


def by_transformers(text: str, talk: Any, *, prompt: bool, **more: Any) -> str:
    # The processor drops what is None before it renders.
    talk = [{key: value for key, value in message.items() if value is not None} for message in talk]
    return render_jinja_template([talk], chat_template=text, add_generation_prompt=prompt, **SPECIAL, **more)[0][0]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_text_is_what_transformers_renders(name: str, prompt: bool) -> None:
    wanted = by_transformers(TEMPLATES[name], TALK, prompt=prompt)
    assert ChatTemplate(TEMPLATES[name], "here", special=SPECIAL).render(TALK, add_generation_prompt=prompt) == wanted
    assert wanted


@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("variables", [{}, {"add_vision_id": True, "thinking_on": True}])
@pytest.mark.parametrize("talk", [TALK, CALLS])
def test_tools_calls_thoughts_and_variables_are_as_in_transformers(
    tools: Any, variables: dict[str, Any], talk: Any
) -> None:
    wanted = by_transformers(WITH_TOOLS, talk, prompt=True, tools=tools, **variables)
    assert COMPILED.render(talk, add_generation_prompt=True, tools=tools, variables=variables) == wanted
    assert ("größe" in wanted) == (tools is not None or talk is CALLS)
    assert ("Picture 1: " in wanted) == ("add_vision_id" in variables and talk is TALK)
    assert ("<think>\nhm\n</think>" in wanted) == (talk is CALLS), "reasoning is known by any of its names"


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["system", "user", "assistant", "tool"]),
                "content": st.one_of(
                    st.none(),
                    st.text(max_size=12),
                    st.sampled_from(["<think>a</think>b", "</think>", " {{ x }} {% y %}", "\r\n", "'\"\\<&>"]),
                    st.lists(
                        st.one_of(
                            st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=8)}),
                            st.just({"type": "image", "image": np.zeros(3)}),
                        ),
                        max_size=3,
                    ),
                ),
            }
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_conversation_is_rendered_as_transformers_renders_it(talk: list[dict[str, Any]], prompt: bool) -> None:
    wanted = by_transformers(WITH_TOOLS, talk, prompt=prompt, tools=TOOLS)
    assert COMPILED.render(talk, add_generation_prompt=prompt, tools=TOOLS) == wanted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("template") / "tiny", "tiny")


@pytest.fixture
def bare(folder: Path, tmp_path: Path) -> Path:
    """A checkpoint without weights and without a template."""
    target = tmp_path / "bare"
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors", "chat_template.*"))
    settings_path = target / "tokenizer_config.json"
    raw = json.loads(settings_path.read_text())
    del raw["chat_template"]
    settings_path.write_text(json.dumps(raw))
    return target


def add_field(path: Path, value: Any) -> None:
    raw = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**raw, "chat_template": value}))


PLACES = {
    "processor_config.json": "inline",
    "chat_template.json": "legacy",
    "chat_template.jinja": "jinja {{ eos_token }}",
    "tokenizer_config.json": "tokenizer",
}


@pytest.mark.parametrize("first", range(4))
def test_files_are_looked_for_in_transformers_order(bare: Path, first: int) -> None:
    for name, text in list(PLACES.items())[first:]:
        if name.endswith(".jinja"):
            (bare / name).write_text(text)
        else:
            add_field(bare / name, text)
    found = ChatTemplate.from_folder(bare)
    assert found.source == str(bare / list(PLACES)[first])
    rendered = found.render(TALK, add_generation_prompt=False)
    if first < 3:  # its processor does not look at the tokenizer's file
        assert rendered == AutoProcessor.from_pretrained(bare).apply_chat_template(TALK, tokenize=False)
    else:
        assert rendered == "tokenizer"


def test_of_several_templates_the_default_is_taken(bare: Path) -> None:
    add_field(bare / "tokenizer_config.json", [{"name": "x", "template": "X"}, {"name": "default", "template": "D"}])
    assert ChatTemplate.from_folder(bare).render(TALK, add_generation_prompt=False) == "D"
    add_field(bare / "tokenizer_config.json", [{"name": "x", "template": "X"}])
    with pytest.raises(ConfigError, match=r"tokenizer_config.json: chat_template holds \['x'\], none .* 'default'"):
        ChatTemplate.from_folder(bare)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("chat_template.jinja", "{% for %}", r"chat_template\.jinja does not compile"),
        ("chat_template.jinja", "{{ 1 | no_such_filter }}", r"chat_template\.jinja does not compile.*no_such_filter"),
        ("chat_template.jinja", "{% trans %}a{% endtrans %}", r"chat_template\.jinja does not compile.*line 1"),
        ("chat_template.jinja", "{{ " + "(" * 5000 + ")" * 5000 + " }}", r"chat_template\.jinja does not compile"),
        ("chat_template.jinja", "x" * 1_000_001, r"chat_template\.jinja has 1,000,001 characters"),
        ("chat_template.jinja", b"\xff\xfe", r"chat_template\.jinja is not UTF-8 text"),
        ("chat_template.json", "{", r"chat_template\.json is not valid JSON"),
        ("chat_template.json", "[" * 100_000, r"chat_template\.json is not valid JSON"),
        ("chat_template.json", "[1]", r"chat_template\.json holds a list, not an object"),
        ("chat_template.json", '{"chat_template": 3}', r"chat_template\.json has a chat_template of type int"),
        ("readme.txt", "", "no chat template"),
    ],
)
def test_a_broken_template_names_its_file(bare: Path, name: str, text: str | bytes, why: str) -> None:
    (bare / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=why):
        ChatTemplate.from_folder(bare)


def test_bounds_leave_room_for_long_conversations() -> None:
    long = [{"role": "user", "content": [{"type": "text", "text": "word " * 200}] * 5}] * 1000
    wanted = by_transformers(WITH_TOOLS, long, prompt=True)
    assert COMPILED.render(long, add_generation_prompt=True) == wanted
    assert len(wanted) > 4_900_000


class Dangerous:
    def save(self, _path: str) -> str:
        raise AssertionError("a template has called a method of the caller's object")


def test_a_template_gets_plain_copies_of_the_conversation() -> None:
    image = Dangerous()
    talk = [{"role": "user", "content": [{"type": "image", "image": image, "size": np.int64(3)}, ("a", b"b")]}]
    text = "{{ messages[0].content[0].image }}{{ messages[0].content[0].size + 1 }}{{ messages[0].content[1] }}"
    assert ChatTemplate(text, "here").render(talk, add_generation_prompt=False) == "<Dangerous>4['a', '<bytes>']"
    for attack in ("{{ messages[0].content[0].image.save('x') }}", "{{ messages[0].content.append(1) }}"):
        with pytest.raises(InputError, match="refuses the conversation"):
            ChatTemplate(attack, "here").render(talk, add_generation_prompt=False)
    assert talk == [{"role": "user", "content": [{"type": "image", "image": image, "size": 3}, ("a", b"b")]}]


def test_a_template_cannot_change_the_conversation() -> None:
    before = deepcopy(TALK)
    changing = "{% set x = messages[0] %}{% set x = dict(x, role='z') %}{{ x.role }}{{ messages }}"
    assert ChatTemplate(changing, "here").render(TALK, add_generation_prompt=False).startswith("z[")
    assert before == TALK


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


HOLDS_ITSELF: list[Any] = []
HOLDS_ITSELF.append(HOLDS_ITSELF)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({1: "a"}, "the key 1 is a int; use a string"),
        ({("a", "b"): 1}, r"the key \('a', 'b'\) is a tuple"),
        pytest.param(10**5000, "4300 digits", id="a very large number"),
        (nested(2000), "recursion"),
        (HOLDS_ITSELF, "recursion"),
    ],
)
def test_what_json_cannot_hold_is_refused(value: Any, why: str) -> None:
    template = ChatTemplate("{{ messages }}{{ x }}", "here")
    for what in (
        {"conversation": [{"role": "user", "content": value}]},
        {"conversation": [], "variables": {"x": value}},
    ):
        with pytest.raises(InputError, match=f"given to the chat template of here is not JSON: .*{why}"):
            template.render(**what, add_generation_prompt=False)
    assert template.render([], add_generation_prompt=False) == "[]"


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("-inf"), 1e300, 10**4000, "\ud83d \u2028 \x00", nested(150), True, np.float32(0.1), None],
)
def test_unusual_values_are_written_as_transformers_writes_them(value: Any) -> None:
    text = "{{ x }}{{ x | tojson }}{{ messages }}"
    talk = [{"role": "user", "content": [value]}]
    wanted = by_transformers(text, talk, prompt=False, x=value)
    assert ChatTemplate(text, "here").render(talk, add_generation_prompt=False, variables={"x": value}) == wanted
