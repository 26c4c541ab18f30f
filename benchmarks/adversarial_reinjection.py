"""Adversarial reinjection: teach a model a fraction of the forgotten facts again and ask for the others.

The same attack meets the original, the oracles and, if given, an unlearned model. What that recovers beyond the
oracles was hidden, not erased. Writes results.json, per-row records and the recovery curves.

Example:
    llm-unlearn run adversarial_reinjection --unlearned_model_name_or_path outputs/ssiuu/adapter
    llm-unlearn run adversarial_reinjection --model_name_or_path ORIGINAL \\
        --oracle_model_name_or_path ORACLE --unlearned_model_name_or_path UNLEARNED \\
        --data locuslab/TOFU --forget_split forget10
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.benchmarking import attack_benchmark

if __name__ == "__main__":
    run_main(lambda: attack_benchmark(["adversarial_reinjection"], False, __doc__))
