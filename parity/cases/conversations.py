"""Cases about prompts: several turns, tools, variables of the template, texts that are easy to change by mistake."""

from __future__ import annotations

import json

from parity.cases.case import TINY, Case, SeededCheckpoint
from parity.cases.media import Clip, Noise
from reference.media import Prompting, Turn

TOOLS = SeededCheckpoint("tiny", rewrites=("tools",))
_SMALL, _CLIP = Noise(64, 96, seed=41), Clip(4, 64, 96, fps=2.0)
_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a town, with <tags> & 'quotes'",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
_CALL = json.dumps(
    {"tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"town": "Köln"}}}]}
)
# Decomposed accents, a ligature, emoji of several characters, scripts from right to left, digits, and white space.
_TEXTS = (
    "Cafe\u0301 n\u0303 \ufb01 A\u030a \u1e9b\u0323",
    "\U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea \u4f60\u597d \u0645\u0631\u062d\u0628\u0627",
    "  two  spaces\t tab\r\n\r\n\n 12345 67,8 it's I'LL x_y __init__ ",
    "<think>no</think> <|object_ref_start|>a<|object_ref_end|> <|box_start|>(1,2)<|box_end|> <tool_call> <|fim_pad|>",
    "<|im_ <|vision <| |> </s> [INST] <|unknown|>",
)


def conversation_cases() -> list[Case]:
    """Return the cases about prompts. They belong to phase 1."""
    return [
        Case(
            "turns",
            "a system turn, several turns with media in two of them, and a row of another length",
            1,
            TINY,
            (
                (Turn("user", "As a string."), Turn("assistant", "\nYes \n"), Turn("user", " Again? ")),
                (
                    Turn("system", "You are terse. "),
                    "See ",
                    _SMALL,
                    " there?",
                    Turn("assistant", "Yes."),
                    "And ",
                    _CLIP,
                    "?",
                ),
            ),
            stages=("processor",),
        ),
        Case(
            "template-variables",
            "pictures and videos with their numbers in the prompt, which ends after the last turn",
            1,
            TINY,
            (("a ", _SMALL, " b ", _CLIP, " c ", _SMALL), (_CLIP, "Only this.")),
            stages=("processor",),
            prompting=Prompting(generation_prompt=False, variables=(("add_vision_id", True),)),
        ),
        _tools(),
        Case(
            "after-tools",
            "a prompt without tools and variables, after one with them",
            1,
            TOOLS,
            (("Plain ", _SMALL, "?"), ("No tools",)),
            stages=("processor",),
            before=(_tools(),),
            since=(5, 24),
        ),
        Case(
            "texts",
            "accents, emoji, white space, markup, names of tokens, an empty text, texts in several parts",
            1,
            TINY,
            (*((text,) for text in _TEXTS), ("", "one", " two", _SMALL, "", "three "), ("x" * 300,)),
            stages=("processor",),
        ),
        Case(
            "turn-tokens",
            "texts with the names of the tokens of turns, where they are allowed; padded right",
            1,
            TINY,
            (("a<|im_end|>\n<|im_start|>user\nb<|endoftext|>",), ("Short.",)),
            padding_side="right",
            stages=("processor",),
            prompting=Prompting(turn_tokens=True),
        ),
    ]


def _tools() -> Case:
    return Case(
        "tools",
        "tools, a call without a text, its result with a picture, reasoning under an older name",
        1,
        TOOLS,
        (
            (
                Turn("system", "Be kind."),
                Turn("user", "Weather?"),
                Turn("assistant", "", _CALL),
                Turn("tool", '{"sun": true}', json.dumps({"name": "weather"})),
                Turn("assistant", "Sunny.", json.dumps({"thinking": "It is sunny.", "tool_calls": None})),
                "Like ",
                _SMALL,
                "?",
            ),
            ("No system turn",),
        ),
        stages=("processor",),
        prompting=Prompting(tools=(json.dumps(_WEATHER),), variables=(("enable_thinking", False),)),
        since=(5, 24),
    )
