"""How every command that judges models prepares that: before anything is trained, and before weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.arguments.groups import DataArguments
from llm_unlearn.data import UnlearningData
from llm_unlearn.examining.examination import Examination
from llm_unlearn.examining.preflight import check_lengths
from llm_unlearn.models.loading import check_models
from llm_unlearn.training.config import UnlearnConfig


def checked_examination(
    data_args: DataArguments,
    attack_args: AttackArguments,
    data: UnlearningData,
    models: Mapping[str, str],
    max_length: int | None,
    **settings: Any,
) -> Examination:
    """An `Examination` with the original's tokenizer, when it is known that models and rows go together.

    Only files and configurations of models are read; `preflight.check_loaded` is what loads them.

    Args:
        models: name -> folder or hub id, the "original" among them.
        max_length: tokens of the longest row that a model is asked about.
        settings: fields of `Examination` beside these.

    Raises:
        InputError: as `loading.check_models`, `Examination.checked` and `preflight.check_lengths`.
    """
    processing_class = data_args.load_tokenizer(models["original"])
    check_models(models, processing_class, data.forget, max_length, data_args.trust_remote_code)
    examination = Examination(data_args, attack_args, data, processing_class, max_length=max_length, **settings)
    check_lengths(examination.checked().asked, models)
    return examination


def settings_of(config: UnlearnConfig) -> dict[str, Any]:
    """What an examination beside training takes over from it: device, length of rows, and how many at once."""
    return {
        "device": config.device,
        "max_length": config.max_length,
        "batch_size": config.per_device_eval_batch_size,
    }
