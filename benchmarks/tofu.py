"""Judge one model on TOFU-format data: probability, ROUGE, truth ratio, forget quality, model utility.

Writes TOFU_EVAL.json (per-row values) and TOFU_SUMMARY.json (aggregates) in the format of open-unlearning. Forget
quality compares with a model trained without the forget rows: give its TOFU_EVAL.json (ours or a published one) as
--retain_logs.

Example:
    accelerate launch benchmarks/tofu.py --model_name_or_path outputs/npo/adapter --data locuslab/TOFU
    accelerate launch benchmarks/tofu.py --model_name_or_path MODEL --data ../shared/data/tofu \\
        --forget_split forget01 --retain_logs RETAIN/TOFU_EVAL.json
    python benchmarks/tofu.py --recompute TOFU_EVAL.json --retain_logs RETAIN/TOFU_EVAL.json
"""

from llm_unlearn.arguments import run_main
from llm_unlearn.tofu import tofu_benchmark

if __name__ == "__main__":
    run_main(lambda: tofu_benchmark(__doc__))
