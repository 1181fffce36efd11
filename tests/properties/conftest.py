"""Cases nobody thought of: how many, and how many there were.

MDMCORRECT_CASES says how many each property gets: few by default, the same ones every time. `make properties` gives
each instruction set of the machine thousands, drawn anew.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import hypothesis
import pytest

for folder in ("", "samplers"):
    sys.path.append(str(Path(__file__).parents[1] / folder))

ASKED = os.environ.get("MDMCORRECT_CASES")
DONE = Counter()

hypothesis.settings.register_profile(
    "properties",
    max_examples=int(ASKED or 25),
    deadline=None,
    derandomize=ASKED is None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.fixture
def case(request):
    """Called at the end of a case: it was one."""
    return lambda: DONE.update([request.node.name])


def pytest_configure():
    hypothesis.settings.load_profile("properties")


def pytest_unconfigure():
    if "MDMCORRECT_CASES_REPORT" in os.environ:
        Path(os.environ["MDMCORRECT_CASES_REPORT"]).write_text(json.dumps(DONE))
