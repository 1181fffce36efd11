"""What originals take, at the commit of each, kept as data, so that whoever updates a drop-in sees what changed."""

import functools
import importlib
import inspect
import json
import pkgutil
from pathlib import Path

import pytest
from recorded import DATA

from mdmcorrect import compat
from mdmcorrect.compat._signatures import refusals

SIGNATURES = json.loads((DATA / "signatures.json").read_text())
DROP_INS = sorted(
    module.name
    for module in pkgutil.iter_modules(compat.__path__)
    if module.name[0] != "_" and module.name != "patching"
)
DOCS = Path(__file__).parents[2] / "docs" / "compat.md"


def recorded_function(entry):
    """A function of the recorded signature, which also takes by name what the original reads of its ``**``."""
    variadic = [name for name in ("kwargs",) if f"**{name}" in entry["signature"]]
    asked = {}
    exec(f"def original{entry['signature']}: ...", asked)  # of this repository's own data
    original = asked["original"]
    if variadic and entry.get("reads"):
        signature = inspect.signature(original)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        known = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=...) for name in entry["reads"]]
        original.__signature__ = signature.replace(parameters=[*parameters, *known])
    return original


def ours(module, path):
    """The drop-in's function for the dotted name of the original's, and the keywords it takes by ``**``."""
    taken = getattr(module, "TAKES", {})
    if path in module.REPLACES:
        return module.REPLACES[path], taken.get(path, ())
    owner, _, method = path.rpartition(".")
    return inspect.getattr_static(module.REPLACES[owner], method), taken.get(path, ())


CASES = [
    pytest.param(name, path, entry, id=f"{name}/{path}")
    for name, files in SIGNATURES.items()
    for file in files
    for path, entry in file["functions"].items()
]


@pytest.mark.parametrize(("name", "path", "entry"), CASES)
def test_a_drop_in_takes_what_its_original_takes(name, path, entry):
    function, more = ours(importlib.import_module(f"mdmcorrect.compat.{name}"), path)
    assert list(refusals(recorded_function(entry), function, more)) == []


def test_a_signature_that_changed_would_be_noticed():
    module = importlib.import_module("mdmcorrect.compat.fast_dllm_v2")
    function, _ = ours(module, "Fast_dLLM_QwenForCausalLM.batch_sample")
    entry = SIGNATURES["fast_dllm_v2"][0]["functions"]["Fast_dLLM_QwenForCausalLM.batch_sample"]
    for old, new, said in (
        ("block_size, max_new_tokens", "max_new_tokens, block_size", "another order"),
        ("threshold=0.95", "threshold=0.9", "has threshold=0.9 by default"),
        ("top_p=0.95", "top_p=0.95, top_k=0", "takes ['top_k']"),
    ):
        changed = {"signature": entry["signature"].replace(old, new)}
        assert changed != entry
        assert said in " ".join(refusals(recorded_function(changed), function))


@pytest.mark.parametrize("name", DROP_INS)
def test_all_that_is_replaced_has_a_recorded_signature(name):
    module = importlib.import_module(f"mdmcorrect.compat.{name}")
    known = {path for file in SIGNATURES[name] for path in file["functions"]}
    for path, function in module.REPLACES.items():
        if isinstance(function, functools.partial):  # so it is in the original
            continue
        if inspect.isclass(function):
            assert any(method.startswith(f"{path}.") for method in known), path
        else:
            assert path in known


@pytest.mark.parametrize("name", DROP_INS)
def test_the_docs_name_repository_and_commit(name):
    text = DOCS.read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    for file in SIGNATURES[name]:
        commit = file["commit"] if "." in file["commit"] else file["commit"][:7]
        assert file["repo"] in row
        assert commit in row
        assert file["path"].split("/")[-1] in row
