"""The chat template of every seeded checkpoint. Its text is in `data/chat_template.jinja`."""

from __future__ import annotations

from importlib.resources import files

from reference.tokenizer import json_bytes


def chat_template() -> str:
    """Return a Jinja template with the turns of Qwen3-VL-Instruct.

    Variables: `messages` (role, content as a string or a list of text / image / video parts),
    `add_generation_prompt`, `add_vision_id` ("Picture 1: ", "Video 1: " before each). A picture becomes
    `<|vision_start|><|image_pad|><|vision_end|>`; the processor repeats the pad. The template raises for tools,
    other roles and other parts, so that no part of a prompt is silently dropped.
    """
    return _read("chat_template.jinja")


def tools_template() -> str:
    """Return a template with the same turns that also takes tools, their calls and results, and reasoning."""
    return _read("tools_template.jinja")


def _read(name: str) -> str:
    return files("reference").joinpath(f"data/{name}").read_text(encoding="utf-8").rstrip("\n")


def template_files() -> dict[str, bytes]:
    """Return the template's files by name: `chat_template.jinja` and, for older loaders, `chat_template.json`."""
    template = chat_template()
    return {
        "chat_template.jinja": template.encode(),
        "chat_template.json": json_bytes({"chat_template": template}),
    }
