"""Parts of Opacus without the whole: its package initialiser costs seconds that we need not spend."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opacus.accountants.prv import PRVAccountant


def load_opacus_package() -> None:
    """Make `opacus` and `opacus.accountants` importable as bare packages, so that `import opacus.x.y` runs only y.

    `opacus/__init__` imports the PrivacyEngine and with it torch.distributed and scipy.stats (some 4 s);
    `opacus/accountants/__init__` imports every accountant and the optimizers. We use the per-example hooks
    (`opacus.grad_sample.grad_sample_module`) and the formulas (`opacus.accountants.analysis`), nothing else.

    Guarantees:
        idempotent: a package that was imported already, by whatever means, is left as it is.

    Raises:
        ModuleNotFoundError: Opacus is not installed.
    """
    for name in ("opacus", "opacus.accountants"):
        if name in sys.modules:
            continue
        spec = find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"{name} is not installed")
        package = module_from_spec(spec)
        sys.modules[name] = package  # registered, never executed
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, package)


def load_convolution_rule() -> None:
    """Import what Opacus' rule for convolutions asks torch for by name, without importing it; it costs a second."""
    import torch.distributed.fsdp  # noqa: F401, PLC0415


def load_prv_accountant() -> type[PRVAccountant]:
    """Import Opacus' PRV accountant without its optimizers.

    `opacus.accountants.accountant` imports DPOptimizer for a type hint, and with it torch.distributed and sympy (4 s).
    A stand-in bears that name while the accountant is imported, and is gone afterwards.
    """
    load_opacus_package()
    optimizers = "opacus.optimizers"
    stands_in = optimizers not in sys.modules
    if stands_in:
        stand_in = ModuleType(optimizers)
        stand_in.DPOptimizer = object  # type: ignore[attr-defined]
        sys.modules[optimizers] = stand_in
    try:
        from opacus.accountants.prv import PRVAccountant  # noqa: PLC0415  (scipy.signal: only for a report)
    finally:
        if stands_in:
            del sys.modules[optimizers]
    found: type[PRVAccountant] = PRVAccountant
    return found
