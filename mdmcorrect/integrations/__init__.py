"""mdmcorrect inside other libraries. Nothing here is imported by the rest of the package."""

import mdmcorrect._requires_torch
