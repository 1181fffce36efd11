"""Areas of the package that have a score of their own, and the tests that are asked."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mdmcorrect"

AREAS: dict[str, tuple[str, ...]] = {
    "samplers": ("samplers/*.py", "samplers/presets/*.py"),
    "losses": ("losses/*.py", "likelihood.py"),
    "heads": ("heads.py", "attached.py"),
    "adapters": ("adapters.py", "caches.py", "model.py", "wrappers.py", "layers.py"),
    "canvas": ("canvas.py", "schedules.py", "rng.py", "_checks.py"),
    "compat": ("compat/*.py",),
    "ops": ("ops/*.py",),
}

# What needs no other process, device or network; a bug lives in one process.
TESTS = (
    "tests/samplers", "tests/compat", "tests/losses", "tests/ops", "tests/integrations", "tests/properties",
    "tests/test_adapters.py", "tests/test_caches.py", "tests/test_canvas.py", "tests/test_heads.py",
    "tests/test_rng.py", "tests/test_schedules.py", "tests/test_wrappers.py", "tests/test_bad_arguments.py",
)  # fmt: skip


def sources(area: str) -> list[Path]:
    return sorted(path for pattern in AREAS[area] for path in PACKAGE.glob(pattern) if path.name != "__init__.py")


def area_of(path: Path) -> str:
    return next((area for area in AREAS if path in sources(area)), "other")
