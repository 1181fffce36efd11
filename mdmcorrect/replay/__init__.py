"""Look at a run: in the terminal, as a plot, as a file, or played by one page in a browser.

Record with ``history="candidates"``, then ``result.text(tokenizer)``, ``result.plot()``, ``result.save("run.json")`` or
``result.to_html(tokenizer)``; :func:`load` reads a saved run, which has the same methods.
"""

import mdmcorrect._requires_torch

from .run import Frame, Row, Run, load, run_of

__all__ = ["Frame", "Row", "Run", "load", "run_of"]
