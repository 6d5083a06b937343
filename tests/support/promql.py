"""What the alert rules and the dashboard in docs/ ask Prometheus for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.support.programs import ROOT

RULES = ROOT / "docs" / "metrics" / "alerts.yml"
DASHBOARD = ROOT / "docs" / "metrics" / "dashboard.json"

_SELECTOR = re.compile(r"\b((?:fastpos|process)_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")


class Selector(NamedTuple):
    """Series that an expression is about."""

    name: str
    matchers: list[tuple[str, str, str]]
    """Label, operator, value."""


def selectors(expression: str) -> list[Selector]:
    """Those in an expression."""
    return [
        Selector(found[1], _MATCHER.findall(found[2] or ""))
        for found in _SELECTOR.finditer(expression)
    ]


def grouped(expression: str) -> set[str]:
    """The labels that are kept or left out."""
    return {
        label.strip() for found in _GROUPING.finditer(expression) for label in found[1].split(",")
    }


def rules() -> dict[str, str]:
    """Each alert's expression."""
    text = RULES.read_text()
    found = re.findall(r"- alert: (\w+)\n +expr: (.+)\n", text)
    assert len(found) == text.count("alert:") == len(dict(found))
    return dict(found)


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def panels() -> Iterator[tuple[str, str, str]]:
    """Of each series of a panel the panel's title, the expression and the legend."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]


def queries() -> list[str]:
    """The expressions of the variables."""
    return [
        each["query"]["query"]
        for each in dashboard()["templating"]["list"]
        if each["type"] == "query"
    ]
