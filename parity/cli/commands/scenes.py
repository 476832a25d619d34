"""``parity scenes``: writes held-out pictures and clips as files, with questions and answers."""

from __future__ import annotations

import json
from pathlib import Path

import click

from parity.answers.exam import write_media
from parity.cli.console import printing
from parity.core.errors import ParityError
from reference.world.exam import exam
from reports.staging import Staged

QUESTIONS = "questions.json"


def scenes(*, folder: Path, pictures: int, clips: int, seed: int) -> int:
    """Write the files, and ``questions.json`` with the file, kind, question and right answer of each item."""
    if folder.exists():
        raise ParityError(f"{folder} exists already; name a new folder")
    items = exam(pictures=pictures, clips=clips, seed=seed)
    with Staged(folder, what="scenes") as staged:
        files = write_media(items, staged.work)
        lines = [
            {
                "file": file.path.name,
                "kind": item.kind,
                "question": item.question.text,
                "answer": item.question.answer,
            }
            for item, file in zip(items, files, strict=True)
        ]
        (staged.work / QUESTIONS).write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
    with printing():
        click.echo(f"{folder / QUESTIONS}: {len(items)} questions about {pictures} pictures and {clips} clips")
    return 0
