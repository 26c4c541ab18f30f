"""Calibrate the attacker: how fast does it teach a model facts that no model was ever taught, and what does that break?

Teaches rows about people of the holdout split to an oracle, at every learning rate, and scores them and retained rows
on the way. A rate that teaches nothing in its steps makes every model look safe, and so does one that breaks what it
asks. Prints the flags with which recipes and attacks take the rate that teaches most and keeps the retained rows.

Example:
    llm-unlearn run calibrate --data fictional:smollm2
    llm-unlearn run calibrate --model_name_or_path ORIGINAL --oracle_model_name_or_path ORACLE --data path/to/tofu \\
        --attackers lora --lora_learning_rates 1e-4 1e-3
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.calibration import calibrate

if __name__ == "__main__":
    run_main(lambda: calibrate(__doc__))
