"""The influence audit: did the neurons that knew lose their say, or did others learn to silence them?

Compares oracles and unlearned models with the original on the forget rows. Of every linear map in every block: D+, the
positive influence that is gone (erasure), and D-, the negative influence that is new (hiding), with the hiding share
D-/(D+ + D-). Then the correlation of the neurons' attributions before and after reinjection and with the original's,
and the logit lens: after which block does the true answer beat another one (chance 0.5)?

Read every number beside the oracles': they never knew the rows, so what they show is no hiding. Writes influence.json
with the values of every row, table.md, influence.png and logit_lens.png.

Example:
    llm-unlearn run influence --unlearned_model_name_or_path outputs/npo/adapter outputs/ssiuu/adapter
    llm-unlearn run influence --model_name_or_path ORIGINAL --oracle_model_name_or_path ORACLE \\
        --unlearned_model_name_or_path UNLEARNED --data locuslab/TOFU --forget_split forget10
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.audits import influence_benchmark

if __name__ == "__main__":
    run_main(lambda: influence_benchmark(__doc__))
