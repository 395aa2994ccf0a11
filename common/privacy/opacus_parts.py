"""Parts of Opacus without the whole: its package initialiser costs seconds that we need not spend."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec


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
