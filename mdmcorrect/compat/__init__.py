"""Drop-ins: functions and classes with other repositories' exact signatures, each a few lines over the engine.

One module per repository, importable without it. ``docs/compat.md`` says of each what equals the original and what does
not. :func:`patch` puts them into an original that is installed or imported.
"""

import mdmcorrect._requires_torch

from .patching import Patch, patch

__all__ = ["Patch", "patch"]
