"""Relabeling: loss = cross-entropy of a fixed wrong answer to each forget question, one of the same kind.

Random labels, as classification has them. What is trained is memorized: the wrong answer takes the true one's place,
and each question has its own.

Source: Golatkar et al. 2020, arXiv 1911.04933 (random labels); for language models Yao et al. 2024, arXiv 2310.10683.
"""

from dataclasses import dataclass

from llm_unlearn.methods.alternates import AlternateConfig
from llm_unlearn.methods.idk import IDKTrainer
from llm_unlearn.methods.method import Method
from llm_unlearn.training.paper import Paper


@dataclass
class RelabelConfig(AlternateConfig):
    """Arguments of `RelabelTrainer`."""

    replace_with: str = "guess"


class RelabelTrainer(IDKTrainer):
    """Supervised training on wrong answers; `args` is a `RelabelConfig`."""

    config_class = RelabelConfig
    method_name, method_title = "relabel", "relabeling"
    paper = Paper("2310.10683", "Yao and others", 2024, "Large Language Model Unlearning")


METHOD = Method(
    RelabelTrainer,
    summary="Unlearn by relabeling: train a fixed wrong answer of the same kind to each forget question",
)
