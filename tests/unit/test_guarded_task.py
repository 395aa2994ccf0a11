"""What stands in for Flower's own program: fails closed where Flower is another, and lets no exception's text out."""

from __future__ import annotations

import types

import pytest
from flwr.supernode.runtime import run_clientapp as runtime

from client.deployment.approval import present
from client.deployment.task import guard

NAMES = ("install_from_fab", "install_app_dependencies", "get_load_client_app_fn", "Error")


def copy_of_flowers_module() -> types.ModuleType:
    """Flower's module under another name, so that guarding it leaves these tests' Flower as it was."""
    module = types.ModuleType("guarded")
    vars(module).update(vars(runtime))
    function = runtime.run_clientapp
    own = types.FunctionType(function.__code__, vars(module), "run_clientapp", function.__defaults__)
    vars(module)["run_clientapp"] = own
    return module


def test_what_is_replaced_is_what_flower_calls() -> None:
    used = set(runtime.run_clientapp.__code__.co_names)
    assert set(NAMES) <= used
    module = copy_of_flowers_module()
    guard(module, present())
    assert [name for name in NAMES if getattr(module, name) is getattr(runtime, name)] == []


@pytest.mark.parametrize("name", [*NAMES, "run_clientapp"])
def test_a_flower_that_lacks_a_name_runs_nothing(name: str) -> None:
    module = copy_of_flowers_module()
    delattr(module, name)
    with pytest.raises(SystemExit, match="not the Flower that this site knows"):
        guard(module, present())


def test_a_flower_whose_program_is_from_elsewhere_runs_nothing() -> None:
    module = copy_of_flowers_module()
    vars(module)["run_clientapp"] = runtime.run_clientapp
    with pytest.raises(SystemExit, match="not the Flower"):
        guard(module, present())


def test_an_exceptions_text_stays_at_the_site() -> None:
    module = copy_of_flowers_module()
    guard(module, present())
    error = module.Error(code=8, reason="<class 'KeyError'>:<'Ada Lovelace'>")
    assert (error.code, error.reason) == (8, "failed")


def test_a_bundle_is_neither_unpacked_nor_are_its_dependencies_installed(tmp_path: object) -> None:
    module = copy_of_flowers_module()
    guard(module, present())
    module.install_from_fab(b"no archive at all", skip_prompt=True)  # Flower's own would fail
    with pytest.raises(PermissionError):
        module.install_app_dependencies(tmp_path)
