"""`python -m llm_unlearn`: the command `llm-unlearn`."""

from llm_unlearn.cli.main import main

main()
