"""All audits of one set of models: what is left inside them, whatever they say.

Looks into the original, oracles and unlearned models: influence of neurons, logit lens and attribution after an attack
(docs/influence.md), and whether hidden states still carry the forgotten values (docs/probes.md). `--audits` makes some
of them. What the data is not enough for is left out, with the reason. Writes audits.json, table.md and the figures.

Example:
    llm-unlearn run audits --unlearned_model_name_or_path outputs/npo/adapter outputs/ssiuu/adapter
    llm-unlearn run audits --audits probes logit_lens --unlearned_model_name_or_path outputs/npo/adapter
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.audits import audits_benchmark

if __name__ == "__main__":
    run_main(lambda: audits_benchmark(__doc__))
