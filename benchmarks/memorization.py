"""Exact memorization of each person of an embedded world, and how well cheaper proxies know it.

A row is memorized as far as models trained with it give its answer more than models trained without it (Feldman 2020,
arXiv 1906.05271). So the world's model is trained again and again, each time without half of the people: in pairs of
complementary halves, so that everybody is in half of the trainings. People are left out whole, with every row that
names them, for that is how they are forgotten. Beside the exact values stand the proxies that a user can afford: those
of `llm-unlearn run plan` (the gain over a base, the margin over made-up answers, the answer probability), confidence
over the epochs of training, and how much a further training on other people changes (held-out retraining). The table
has Spearman's rank correlation of each with the exact values, with intervals over people.

Trainings that are done are kept: started again, it goes on where it was, also with more --trainings. Several processes
share them: start it again in a second terminal, or with `llm-unlearn run --multi_gpu --num_processes 2 memorization`.

Writes memorization.json (every row and person), memorization.png, and trainings/ (scores, no models).

Example:
    llm-unlearn run memorization --data fictional:tiny
    llm-unlearn run memorization --trainings 16 --dry_run
    llm-unlearn run memorization --trainings 16
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.memorization import memorization

if __name__ == "__main__":
    run_main(lambda: memorization(__doc__))
