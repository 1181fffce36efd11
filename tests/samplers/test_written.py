"""Presets to JSON and back: equal, whatever they are; what cannot be written or read is named."""

import json
from dataclasses import fields, replace

import pytest
from combinations import PRESETS, critic

from mdmcorrect.samplers import PRISM, LLaDA, Preset, ReMDM, TokenCritic
from mdmcorrect.samplers.presets import written


@pytest.mark.parametrize("name", PRESETS)
def test_there_and_back(name):
    preset = PRESETS[name]
    text = preset.to_json()
    models = {
        field.name: getattr(preset, field.name) for field in fields(preset) if callable(getattr(preset, field.name))
    }
    assert Preset.from_json(text, **models) == preset
    assert type(preset).from_json(text, **models) == preset
    assert json.loads(text)["preset"] == type(preset).__name__
    assert json.loads(text).get("needs", []) == list(models)


def test_a_later_default_changes_nothing():
    settings = json.loads(LLaDA(steps=3).to_json())["settings"]
    assert settings.keys() == {field.name for field in fields(LLaDA)}


def test_settings_can_be_replaced():
    assert LLaDA.from_json(LLaDA(steps=3).to_json(), steps=5) == LLaDA(steps=5)


def test_a_model_is_named_and_asked_for():
    text = TokenCritic(steps=3, critic=critic).to_json()
    with pytest.raises(ValueError, match=r"^critic: was no number or text when TokenCritic was written; give it"):
        Preset.from_json(text)
    assert TokenCritic.from_json(text, critic=critic).critic is critic


def test_a_preset_of_ones_own():
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Mine(LLaDA):
        steps: int = 7

    assert Preset.from_json(Mine(block_length=2).to_json()) == Mine(block_length=2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "text: expected the JSON of a preset, got ''"),
        ("[1]", "text: expected {"),
        ('{"settings": {}}', "text: expected {"),
        ('{"preset": "LLaDA", "settings": [3]}', "text: expected {"),
        ('{"preset": "Lada", "settings": {}}', "preset: expected one of .*, got 'Lada'; did you mean LLaDA\\?"),
        ('{"preset": 3, "settings": {}}', "preset: expected one of .*, got 3"),
        (
            '{"preset": "LLaDA", "settings": {"step": 3}}',
            "LLaDA: expected one of .*, got 'step'; did you mean steps\\?",
        ),
        ('{"preset": "LLaDA", "settings": {}}', "LLaDA: missing 1 required keyword-only argument: 'steps'"),
        ('{"preset": "LLaDA", "settings": {"steps": 0}}', "steps: expected"),
        ('{"preset": "PRISM", "settings": {"steps": 3, "remask_count": 1}}', "preset: expected LLaDA, got PRISM"),
    ],
)
def test_what_is_no_preset(text, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        LLaDA.from_json(text)


def test_of_the_wrong_type():
    with pytest.raises(TypeError, match=r"^temperature: expected"):
        LLaDA.from_json('{"preset": "LLaDA", "settings": {"steps": 3, "temperature": "x"}}')
    with pytest.raises(ValueError, match=r"^text: expected the JSON of a preset, got 3"):
        Preset.from_json(3)


def test_a_folder_and_a_file(tmp_path):
    preset = ReMDM(steps=4, eta=0.1)
    file = preset.save_pretrained(tmp_path / "model")
    assert file == tmp_path / "model" / "sampler.json"
    assert Preset.from_pretrained(tmp_path / "model") == ReMDM.from_pretrained(str(file)) == preset
    assert ReMDM.from_pretrained(tmp_path / "model", eta=0.2) == replace(preset, eta=0.2)
    with pytest.raises(FileNotFoundError, match=r"name: expected a folder with sampler.json, or that file, got .*none"):
        PRISM.from_pretrained(tmp_path / "none")


def test_a_repository_of_the_hub(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    preset, asked = PRISM(steps=4, remask_count=1), []
    file = preset.save_pretrained(tmp_path)

    def download(*arguments, **options):
        asked.append((arguments, options))
        return str(file)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert Preset.from_pretrained("someone/prism-llada", revision="main") == preset
    assert asked == [(("someone/prism-llada", written.FILE_NAME), {"revision": "main"})]
