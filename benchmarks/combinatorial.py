"""Unlearning where knowledge can be read off the weights: was it erased, or only hidden?

Two-layer networks learn an OR of eight AND clauses and then unlearn one of them, in every way that language models are
made to. A clause that a network knows is a set of neurons that all its inputs excite: its code. So each method can be
asked, beside what the network says, whether the code is still there, and how many steps of fine-tuning bring the clause
back: on rows of that clause, of all clauses, and of unrelated ones.

All seeds are trained at once, in a minute or two, without a GPU. Writes combinatorial.json with values by seed,
table.md, codes.png (the weights before and after), recovery.png, keep.png (codes kept against steps to recover) and
regularizer.png (what the weight of the attribution regularizer does).

Example:
    llm-unlearn run combinatorial
    llm-unlearn run combinatorial --seeds 16 --first_seed 8 --output_dir outputs/combinatorial_16
    llm-unlearn run combinatorial --hidden 16
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.combinatorial import combinatorial_benchmark

if __name__ == "__main__":
    run_main(lambda: combinatorial_benchmark(__doc__))
