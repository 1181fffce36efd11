"""Imported before torch by whatever needs it, so that a missing or too old torch is told in one sentence.

Raises:
    ImportError: there is no torch 2.10 or newer.
"""

from mdmcorrect import _native

_problem = _native.torch_problem()
if _problem is not None:
    raise ImportError(_problem)
