"""The harness, built once per run; `simt` runs threads in the order they have, `any_order` in three orders."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import harness
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "samplers"))  # toys and combinations of parts


@pytest.fixture(scope="session")
def library():
    if not harness.available():
        pytest.skip("needs cmake and g++")
    return harness.build(os.environ.get("SIMT_VARIANT", "checked"))  # tools/device_coverage.py asks for another


@pytest.fixture
def simt(library):
    return harness.Simt(library)


@pytest.fixture(params=harness.ORDERS)
def any_order(library, request):
    return harness.Simt(library, request.param)
