"""Measure how fast the package works, each stage against its floor.

`eval`: the scoring of a TOFU evaluation against the tokens that must be forwarded, and against scoring metric by
metric. Without a model, on a Llama of about 30 M parameters with random weights: speed does not depend on them.
`train`: the steps of the trainers, in seconds and in memory, against plain supervised fine-tuning on the same rows and
against the passes through the model that they cannot do without.
`scaling`: the same with other batches, lengths of rows, vocabularies and models, one varied at a time.

Example:
    llm-unlearn run speed eval --data locuslab/TOFU
    llm-unlearn run speed eval --data path/to/tofu --forget_split forget10 --generated_tokens 32
    llm-unlearn run speed train --repeats 5
    llm-unlearn run speed scaling --methods npo --vocabularies 32000 128000
"""

import sys

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.errors import InputError
from llm_unlearn.speed.evaluation import evaluation_speed
from llm_unlearn.speed.scaling import training_scaling
from llm_unlearn.speed.training import training_speed

MEASUREMENTS = {"eval": evaluation_speed, "train": training_speed, "scaling": training_scaling}


def main() -> None:
    name, *flags = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__)
    elif name in MEASUREMENTS:
        MEASUREMENTS[name](__doc__, flags)
    else:
        raise InputError(f"speed.py: {name!r} is unknown; choose one of {', '.join(MEASUREMENTS)}")


if __name__ == "__main__":
    run_main(main)
