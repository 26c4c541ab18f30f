"""Look before you forget: which rows conflict, what will be hard, and what could not be judged. Trains nothing.

Groups the rows to forget (all of a person together) by how well the model has memorized them and by how entangled they
are with the rows to keep (arXiv 2406.01257), as `llm-unlearn run rum` takes them; lists every row to forget that rows
to keep contradict or give away, by number, where other commands end at the first; and says what is missing for a
verdict. Writes plan.json and plan.png.

Example:
    llm-unlearn run plan
    llm-unlearn run plan --model_name_or_path MODEL --forget_file forget.jsonl --retain_file retain.jsonl
    llm-unlearn run plan --base_model_name_or_path BASE --model_name_or_path MODEL --data locuslab/TOFU
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.plan import plan

if __name__ == "__main__":
    run_main(lambda: plan(__doc__))
