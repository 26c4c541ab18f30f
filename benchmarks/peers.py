"""Whether other people's trainers and ours take the same steps: open-unlearning's, method by method.

Both train the same small Llama of random weights for three steps, on the same rows with the same optimizer; what is
shown is the largest difference of a weight, as a share of the largest change of one. Below 1e-5 the losses are the
same. Where they differ, the table says by what, and a second column is without that.

With --unlearning_depth, the unlearning depth score of its authors' code and of ours likewise.

Example:
    git clone https://github.com/locuslab/open-unlearning
    llm-unlearn run peers --open_unlearning open-unlearning
    git clone https://github.com/gnueaj/unlearning-depth-score
    llm-unlearn run peers --unlearning_depth unlearning-depth-score
"""

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.speed.peer_agreement import peer_agreement

if __name__ == "__main__":
    run_main(lambda: peer_agreement(__doc__))
