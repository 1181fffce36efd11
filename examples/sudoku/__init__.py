"""Sudoku: the smallest task on which a masked diffusion model visibly finds and mends its own mistakes.

`puzzles` makes boards with exactly one solution, `model` reads them, `train` teaches it (MDM, then PRISM or ProSeCo),
`evaluate` compares samplers at equal numbers of model calls.
"""
