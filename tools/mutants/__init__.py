"""One-line bugs put into the Python code, one at a time: which of them does the suite notice?

cosmic-ray makes them (``pip install '.[mutants]'``), and :mod:`.by_hand` lists those that people made. Each lives in
the memory of a process of its own, never in a file, and meets the tests that run its line, the quickest first.

    python tools/mutants map                          which test runs which line: once, and again after changes
    python tools/mutants hand                         the list of :mod:`.by_hand`
    python tools/mutants tool --sample 50 --seed 0    fifty of each area, drawn
    make mutants                                      all three
"""
