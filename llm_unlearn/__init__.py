"""Unlearning for the Hugging Face stack that measures whether knowledge was erased or only hidden."""

__version__ = "0.1.0"
