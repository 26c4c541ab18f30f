"""Unlearning for the Hugging Face stack that measures whether knowledge was erased or only hidden."""

import os
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Read when torch loads its thread pool. By default idle threads spin, and small models crawl on a CPU as soon as
# another process wants the same cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The public API: what the documentation imports, and nothing else. It changes by CHANGELOG.md. Loaded on first use:
# importing the package must not import torch.
_HOMES = {
    "UnlearnTrainer": "llm_unlearn.training.trainer",
    "UnlearnConfig": "llm_unlearn.training.config",
    "GradientAscentTrainer": "llm_unlearn.methods.gradient_ascent",
    "GradientAscentConfig": "llm_unlearn.methods.gradient_ascent",
    "NPOTrainer": "llm_unlearn.methods.npo",
    "NPOConfig": "llm_unlearn.methods.npo",
    "SAMTrainer": "llm_unlearn.methods.sam",
    "SAMConfig": "llm_unlearn.methods.sam",
    "SsiuuTrainer": "llm_unlearn.methods.ssiuu",
    "SsiuuConfig": "llm_unlearn.methods.ssiuu",
    "AlternateConfig": "llm_unlearn.methods.alternates",
    "IDKTrainer": "llm_unlearn.methods.idk",
    "DPOTrainer": "llm_unlearn.methods.dpo",
    "DPOConfig": "llm_unlearn.methods.dpo",
    "RMUTrainer": "llm_unlearn.methods.rmu",
    "RMUConfig": "llm_unlearn.methods.rmu",
    "SimNPOTrainer": "llm_unlearn.methods.simnpo",
    "SimNPOConfig": "llm_unlearn.methods.simnpo",
    "UNDIALTrainer": "llm_unlearn.methods.undial",
    "UNDIALConfig": "llm_unlearn.methods.undial",
    "WGATrainer": "llm_unlearn.methods.wga",
    "WGAConfig": "llm_unlearn.methods.wga",
    "SatImpTrainer": "llm_unlearn.methods.satimp",
    "SatImpConfig": "llm_unlearn.methods.satimp",
    "CMFTrainer": "llm_unlearn.methods.cmf",
    "CMFConfig": "llm_unlearn.methods.cmf",
    "CEUTrainer": "llm_unlearn.methods.ce_u",
    "CEUConfig": "llm_unlearn.methods.ce_u",
    "MaxEntTrainer": "llm_unlearn.methods.maxent",
    "MaxEntConfig": "llm_unlearn.methods.maxent",
    "PDUTrainer": "llm_unlearn.methods.pdu",
    "PDUConfig": "llm_unlearn.methods.pdu",
    "WHPTrainer": "llm_unlearn.methods.whp",
    "WHPConfig": "llm_unlearn.methods.whp",
    "AltPOTrainer": "llm_unlearn.methods.altpo",
    "AltPOConfig": "llm_unlearn.methods.altpo",
    "RelabelTrainer": "llm_unlearn.methods.relabel",
    "RelabelConfig": "llm_unlearn.methods.relabel",
    "TaskVectorTrainer": "llm_unlearn.methods.task_vector",
    "TaskVectorConfig": "llm_unlearn.methods.task_vector",
    "RetainOnlyTrainer": "llm_unlearn.methods.retain_only",
    "RetainOnlyConfig": "llm_unlearn.methods.retain_only",
    "RewindTrainer": "llm_unlearn.methods.rewind",
    "RewindConfig": "llm_unlearn.methods.rewind",
    "UndoTrainer": "llm_unlearn.methods.undo",
    "UndoConfig": "llm_unlearn.methods.undo",
    "CounterfactualTrainer": "llm_unlearn.methods.counterfactual",
    "CounterfactualConfig": "llm_unlearn.methods.counterfactual",
    "Method": "llm_unlearn.methods.method",
    "Compared": "llm_unlearn.methods.method",
    "Paper": "llm_unlearn.training.paper",
    "unlearn": "llm_unlearn.runs.recipe",
    "load_unlearning_data": "llm_unlearn.data",
    "load_model": "llm_unlearn.models.loading",
    "embedded_model": "llm_unlearn.models.embedded",
    "evaluate_metric": "llm_unlearn.metrics",
    "push_run": "llm_unlearn.hub",
    "load_unlearned": "llm_unlearn.hub",
    "verify": "llm_unlearn.hub",
    "InputError": "llm_unlearn.errors",
    "DivergenceError": "llm_unlearn.errors",
}
__all__ = list(_HOMES)

if TYPE_CHECKING:  # for editors and type checkers; __all__ names them all
    from llm_unlearn.data import load_unlearning_data  # noqa: F401
    from llm_unlearn.errors import DivergenceError, InputError  # noqa: F401
    from llm_unlearn.hub import load_unlearned, push_run, verify  # noqa: F401
    from llm_unlearn.methods.alternates import AlternateConfig  # noqa: F401
    from llm_unlearn.methods.altpo import AltPOConfig, AltPOTrainer  # noqa: F401
    from llm_unlearn.methods.ce_u import CEUConfig, CEUTrainer  # noqa: F401
    from llm_unlearn.methods.cmf import CMFConfig, CMFTrainer  # noqa: F401
    from llm_unlearn.methods.counterfactual import CounterfactualConfig, CounterfactualTrainer  # noqa: F401
    from llm_unlearn.methods.dpo import DPOConfig, DPOTrainer  # noqa: F401
    from llm_unlearn.methods.gradient_ascent import GradientAscentConfig, GradientAscentTrainer  # noqa: F401
    from llm_unlearn.methods.idk import IDKTrainer  # noqa: F401
    from llm_unlearn.methods.maxent import MaxEntConfig, MaxEntTrainer  # noqa: F401
    from llm_unlearn.methods.method import Compared, Method  # noqa: F401
    from llm_unlearn.methods.npo import NPOConfig, NPOTrainer  # noqa: F401
    from llm_unlearn.methods.pdu import PDUConfig, PDUTrainer  # noqa: F401
    from llm_unlearn.methods.relabel import RelabelConfig, RelabelTrainer  # noqa: F401
    from llm_unlearn.methods.retain_only import RetainOnlyConfig, RetainOnlyTrainer  # noqa: F401
    from llm_unlearn.methods.rewind import RewindConfig, RewindTrainer  # noqa: F401
    from llm_unlearn.methods.rmu import RMUConfig, RMUTrainer  # noqa: F401
    from llm_unlearn.methods.sam import SAMConfig, SAMTrainer  # noqa: F401
    from llm_unlearn.methods.satimp import SatImpConfig, SatImpTrainer  # noqa: F401
    from llm_unlearn.methods.simnpo import SimNPOConfig, SimNPOTrainer  # noqa: F401
    from llm_unlearn.methods.ssiuu import SsiuuConfig, SsiuuTrainer  # noqa: F401
    from llm_unlearn.methods.task_vector import TaskVectorConfig, TaskVectorTrainer  # noqa: F401
    from llm_unlearn.methods.undial import UNDIALConfig, UNDIALTrainer  # noqa: F401
    from llm_unlearn.methods.undo import UndoConfig, UndoTrainer  # noqa: F401
    from llm_unlearn.methods.wga import WGAConfig, WGATrainer  # noqa: F401
    from llm_unlearn.methods.whp import WHPConfig, WHPTrainer  # noqa: F401
    from llm_unlearn.metrics import evaluate_metric  # noqa: F401
    from llm_unlearn.models.embedded import embedded_model  # noqa: F401
    from llm_unlearn.models.loading import load_model  # noqa: F401
    from llm_unlearn.runs.recipe import unlearn  # noqa: F401
    from llm_unlearn.training.config import UnlearnConfig  # noqa: F401
    from llm_unlearn.training.paper import Paper  # noqa: F401
    from llm_unlearn.training.trainer import UnlearnTrainer  # noqa: F401


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
