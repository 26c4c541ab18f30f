"""Transfer probes: do hidden states still carry what the model no longer says?

Readouts learn from retained people which value a hidden state stands for, after every block, and are asked about
forgotten people, whom they never saw: original, oracles, unlearned models. Beside them: shuffled labels, who is called
one of the people that the model was trained on, and how states of a value lie to its row of the output head.

Needs rows with `person`, `kind` (or `attribute`) and `paraphrased_question`, and values that several retained people
share. Writes probes.json, table.md and probes.png.

Example:
    llm-unlearn run probes --unlearned_model_name_or_path outputs/npo/adapter outputs/ssiuu/adapter
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.audits import audits_benchmark

if __name__ == "__main__":
    run_main(lambda: audits_benchmark(__doc__, audits=["probes"], name="probes"))
