"""Imported before mdmcorrect.ops, as a plugin of pytest or by itself: kernels run on AVX-512 made of software.

MDMCORRECT_SOFTWARE_AVX512 is the library that has it, MDMCORRECT_ISA which of its instruction sets to use.
"""

from __future__ import annotations

import os
from pathlib import Path

from mdmcorrect import _native

_native.LIBRARY = Path(os.environ["MDMCORRECT_SOFTWARE_AVX512"])
assert _native.build_info()["isa"] == os.environ["MDMCORRECT_ISA"]
