"""Unlearn with SAM; the same as `llm-unlearn run sam`. --help says what it does and takes."""

from llm_unlearn.runs.recipe import unlearn

if __name__ == "__main__":
    unlearn("sam")
