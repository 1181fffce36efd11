"""A plugin of pytest (-p use_software_tiles): tests run on the library whose tiles are software.

The run fails if no product of tiles was made, or if a thread kept its tiles.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from mdmcorrect import _native

LIBRARY = Path(os.environ["MDMCORRECT_SOFTWARE_TILES"])
_native.LIBRARY = LIBRARY


def pytest_sessionfinish(session):
    tiles = ctypes.CDLL(str(LIBRARY.with_name("software_tiles.so")))
    tiles.software_tile_products.restype = tiles.software_tile_threads.restype = ctypes.c_long
    products, threads = tiles.software_tile_products(), tiles.software_tile_threads()
    if products == 0 or threads != 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.get_terminal_writer().line(f"\n{products} products of tiles, {threads} threads kept tiles")
