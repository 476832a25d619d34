"""A document as one self-contained HTML page: no network, pictures and plots inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from reports import digest, plots
from reports.heatmap import heat_map
from reports.templating import TEMPLATES, environment


def html(document: Mapping[str, Any], *, pictures: Path) -> str:
    """Render a validated document; ``pictures`` is the folder that its picture files are relative to."""
    if document["kind"] == "run":
        return _run(document, pictures=pictures)
    return _suite(document)


def _run(document: Mapping[str, Any], *, pictures: Path) -> str:
    findings = document["findings"]
    listed = document["pictures"]
    return _render(
        "run.html.j2",
        doc=document,
        plot=_inline(plots.seam_plot(document)),
        maps=[heat_map(picture, folder=pictures, among=len(listed)) for picture in listed],
        first=digest.first_divergence(document),
        sentence=digest.first_sentence(document),
        counts=digest.status_counts(findings),
        kinds=digest.kind_rows(findings),
        groups=digest.groups_of(findings),
        group_names=digest.GROUPS,
        steps=list(dict.fromkeys(finding["step"] for finding in findings)),
        # Generated text stands beside its prompt.
        generated={piece["row"]: piece for piece in document["case"]["generated"]},
    )


def _suite(document: Mapping[str, Any]) -> str:
    return _render(
        "suite.html.j2",
        doc=document,
        plot=_inline(plots.case_plot(document)),
        phase_titles={phase["phase"]: phase["title"] for phase in document["phases"]},
    )


def _render(template: str, **context: object) -> str:
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    # The policy allows this one script by its hash and no network at all: whatever a prompt or a note
    # holds, nothing of it can run or call home.
    digest_of = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest_of}'"
    page = environment().get_template(template)
    return page.render(policy=policy, script=Markup(script), style=Markup(style), **context)


def _inline(svg: str | None) -> Markup | None:
    # Built by reports.plots, which escapes every name that it takes from the document.
    return None if svg is None else Markup(svg)
