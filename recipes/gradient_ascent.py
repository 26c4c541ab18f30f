"""Unlearn with gradient ascent; the same as `llm-unlearn run gradient_ascent`. --help says what it does and takes."""

from llm_unlearn.runs.recipe import unlearn

if __name__ == "__main__":
    unlearn("gradient_ascent")
