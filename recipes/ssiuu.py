"""Unlearn with Ssiuu; the same as `llm-unlearn run ssiuu`. --help says what it does and takes."""

from llm_unlearn.runs.recipe import unlearn

if __name__ == "__main__":
    unlearn("ssiuu")
