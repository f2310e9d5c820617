"""The registry: a method is a folder, knows its registered name, and a place that was forgotten is named."""

from __future__ import annotations

import pytest

from replica.errors import ConfigError
from replica.methods import registry
from tests.methods.peft_models import prepared


@pytest.mark.parametrize("module", ["config", "method"])
def test_a_folder_with_one_of_its_two_modules_is_an_error(tmp_path, module):
    folder = tmp_path / "peft" / "ia3"
    folder.mkdir(parents=True)
    (folder / f"{module}.py").touch()
    other = {"config": "method.py", "method": "config.py"}[module]
    with pytest.raises(ValueError, match=f"{other} is missing"):
        registry._register_folder(folder)


def test_a_folder_that_registers_no_method_of_its_name_is_an_error(monkeypatch):
    folder = registry.Path(registry.__file__).parent / "peft" / "lora"
    monkeypatch.setattr(registry, "_ENTRIES", {})
    with pytest.raises(ValueError, match="must register the method 'lora'"):
        registry._register_folder(folder)


@pytest.mark.parametrize("name", registry.entries())
def test_a_module_defines_one_method_that_knows_its_registered_name(name):
    entry = registry.entries()[name]
    defaults = entry.config.model_construct()
    assert entry.create(defaults).name == name
    assert entry.family == entry.load().__module__.split(".")[2]


@pytest.mark.parametrize("name", ["lora", "lora-top"])
def test_errors_name_the_method_that_the_configuration_names(name):
    with pytest.raises(
        ConfigError, match=f"^method '{name}': skip_layers 5 leaves no layer of this model's 2 to adapt"
    ):
        prepared({"name": name, "skip_layers": 5}, "bert")


@pytest.mark.parametrize(
    "name", ["adapter", "adapter-drop", "adapter-lowrank", "compacter", "phm-adapter", "sparse-adapter"]
)
def test_errors_of_shared_functions_name_the_method_too(name):
    with pytest.raises(ConfigError, match=f"^method '{name}': skip_layers 9 leaves no layer with an adapter"):
        prepared({"name": name, "skip_layers": 9}, "bert")
