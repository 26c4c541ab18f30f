"""Requests that keep coming: one person after the other is forgotten, each from the model that the last one left.

After each request: is anything left, or back again, of all those before it, and what has been lost so far? Beside the
results of a recipe, of all requests together, it writes sequence.json, sequence.png and audit_trail.jsonl, a chain of
hashes that `llm-unlearn verify OUTPUT_DIR` checks. A run that was killed goes on at the request that it was at.

Example:
    llm-unlearn run sequence
    llm-unlearn run sequence --requests 3 --method npo:beta=0.1 --merge_between
    llm-unlearn run sequence --forget_split forget20 --forget_again
    llm-unlearn run sequence --model_name_or_path MODEL --forget_file forget.jsonl --retain_file retain.jsonl \\
        --request_column ticket
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.sequence import sequence

if __name__ == "__main__":
    run_main(lambda: sequence(__doc__))
