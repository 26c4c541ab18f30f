"""Erased, or only hidden? The verdict that a recipe ends with, on a model that was unlearned elsewhere.

Scores the original, its oracles and the unlearned model on the same rows, attacks all of them alike, and runs the
counterfactual control. Writes results.json, per-row records, verdict.json and report.html, the page with the evidence.
Without an oracle the control alone decides, and the verdict says so (docs/verdict.md).

Example:
    llm-unlearn judge --unlearned_model_name_or_path outputs/ssiuu/adapter
    llm-unlearn judge --model_name_or_path ORIGINAL --oracle_model_name_or_path ORACLE_0 ORACLE_1 ORACLE_2 \\
        --unlearned_model_name_or_path UNLEARNED --forget_file forget.jsonl --retain_file retain.jsonl
    llm-unlearn run --num_processes 2 judge --unlearned_model_name_or_path outputs/ssiuu/adapter
"""

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.benchmarking import attack_benchmark

if __name__ == "__main__":
    run_main(lambda: attack_benchmark(AttackArguments().attacks, True, __doc__))
