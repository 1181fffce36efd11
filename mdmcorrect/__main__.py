"""``python -m mdmcorrect``: the same as the ``mdmcorrect`` command."""

from mdmcorrect.cli import main

raise SystemExit(main())
