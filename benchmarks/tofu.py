"""Judge a model on TOFU-format data with every output metric of the field, beside its original and its oracle.

Probability, ROUGE, truth ratio, forget quality, model utility, memorization, extraction, membership attacks, and the
same facts asked in seven ways: docs/evaluation.md explains them all. Writes TOFU_EVAL.json (per-row values) and
TOFU_SUMMARY.json (aggregates) in the format of open-unlearning. Forget quality compares with a model trained without
the forget rows: give that model, or its TOFU_EVAL.json (ours or a published one). An interrupted run goes on where it
stopped when it is started again; several processes share the work.

Example:
    llm-unlearn run tofu --unlearned_model_name_or_path outputs/ssiuu/adapter
    llm-unlearn run tofu --data locuslab/TOFU --model_name_or_path ORIGINAL \\
        --unlearned_model_name_or_path outputs/npo/adapter --oracle_model_name_or_path RETAIN90
    llm-unlearn run tofu --data path/to/tofu --forget_split forget01 \\
        --model_name_or_path MODEL --retain_logs RETAIN99/TOFU_EVAL.json
    llm-unlearn run tofu --recompute TOFU_EVAL.json --retain_logs RETAIN/TOFU_EVAL.json
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.tofu import tofu_benchmark

if __name__ == "__main__":
    run_main(lambda: tofu_benchmark(__doc__))
