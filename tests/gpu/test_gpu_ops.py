"""Every operator with a CUDA kernel against mdmcorrect/reference/: options, dtypes, sizes odd and empty, layouts."""

from __future__ import annotations

import pytest

from mdmcorrect.selfcheck.cases import moved, returned, run
from mdmcorrect.selfcheck.families import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case, device):
    if device.type not in case.devices:
        pytest.skip("there is no such kernel")
    arguments = case.make(0)
    case.check(returned(run(case, moved(arguments, device))), arguments)
