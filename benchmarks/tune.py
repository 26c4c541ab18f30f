"""Find each method's best setting, with the same number of trials for all of them, before methods are compared.

Each trial is a setting drawn from the method's own search space (the first trial: its defaults), trained on seeds that
are not reported, until the forget scores are reached. Of the trials that reach them and keep 90 % of every ability,
the one wins whose knowledge of the forgotten facts is nearest to ignorance before any attack, in the mean over all
styles of asking.

Finished trials are kept: started again, the search goes on where it was, also with more --trials. Several processes
share the trials, each training alone: start it again in a second terminal, or with
`llm-unlearn run --multi_gpu --num_processes 2 tune`.

Writes tune.json and tune.csv (every trial), and best_methods.txt, which `llm-unlearn run robustness --methods` takes.

Example:
    llm-unlearn run tune --methods npo simnpo undial --dry_run
    llm-unlearn run tune --methods npo simnpo undial --trials 12
    llm-unlearn run robustness --methods $(cat outputs/tune/best_methods.txt) --seeds 20 21 22 23 24
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.runs.tuning import tune

if __name__ == "__main__":
    run_main(lambda: tune(__doc__))
