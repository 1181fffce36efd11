"""Every operator with a CUDA kernel against mdmcorrect/reference/: options, dtypes, sizes odd and empty, layouts."""

from __future__ import annotations

import network_cases
import position_cases
import pytest
import scoring_cases
from cases import moved, returned, run

CASES = [*scoring_cases.CASES, *position_cases.CASES, *network_cases.CASES]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case, device):
    arguments = case.make(0)
    case.check(returned(run(case, moved(arguments, device))), arguments)
