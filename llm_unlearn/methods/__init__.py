"""One file per method family: equation, source, loss, and the `UnlearnTrainer` subclass that presets them."""

from llm_unlearn.methods.gradient_ascent import GradientAscentTrainer
from llm_unlearn.methods.npo import NPOTrainer
from llm_unlearn.methods.sam import SAMTrainer
from llm_unlearn.methods.ssiuu import SsiuuTrainer

__all__ = ["GradientAscentTrainer", "NPOTrainer", "SAMTrainer", "SsiuuTrainer"]
