"""`python -m llm_unlearn.runs NAME`: any method by its name, those of other packages, too."""

from llm_unlearn.runs.recipe import unlearn

unlearn()
