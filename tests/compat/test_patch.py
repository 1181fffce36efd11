"""compat.patch: what is replaced, where else, and that it is put back."""

import importlib
import linecache
import sys
import textwrap
from types import ModuleType

import pytest

from mdmcorrect import compat
from mdmcorrect.compat import dream, fast_dllm


@pytest.fixture
def original(monkeypatch):
    """A module like Fast-dLLM's, and one that imported a function from it."""
    module, user = ModuleType("generate"), ModuleType("eval_llada")
    module.generate = lambda *_: "theirs"
    module.get_transfer_index = lambda *_: "theirs"
    module.add_gumbel_noise = lambda *_: "theirs"
    user.run = module.generate
    monkeypatch.setitem(sys.modules, "generate", module)
    monkeypatch.setitem(sys.modules, "eval_llada", user)
    return module, user


def test_functions_are_replaced_wherever_they_were_imported_and_put_back(original):
    module, user = original
    theirs = module.generate
    done = compat.patch("fast_dllm")
    assert set(done.replaced) == {"generate.generate", "eval_llada.run", "generate.get_transfer_index"}
    assert module.generate is user.run is fast_dllm.generate
    assert module.add_gumbel_noise() == "theirs"
    assert "generate.get_transfer_index" in repr(done)
    done.undo()
    done.undo()
    assert module.generate is user.run is theirs


def test_as_a_context_manager_it_ends_with_the_block(original):
    module, _ = original
    theirs = module.generate
    with compat.patch("fast_dllm", module):
        assert module.generate is fast_dllm.generate
    assert module.generate is theirs


def test_what_others_put_there_since_stays(original):
    module, _ = original
    done = compat.patch("fast_dllm", "generate")
    module.generate = later = lambda *_: "later"
    done.undo()
    assert module.generate is later


def test_methods_of_a_class():
    module = ModuleType("generation_utils")
    module.DreamGenerationMixin = type("DreamGenerationMixin", (), {"diffusion_generate": lambda self: "theirs"})
    with compat.patch("dream", module) as done:
        assert done.replaced == ("generation_utils.DreamGenerationMixin.diffusion_generate",)
        ours = dream.DreamGenerationMixin.diffusion_generate
        assert module.DreamGenerationMixin.diffusion_generate is ours
    assert module.DreamGenerationMixin().diffusion_generate() == "theirs"


def test_what_cannot_be_patched_is_said():
    with pytest.raises(ValueError, match=r"repository: expected one of .*'fast_dllm'.*got 'fastdllm'"):
        compat.patch("fastdllm")
    with pytest.raises(ImportError, match="dream: could not import 'generation_utils'; put the original on the path"):
        compat.patch("dream")
    with pytest.raises(ValueError, match="module: json has none of"):
        compat.patch("dream", "json")


def test_what_a_package_loads_when_asked_is_replaced_too():
    class Lazy(ModuleType):
        def __getattr__(self, name):
            if name != "sample_tokens":
                raise AttributeError(name)
            self.sample_tokens = lambda *_: "theirs"
            return self.sample_tokens

    original = Lazy("generation_utils")
    with compat.patch("dream", original) as done:
        assert done.replaced == ("generation_utils.sample_tokens",)
        assert original.sample_tokens is dream.sample_tokens
    assert original.sample_tokens() == "theirs"


def test_an_original_of_several_modules_is_replaced_in_all(monkeypatch):
    modules = [ModuleType(name) for name in ("Sampler.confidence_sampler", "Sampler.halton_sampler")]
    for module, name in zip(modules, ("ConfidenceSampler", "HaltonSampler"), strict=True):
        setattr(module, name, type(name, (), {}))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "Sampler", ModuleType("Sampler"))
    modules[1].ConfidenceSampler = modules[0].ConfidenceSampler
    with compat.patch("maskgit") as done:
        assert done.replaced == (
            "Sampler.confidence_sampler.ConfidenceSampler",
            "Sampler.halton_sampler.ConfidenceSampler",
            "Sampler.halton_sampler.HaltonSampler",
        )
    assert modules[1].HaltonSampler.__module__ == __name__


# Where the originals keep what we replace, seen from the root of their repositories, and from the folder where their
# own scripts run if that is another.
LAYOUT = {
    "bd3lms": ["diffusion"],
    "d1": ["eval.generate", "generate"],
    "diffusion_vs_ar": ["llmtuner.tuner.mdm.trainer"],
    "dinfer": ["dinfer.decoding.parallel_strategy"],
    "dllm": ["dllm.core.samplers", "dllm.pipelines.llada2.sampler", "dllm.pipelines.llada21.sampler"],
    "fast_dllm": ["v1.llada.generate", "generate"],
    "llada": ["generate"],
    "maskgit": ["Sampler.confidence_sampler", "Sampler.halton_sampler"],
    "mdlm": ["diffusion"],
    "mmada": ["models.modeling_mmada"],
    "open_dllm": ["veomni.models.transformers.qwen2.generation_utils"],
    "p2": ["src.path_planning.p2", "path_planning.p2"],
    "prism": ["PRISM_llada.sampling", "prob_path", "sampling"],
    "proseco": ["llada.generate", "generate"],
    "remdm": ["diffusion"],
    "sedd": ["catsample"],
    "smdm": ["eval.gen_model_answer", "gen_model_answer"],
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty repository on the path; what is imported from it is forgotten afterwards."""
    heads = {path.split(".")[0] for drop_in in LAYOUT for path in module_names(drop_in)}

    known = {name: module for name, module in sys.modules.items() if name.split(".")[0] in heads}
    for name in known:
        del sys.modules[name]
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in heads]:
        del sys.modules[name]
    sys.modules.update(known)


def module_names(repository):
    return importlib.import_module(f"mdmcorrect.compat.{repository}").MODULES


@pytest.mark.parametrize(("repository", "module"), [(name, path) for name, paths in LAYOUT.items() for path in paths])
def test_an_original_is_found_where_it_lies(repository, module, root):
    replaces = importlib.import_module(f"mdmcorrect.compat.{repository}").REPLACES
    lines = []
    for path in replaces:
        owner, _, name = path.rpartition(".")
        if owner == "utils":
            continue
        lines.append(f"class {owner}:\n    def {name}(self): ..." if owner else f"def {name}(): ...")
    path = root.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    importlib.invalidate_caches()
    with compat.patch(repository) as done:
        assert done.replaced
        assert all(name.startswith(f"{module}.") for name in done.replaced)


def test_what_stops_an_original_that_is_there_is_said(root):
    (root / "eval").mkdir()
    (root / "eval" / "gen_model_answer.py").write_text("import shortuuid_that_is_missing")
    said = r"'eval.gen_model_answer' \(No module named 'shortuuid_that_is_missing'\) or 'gen_model_answer'; put"
    with pytest.raises(ImportError, match=said):
        compat.patch("smdm")


def module_of(source, name="generation_utils"):
    """A module whose functions have a source to read, as an imported file's have."""
    module = ModuleType(name)
    lines = textwrap.dedent(source).strip().splitlines(keepends=True)
    linecache.cache[f"<{name}>"] = (len(source), None, lines, f"<{name}>")
    exec(compile("".join(lines), f"<{name}>", "exec"), module.__dict__)
    return module


LLADA = "def generate(model, prompt, attention_mask=None, steps=128, gen_length=128, block_length=128): ..."
DREAM = """
    class DreamGenerationMixin:
        def diffusion_generate(self, inputs=None, generation_config=None, **kwargs):
            hook = kwargs.pop("generation_tokens_hook_func", None)
            mask, length = kwargs.get("attention_mask"), kwargs.get("max_length")
"""
FAST_DREAM = DREAM + '            threshold, block = kwargs.get("threshold", 0.9), kwargs["block_length"]\n'
MASKGIT = (
    "class HaltonSampler:\n    def __call__(self, trainer, init_code=None, nb_sample=50, labels=None, grid=None): ..."
)


@pytest.mark.parametrize(
    ("repository", "source"),
    [
        ("llada", LLADA),
        ("llada", "def generate(model, prompt, steps=128, gen_length=128, block_length=128, temperature=0.): ..."),
        ("dream", DREAM),
        ("proseco", "def generate(model, prompt, steps=256, gen_length=256, block_length=32): ..."),
        ("maskgit", MASKGIT.replace(", grid=None", "")),
    ],
)
def test_published_versions_are_replaced(repository, source):
    module = module_of(source)
    before = dict(vars(module))
    with compat.patch(repository, module) as done:
        assert len(done.replaced) == 1
    assert dict(vars(module)) == before


@pytest.mark.parametrize(
    ("repository", "source", "reason"),
    [
        ("dream", FAST_DREAM, r"DreamGenerationMixin.diffusion_generate takes \['block_length', 'threshold'\]"),
        ("dream", "def sample_tokens(logits, temperature=0.0, top_p=None, top_k=None, alg=None): ...", r"\['alg'\]"),
        ("fast_dllm", LLADA, r"generate takes \['attention_mask'\], which our drop-in does not know"),
        ("llada", "def generate(model, prompt, tokenizer, steps=128): ...", r"generate takes \['tokenizer'\]"),
        ("llada", "def generate(model, prompt, gen_length=128, steps=128): ...", "arguments in another order"),
        ("proseco", "def generate(model, prompt, steps=128): ...", "has steps=128 by default, our drop-in 256"),
        ("maskgit", MASKGIT, r"HaltonSampler.__call__ takes \['grid'\]"),
    ],
)
def test_what_takes_more_than_ours_is_left_as_it_is(repository, source, reason):
    module = module_of(source)
    before = dict(vars(module))
    with pytest.raises(ValueError, match=reason + ".*nothing was replaced"):
        compat.patch(repository, module)
    assert dict(vars(module)) == before


def test_another_repositorys_module_of_the_same_name_is_left_and_said(monkeypatch, caplog):
    ours, others = (
        module_of("def generate(model, prompt, steps=128): ...", "v1.llada.generate"),
        module_of(LLADA, "generate"),
    )
    for name, module in {"v1": ModuleType("v1"), "v1.llada": ModuleType("v1.llada"), ours.__name__: ours}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "generate", others)
    with compat.patch("fast_dllm") as done:
        assert done.replaced == ("v1.llada.generate.generate",)
    assert "fast_dllm: left a module as it is: generate.generate takes ['attention_mask']" in caplog.text
