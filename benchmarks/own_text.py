"""Let the model write general data itself: questions that it thinks of, and its own answers to them.

For those who have rows to forget and nothing that protects what else the model can do. Sampled from the user's turn
that the chat template opens (Magpie, arXiv 2406.08464); answers are greedy. Nothing that names somebody who is to be
forgotten (a part of a name in the column `person`), or asks what a forget or retain row asks, is taken.

Example:
    llm-unlearn run own_text --model_name_or_path MODEL --forget_file forget.jsonl --retain_file retain.jsonl
    llm-unlearn run npo --model_name_or_path MODEL --forget_file forget.jsonl --retain_file retain.jsonl \\
        --general_data outputs/own_text.jsonl --general_loss kl
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.own_text import own_text

if __name__ == "__main__":
    run_main(lambda: own_text(__doc__))
