"""The one way from a trainer to the hub: what was measured is written beside the weights, and every file is checked.

With `push_to_hub=True`, transformers would create a public repository before training, and send checkpoints with every
save and with them the arguments, which hold the paths and the name of this machine; `UnlearnTrainer` stops both.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from huggingface_hub import CommitInfo
from peft import PeftModel

from llm_unlearn.arguments.parsing import arguments_to_dict
from llm_unlearn.errors import HubError, InputError, LeakError, StorageError
from llm_unlearn.examining.results import make_results, read_results, write_results
from llm_unlearn.files.run_files import pinned

if TYPE_CHECKING:
    from llm_unlearn.training.trainer import UnlearnTrainer


def push(
    trainer: UnlearnTrainer,
    commit_message: str | None = None,
    token: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
    **refused: Any,
) -> CommitInfo:
    """Save the model in `output_dir` and upload it with its card and what was measured: `UnlearnTrainer.push_to_hub`.

    Args:
        refused: arguments of the Trainer's own upload that have no meaning here.
    """
    from llm_unlearn.hub.upload import check_ready, push_run  # slow to import, as what it needs

    if refused:
        raise InputError(
            f"push_to_hub: {', '.join(refused)}: files are checked, then sent, with a card of our own; leave it out"
        )
    arguments = trainer.args.push_arguments
    arguments["token"] = token or arguments["token"]
    arguments["revision"] = revision or arguments["revision"]
    arguments["private"] = arguments["private"] if private is None else private
    check_ready(trainer.args.hub_model_id, arguments["token"])
    folder, model = Path(trainer.args.output_dir), trainer.accelerator.unwrap_model(trainer.model)
    weights = folder / ("adapter" if isinstance(model, PeftModel) else "model")
    judged = read_results(folder) if (folder / "results.json").is_file() else {}
    # Judged weights that lie there are not written over before it is known that these are the same.
    saved = folder / "to-compare" if judged.get("scores") else weights
    trainer.save_model(str(saved))
    outcome: list[CommitInfo | Exception | None] = [None]
    if trainer.is_world_process_zero():
        try:
            if judged.get("scores"):
                _check_same(judged, folder, saved)
            else:
                _write_results(trainer, folder, weights)
            outcome = [push_run(folder, **arguments, commit_message=commit_message)]
        except (InputError, LeakError, HubError, StorageError, OSError) as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _check_same(judged: Mapping[str, Any], folder: Path, saved: Path) -> None:
    """Raise InputError where the results in a folder are of other weights than those in `saved`, which is removed."""
    from llm_unlearn.files.run_folder import other_file

    try:
        if other_file(judged.get("weights") or {}, saved):
            raise InputError(
                f"output_dir: the results in {folder} are of other weights than those that were to be pushed; judge "
                "these, or train in another output_dir"
            )
    finally:
        shutil.rmtree(saved)


def _write_results(trainer: UnlearnTrainer, folder: Path, weights: Path) -> None:
    """What the card is made of, where no recipe has judged these weights."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    config = (model.get_base_model() if isinstance(model, PeftModel) else model).config
    results = make_results(
        folder,
        trainer.described,
        trainer.args.seed,
        arguments_to_dict(trainer.args),
        models=(pinned(config._name_or_path, config), [], str(weights)),
        rows={"forget": trainer.forget_dataset, "retain": trainer.retain_dataset},
        training={
            "steps": trainer.state.global_step,
            "stopped_by": trainer.stopped_by,
            "log": trainer.state.log_history,
        },
    )
    write_results(folder, results, {})
