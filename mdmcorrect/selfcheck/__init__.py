"""What every device is asked: calls of each operator whose results must be those of :mod:`mdmcorrect.reference`.

``mdmcorrect doctor --check`` runs a few of them in half a minute (:mod:`mdmcorrect.selfcheck.check`); the tests run
all. Needs torch and NumPy alone.
"""

import mdmcorrect._requires_torch
