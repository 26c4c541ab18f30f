"""Train what honest judging compares with: the original, and oracles that never saw the forget rows.

Fine-tunes a base model (--model_name_or_path) or trains a small Llama from scratch: once on all rows, and for each
oracle seed by the same recipe and in the same order without the forget rows. Writes the models and, as JSON lines, the
rows that they were trained on, and prints how well each knows them. Run again, it trains only what is missing.

Example:
    llm-unlearn run train_references --data path/to/tofu --forget_split forget05 --retain_rows 800
    llm-unlearn run train_references --forget_file forget.jsonl --retain_file retain.jsonl \\
        --model_name_or_path meta-llama/Llama-3.2-1B-Instruct --output_dir outputs/references

Afterwards every recipe and benchmark takes --forget_file OUTPUT/forget.jsonl --retain_file OUTPUT/retain.jsonl
--model_name_or_path OUTPUT/original --oracle_model_name_or_path OUTPUT/oracle-0 OUTPUT/oracle-1 OUTPUT/oracle-2.

Errors: bad arguments or data end the run with one line before anything is trained (exit code 2); so does an output
folder with models that were trained in another way. A loss that diverges ends it with exit code 3.
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.references import references_from_command_line

if __name__ == "__main__":
    run_main(lambda: references_from_command_line(__doc__))
