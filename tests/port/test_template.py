"""Chat templates: rendered as transformers renders them, from where it looks for them, and never without end."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor
from transformers.utils.chat_template_utils import render_jinja_template

import port.template
from port.errors import ConfigError, InputError
from port.limits import Limits
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


BIG = "{% set big = 'a'.ljust(1000000) %}"
GROW = "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = @ %}{% endfor %}{{ n.x }}"
HOSTILE: Mapping[str, str] = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "one range, many loops": "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
    "loops over text": BIG + "{% for i in big %}{% for j in big %}{% endfor %}{% endfor %}",
    "loops with a condition": "{% set r = range(99999) %}{% for i in r %}{% for j in r if j < 0 %}{% endfor %}"
    "{% endfor %}",
    "recursive loop": "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}"
    "{% endfor %}",
    "wide recursive loop": "{% set r = range(99999) %}{% for x in r recursive %}{% if loop.depth < 3 %}{{ loop(r) }}"
    "{% endif %}{% endfor %}",
    "macros that branch": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "macro without end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "range": "{{ range(10 ** 9) }}",
    "long text": "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "text in a macro": BIG
    + "{% macro m() %}{% for i in range(9999) %}{{ big }}{% endfor %}{% endmacro %}{{ m()|length }}",
    "text in a block": BIG + "{% set x %}{% for i in range(9999) %}{{ big }}{% endfor %}{% endset %}{{ x|length }}",
    "repetition": "{{ 'x' * 10 ** 9 }}",
    "repetition from the right": "{{ 10 ** 9 * 'x' }}",
    "list repetition": "{{ [0] * 10 ** 9 }}",
    "repeated repetition": GROW.replace("@", "n.x * 9"),
    "doubling by +": GROW.replace("@", "n.x + n.x"),
    "doubling by ~": GROW.replace("@", "n.x ~ n.x"),
    "a long row of ~": BIG + "{{ (" + " ~ ".join(["big"] * 300) + ")|length }}",
    "doubling lists": GROW.replace("@", "[n.x, n.x]"),
    "doubling tuples": GROW.replace("@", "(n.x, n.x)"),
    "doubling dicts": GROW.replace("@", "{1: n.x, 2: n.x}"),
    "doubling dict()": GROW.replace("@", "dict(a=n.x, b=n.x)"),
    "doubling join": GROW.replace("@", "[n.x, n.x]|join"),
    "doubling format": GROW.replace("@", "'{0}{0}'.format(n.x)"),
    "power": "{{ 10 ** (10 ** 10) }}",
    "squaring": GROW.replace("'ab'", "9").replace("@", "n.x * n.x"),
    "hexadecimal": "{{ '1'.ljust(1000000, '1')|int(base=16) ** 99 }}",
    "padding": "{{ 'x'.ljust(10 ** 9) }}",
    "padding by a filter": "{{ 'x'|center(10 ** 9) }}",
    "a method in disguise": "{{ (['x']|map(attribute='ljust')|first)(10 ** 9) }}",
    "%-format": "{{ '%999999999d' % 1 }}",
    "%-format of a key": "{{ '%(a)999999999d' % {'a': 1} }}",
    "%-format with *": "{{ '%*d' % (999999999, 1) }}",
    "%-format repeated": BIG + "{{ ('%(a)s' * 99999) % {'a': big} }}",
    "format filter": "{{ '%999999999d'|format(1) }}",
    "format filter, wider than Python allows": "{{ '%99999999999999999999d'|format(1) }}",
    "format method": "{{ '{:999999999}'.format(1) }}",
    "format method, nested": "{{ '{:{0[0]}}'.format([999999999]) }}",
    "format method repeated": BIG + "{{ ('{0}' * 99999).format(big) }}",
    "replace": BIG + "{{ big.replace(' ', big) }}",
    "replace everywhere": BIG + "{{ big.replace('', big) }}",
    "replace filter": BIG + "{{ big|replace(' ', big) }}",
    "replace filter by name": BIG + "{{ big|replace(new=big, old=' ') }}",
    "mapped replace": BIG + "{{ range(99)|map('replace', '', big)|list }}",
    "join": BIG + "{{ big.join(big) }}",
    "join filter": BIG + "{{ big|join(big) }}",
    "join of a lazy filter": BIG + "{{ range(9999)|map('center', 100000)|join }}",
    "indent": "{{ ('a\n' * 99999)|indent(99999) }}",
    "json indent": "{{ [1]|tojson(indent=1000000) }}",
    "batch": "{{ [1]|batch(10 ** 9, 0)|list }}",
    "sum of lists": "{{ range(99999)|map('batch', 1)|map('list')|sum(start=[]) }}",
    "sum of text": "{{ ['a']|sum(start='') }}",
    "tabs": "{{ ('\t' * 99999).expandtabs(1000000) }}",
    "translate": BIG + "{{ big.translate({32: big}) }}",
    "time": "{{ strftime_now('%A' * 99999) }}",
    "comparisons": BIG + "{% for i in range(99999) %}{{ '' if big == big[1:] ~ 'x' }}{% endfor %}",
    "attributes": "{{ messages.__class__.__mro__ }}",
    "attributes by name": "{{ (messages|attr('__class__')).mro() }}",
    "attributes in a format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "globals": "{{ raise_exception.__globals__['json'] }}",
    "underscored names": "{{ namespace(_x=1) }}",
    "underscored names, later": "{% set n = namespace() %}{% set n._x = 1 %}",
    "change": "{{ messages.append(1) }}",
    "files": "{% include 'config.json' %}",
    "its own refusal": "{{ raise_exception('no such role') }}",
    "types": "{{ messages + 1 }}",
    "division": "{{ 1 / 0 }}",
    "lipsum": "{{ lipsum(1000) }}",
}


# What Jinja's own sandbox refuses, or Python; all else is refused for its size or its time.
REFUSED = {
    *("macro without end", "tabs", "translate", "attributes", "attributes by name", "attributes in a format"),
    *(
        "globals",
        "underscored names",
        "underscored names, later",
        "change",
        "files",
        "its own refusal",
        "types",
        "division",
        "lipsum",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_soon_with_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port.template, "MAX_SECONDS", 0.3)
    start = time.process_time()
    with pytest.raises(InputError) as caught:
        ChatTemplate(HOSTILE[name], "here", Limits(max_prompt_characters=2_000_000)).render(
            TALK, add_generation_prompt=True
        )
    wanted = "refuses the conversation: " if name in REFUSED else "asks for "
    assert str(caught.value).startswith(f"the chat template of here {wanted}")
    assert "MemoryError" not in str(caught.value)
    assert time.process_time() - start < 5


def test_nested_namespaces_do_not_write_themselves_out() -> None:
    nested = GROW.replace("@", "namespace(a=n.x, b=n.x)")
    assert ChatTemplate(nested, "here").render(TALK, add_generation_prompt=False) == "<Namespace>"


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
    assert ChatTemplate(text, "here").render(talk, add_generation_prompt=False) == "<Dangerous>4('a', '<bytes>')"
    for attack in ("{{ messages[0].content[0].image.save('x') }}", "{{ messages[0].content.append(1) }}"):
        with pytest.raises(InputError, match="refuses the conversation"):
            ChatTemplate(attack, "here").render(talk, add_generation_prompt=False)
    assert talk == [{"role": "user", "content": [{"type": "image", "image": image, "size": 3}, ("a", b"b")]}]


def test_a_template_cannot_change_the_conversation() -> None:
    before = deepcopy(TALK)
    changing = "{% set x = messages[0] %}{% set x = dict(x, role='z') %}{{ x.role }}{{ messages }}"
    assert ChatTemplate(changing, "here").render(TALK, add_generation_prompt=False).startswith("z[")
    assert before == TALK


def test_a_conversation_that_holds_itself_is_refused() -> None:
    talk: list[Any] = [{"role": "user", "content": []}]
    talk[0]["content"].append(talk)
    with pytest.raises(InputError, match="refuses the conversation"):
        ChatTemplate("{{ messages }}", "here").render(talk, add_generation_prompt=False)


def test_a_refused_rendering_leaves_nothing_behind_for_the_next() -> None:
    text = "{% for i in range(messages|length * 400) %}{% for j in range(1500) %}{% endfor %}{% endfor %}x"
    template = ChatTemplate(text, "here")
    for _ in range(2):
        with pytest.raises(InputError, match="more than 2,000,000 steps"):
            template.render(TALK, add_generation_prompt=False)
        assert template.render(TALK[:1], add_generation_prompt=False) == "x"
