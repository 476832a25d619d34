"""Self-contained HTML pages: no network, pictures and plots inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from reports import digest, plots
from reports.model.page import model_context
from reports.model.parts import of_findings
from reports.templating import TEMPLATES, environment


def page(template: str, **context: object) -> str:
    """Render a template with the style and the script that all pages share."""
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    # The policy allows this one script by its hash and no network at all, so nothing that a prompt or a note
    # contains can run or send anything out.
    digest_of = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest_of}'"
    made = environment().get_template(template)
    return made.render(policy=policy, script=Markup(script), style=Markup(style), **context)


def findings_context(document: Mapping[str, Any]) -> dict[str, Any]:
    """What ``findings.html.j2`` shows of a document with findings."""
    findings = document["findings"]
    return {
        "plot": inline(plots.seam_plot(document)),
        "first": digest.first_divergence(document),
        "sentence": digest.first_sentence(document),
        "counts": digest.status_counts(findings),
        "kinds": digest.kind_rows(findings),
        "groups": digest.groups_of(findings),
        "group_names": digest.GROUPS,
        "steps": list(dict.fromkeys(finding["step"] for finding in findings)),
        "leading": digest.leading(document),
        **model_context(of_findings(findings, document["verdict"]["first_divergence"])),
    }


def inline(svg: str | None) -> Markup | None:
    """An SVG of :mod:`reports.plots`, which escapes every name that it takes from the document."""
    return None if svg is None else Markup(svg)


def png_uri(data: bytes) -> str:
    """A PNG as the source of an image in the page."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
