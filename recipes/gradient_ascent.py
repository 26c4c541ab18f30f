"""Unlearn with gradient ascent (with the default retain loss also known as GradDiff): raise the loss on forget answers.

Trains an adapter (or, with --full_finetuning, all weights) on forget and retain rows, scores the result beside the
original and the oracle (a model that never saw the forget rows), attacks all three, and writes table, figure and JSON.

Example:
    llm-unlearn run gradient_ascent
    llm-unlearn run gradient_ascent --dry_run
    llm-unlearn run gradient_ascent --config recipes/configs/gradient_ascent.yaml --learning_rate 2e-4

Without --model_name_or_path it works in the embedded fictional world, whose small model has defaults of its own
(--dry_run shows them). A run's config.yaml repeats it: --config outputs/gradient_ascent/config.yaml.

Errors: bad arguments or data end the run with one line before anything heavy starts (exit code 2); a loss that diverges
ends it with the last good weights saved (exit code 3).
"""

from llm_unlearn import GradientAscentConfig, GradientAscentTrainer
from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.models.embedded import FULL_FINETUNING_DEFAULTS, RECIPE_DEFAULTS
from llm_unlearn.runs.recipe import Recipe


def main():
    recipe = Recipe.from_command_line(
        GradientAscentConfig, __doc__, RECIPE_DEFAULTS["gradient_ascent"], FULL_FINETUNING_DEFAULTS["gradient_ascent"]
    )
    recipe.run(GradientAscentTrainer(**recipe.trainer_arguments()))


if __name__ == "__main__":
    run_main(main)
