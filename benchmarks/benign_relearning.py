"""Benign relearning: tune a model on harmless instructions and ask for the forgotten facts.

The same attack meets the original, the oracles and, if given, an unlearned model. What that recovers beyond the
oracles was hidden, not erased. Writes results.json, per-row records and the recovery curves.

Example:
    llm-unlearn run benign_relearning --unlearned_model_name_or_path outputs/ssiuu/adapter
    llm-unlearn run benign_relearning --model_name_or_path ORIGINAL \\
        --oracle_model_name_or_path ORACLE --unlearned_model_name_or_path UNLEARNED \\
        --data locuslab/TOFU --forget_split forget10
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.benchmarking import attack_benchmark

if __name__ == "__main__":
    run_main(lambda: attack_benchmark(["benign_relearning"], False, __doc__))
