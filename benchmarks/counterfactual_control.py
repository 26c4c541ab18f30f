"""Erased or hidden, without an oracle: the counterfactual control.

Runs the same reinjection attack twice, with the true forget facts and with made-up ones of the same form that no model
was ever taught, on the original, on oracles where there are any (theirs should be zero) and on an unlearned model.
What an attack recovers more of the true facts is knowledge that was still there. Prints the excess with its 95 %
interval and p-value and writes results.json with the values of every row.

Example:
    llm-unlearn run counterfactual_control --unlearned_model_name_or_path outputs/ssiuu/adapter
    llm-unlearn run counterfactual_control --data path/to/tofu --forget_split forget05 \\
        --model_name_or_path ORIGINAL --unlearned_model_name_or_path outputs/npo/adapter
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.benchmarking import attack_benchmark

if __name__ == "__main__":
    run_main(lambda: attack_benchmark([], True, __doc__))
