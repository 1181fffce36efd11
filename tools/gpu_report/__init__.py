"""``make gpu``: ten minutes on a device, and a folder that says what was right and how fast it was.

The library is built for the device, ``doctor --check`` runs, then ``tests/gpu``, the essential rows of the benchmarks,
and a small case of each operator under compute-sanitizer. Each family of tests is a process of its own with a limit of
its own, so that a kernel that fails, kills its process or hangs costs no other its verdict; what is known is written
down after every step, so that an interrupted run leaves a report. Needs the standard library alone, and pytest for the
tests and the benchmarks.
"""
