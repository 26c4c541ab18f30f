"""Trainers that forget eight rows and keep eight others."""

import copy

from builders import arguments, lora_config, qa_rows, tiny_model, tiny_tokenizer

from llm_unlearn.models.scoring import score_answers


def build(trainer_class, config_class, folder, model=None, **changes):
    """A trainer on a copy of the model; `changes` are of its arguments, or other data sets."""
    names = ("eval_dataset", "forget_dataset", "general_dataset", "near_duplicates", "peft_config")
    options = {name: changes.pop(name) for name in names if name in changes}
    retain = changes.pop("retain_dataset", qa_rows(8, start=20))
    return trainer_class(
        model=tiny_model() if model is None else copy.deepcopy(model),
        args=arguments(config_class, folder, **changes),
        retain_dataset=retain,
        processing_class=tiny_tokenizer(),
        **{"forget_dataset": qa_rows(8), "peft_config": lora_config()} | options,
    )


def means(model, rows):
    """Mean exact match and mean probability of the answers."""
    scores = score_answers(model, rows)
    return sum(s.exact_match for s in scores) / len(scores), sum(s.probability for s in scores) / len(scores)
