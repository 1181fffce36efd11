"""Recorded runs of the repositories that the drop-ins replace; each file names its source."""

import json
from pathlib import Path

import pytest


def cases(name):
    """The cases of one file as pytest parameters."""
    runs = json.loads((Path(__file__).parent / "data" / f"{name}.json").read_text())
    return [pytest.param(case, id=case["name"]) for case in runs["cases"]]
