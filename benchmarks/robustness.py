"""Which method erased, and which only hid? Methods x attacks x seeds on one data set, matched, beside oracles.

Every method is stopped at the same forget score; its learning rate is chosen on tuning seeds that are not reported.
Each reported run has a folder with results, verdict and page; the whole has table.md, summary.json and figures, with
95 % intervals over people, unlearning seeds, oracles and attack seeds.

Finished runs are kept: started again, the benchmark goes on where it was. Several processes share the runs, each
training alone: `llm-unlearn run --multi_gpu --num_processes 2 robustness`, on CPUs too.

Example:
    llm-unlearn run robustness
    llm-unlearn run robustness --data fictional:tiny --seeds 20 21 --methods npo ssiuu
    llm-unlearn run robustness --model_name_or_path ORIGINAL --oracle_model_name_or_path ORACLE \\
        --data locuslab/TOFU --forget_split forget10 --learning_rates 1e-5 2e-5 5e-5 \\
        --stop_at_forget_probability 0.2 --attacks adversarial_reinjection benign_relearning prompting quantization
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.benchmarking import robustness_benchmark

if __name__ == "__main__":
    run_main(lambda: robustness_benchmark(__doc__))
