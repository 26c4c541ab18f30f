"""RUM: split what is to be forgotten by what makes it hard, and forget one group after the other (arXiv 2406.01257).

Groups are thirds of the people (or facts) by memorization or by entanglement, as `llm-unlearn run plan` measures them,
or your own. They are forgotten in order, each by its own method ("none" leaves a group alone); what is forgotten later
is kept until then. A run that was killed goes on at its last step. With one group it is that method, bit for bit.

Writes what a recipe writes (results, verdict, page), and rum.json with the groups, the steps and the tug of war (ToW).

Example:
    llm-unlearn run rum
    llm-unlearn run rum --groups entanglement --group_methods npo low=none high=npo:beta=0.1
    llm-unlearn run rum --groups kind --order city food
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.rum import rum

if __name__ == "__main__":
    run_main(lambda: rum(__doc__))
