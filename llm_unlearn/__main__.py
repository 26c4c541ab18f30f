"""`python -m llm_unlearn`: the command `llm-unlearn`."""

from llm_unlearn.command_line import main

main()
