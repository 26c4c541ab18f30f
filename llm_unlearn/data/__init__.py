"""What goes in: forget, retain and holdout sets, their validation, and their encoding for a tokenizer."""

from llm_unlearn.data.chat_templates import template_key, unusual_template
from llm_unlearn.data.encoding import encode_dataset, encode_prompt, encode_row, end_token_ids
from llm_unlearn.data.formats import question_text, row_format, split_row
from llm_unlearn.data.loading import load_unlearning_data
from llm_unlearn.data.queries import QUERY_STYLES, forget_queries, neighbor_facts, retained_queries
from llm_unlearn.data.unlearning_data import UnlearningData
from llm_unlearn.data.validation import validate_forget_retain, validate_rows

__all__ = [
    "QUERY_STYLES",
    "UnlearningData",
    "encode_dataset",
    "encode_prompt",
    "encode_row",
    "end_token_ids",
    "forget_queries",
    "load_unlearning_data",
    "neighbor_facts",
    "question_text",
    "retained_queries",
    "row_format",
    "split_row",
    "template_key",
    "unusual_template",
    "validate_forget_retain",
    "validate_rows",
]
