"""Unlearn with NPO (negative preference optimization): gradient ascent that weighs down rows already forgotten.

Trains an adapter (or, with --full_finetuning, all weights) on forget and retain rows, scores the result beside the
original and the oracle (a model that never saw the forget rows), attacks all three, and writes table, figure and JSON.

Example:
    llm-unlearn run npo
    llm-unlearn run npo --dry_run
    llm-unlearn run npo --config recipes/configs/npo.yaml --learning_rate 2e-4

Without --model_name_or_path it works in the embedded fictional world, whose small model has defaults of its own
(--dry_run shows them). A run's config.yaml repeats it: --config outputs/npo/config.yaml.

Errors: bad arguments or data end the run with one line before anything heavy starts (exit code 2); a loss that diverges
ends it with the last good weights saved (exit code 3).
"""

from llm_unlearn import NPOConfig, NPOTrainer
from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.models.embedded import FULL_FINETUNING_DEFAULTS, RECIPE_DEFAULTS
from llm_unlearn.runs.recipe import Recipe


def main():
    recipe = Recipe.from_command_line(NPOConfig, __doc__, RECIPE_DEFAULTS["npo"], FULL_FINETUNING_DEFAULTS["npo"])
    recipe.run(NPOTrainer(**recipe.trainer_arguments()))


if __name__ == "__main__":
    run_main(main)
