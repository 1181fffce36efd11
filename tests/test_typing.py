"""README's lines pass mypy, and a typo in an option of a preset does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

api = pytest.importorskip("mypy.api")

ROOT = Path(__file__).parents[1]

# Enough of torch to tell a tensor from None; its own annotations take mypy a minute.
TORCH = """
from typing import Any
class Tensor:
    def __neg__(self) -> Tensor: ...
    def __getitem__(self, index: Any) -> Tensor: ...
    def __getattr__(self, name: str) -> Any: ...
class dtype: ...
class device:
    def __init__(self, *args: Any) -> None: ...
class Generator: ...
def tensor(values: Any, **options: Any) -> Tensor: ...
def randn(*shape: int, **options: Any) -> Tensor: ...
def __getattr__(name: str) -> Any: ...
"""
NN = """
from typing import Any
class Module:
    def __call__(self, *args: Any) -> Any: ...
def __getattr__(name: str) -> Any: ...
"""
NAMES = """
from typing import Any
from torch import Tensor
from torch.nn import Module
model: Module
prompts: list[list[int]] = [[1, 2], [3]]
mask_id: int = 9
pad_id: int = 0
hidden_size: int = 8
x0: Tensor
config: Any
"""


def checked(folder: Path, code: str) -> str:
    stubs = folder / "stubs"
    (stubs / "torch").mkdir(parents=True, exist_ok=True)
    (stubs / "torch" / "__init__.pyi").write_text(TORCH)
    (stubs / "torch" / "nn.pyi").write_text(NN)
    (folder / "lines.py").write_text(NAMES + code)
    (folder / "mypy.ini").write_text(
        f"[mypy]\nmypy_path = {stubs}:{ROOT}\nignore_missing_imports = true\n"
        "[mypy-mdmcorrect.*]\nfollow_imports = silent\n[mypy-transformers.*]\nfollow_imports = skip\n"
    )
    arguments = ["--config-file", str(folder / "mypy.ini"), "--cache-dir", str(folder / "cache"), "--no-site-packages"]
    out, errors, _ = api.run([*arguments, "--check-untyped-defs", "--allow-empty-bodies", str(folder / "lines.py")])
    assert not errors, errors
    return out


def test_readme_passes_mypy(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert "Success" in checked(tmp_path, "\n".join(blocks)), (tmp_path / "lines.py").read_text()
    typo = (
        "\nfrom mdmcorrect.samplers import LLaDA\nresult = LLaDA(steps=2)(model, x0, mask_id=mask_id, histroy=True)\n"
    )
    assert 'Unexpected keyword argument "histroy"' in checked(tmp_path, typo)
    wrong = '\nfrom mdmcorrect.samplers import LLaDA\nresult = LLaDA(steps="2")\n'
    assert 'incompatible type "str"; expected "int"' in checked(tmp_path, wrong)
