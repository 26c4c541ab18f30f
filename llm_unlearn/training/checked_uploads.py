"""What keeps a `transformers.Trainer` from uploading anything by itself: the one way to the hub is checked.

With `push_to_hub=True`, transformers creates a public repository before training, sends checkpoints with every save,
and with them the arguments, which hold the paths and the name of this machine.
"""

from __future__ import annotations

from pathlib import Path

from accelerate.utils import broadcast_object_list
from huggingface_hub import CommitInfo
from peft import PeftModel

from llm_unlearn.arguments.parsing import arguments_to_dict
from llm_unlearn.errors import HubError, InputError, LeakError, StorageError
from llm_unlearn.examining.results import make_results, read_results, write_results
from llm_unlearn.files.run_files import pinned


class CheckedUploads:
    """A mixin before `Trainer`."""

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card_fields,
    ) -> CommitInfo:
        """Save the model in `output_dir` and upload it with its card and what was measured; see `hub.push_run`.

        Every process calls it and gets the same commit, or the same error; the main one uploads, and the others wait no
        longer than `args.ddp_timeout` seconds. Where `output_dir` has no scores (no recipe judged the model), the card
        says that nothing was examined.

        Args:
            private: default: `args.hub_private_repo`, which is true unless it says otherwise.

        Raises:
            InputError: nobody is logged in, the results in `output_dir` are of other weights, or arguments that belong
                to an upload in the background or to the card of transformers.
            LeakError, HubError: as `hub.push_run`.
        """
        from llm_unlearn.hub.upload import check_ready, push_run  # slow to import, as what it needs

        if card_fields or not blocking:
            given = ", ".join([*card_fields, *([] if blocking else ["blocking=False"])])
            raise InputError(
                f"push_to_hub: {given}: files are checked, then sent, with a card of our own; leave it out"
            )
        arguments = self.args.push_arguments
        arguments["token"] = token or arguments["token"]
        arguments["revision"] = revision or arguments["revision"]
        arguments["private"] = arguments["private"] if private is None else private
        check_ready(self.args.hub_model_id, arguments["token"])
        folder, model = Path(self.args.output_dir), self.accelerator.unwrap_model(self.model)
        weights = folder / ("adapter" if isinstance(model, PeftModel) else "model")
        self.save_model(str(weights))
        outcome: list[CommitInfo | Exception | None] = [None]
        if self.is_world_process_zero():
            try:
                self._write_results(folder, weights)
                outcome = [push_run(folder, **arguments, commit_message=commit_message)]
            except (InputError, LeakError, HubError, StorageError, OSError) as error:
                outcome = [error]
        broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def _write_results(self, folder: Path, weights: Path) -> None:
        """What the card is made of, where no recipe has judged these weights."""
        from llm_unlearn.hub.edition import weight_digests

        digests = weight_digests(weights)
        judged = read_results(folder) if (folder / "results.json").is_file() else {}
        if judged.get("scores") and judged.get("weights") != digests:
            raise InputError(
                f"output_dir: the results in {folder} are of other weights than those that were to be pushed; judge "
                "these, or train in another output_dir"
            )
        if judged.get("scores"):
            return
        model = self.accelerator.unwrap_model(self.model)
        config = (model.get_base_model() if isinstance(model, PeftModel) else model).config
        results = make_results(
            folder,
            self.described,
            self.args.seed,
            arguments_to_dict(self.args),
            models=(pinned(config._name_or_path, config), [], str(weights)),
            rows={"forget": self.forget_dataset, "retain": self.retain_dataset},
            weights=digests,
            training={
                "steps": self.state.global_step,
                "stopped_by": self.stopped_by,
                "log": self.state.log_history,
            },
        )
        write_results(folder, results, {})

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; unlike in transformers, that uploads nothing."""
        super().save_model(output_dir, _internal_call=True)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Creates no repository: the upload does, when there is something to send."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Uploads no checkpoint: they hold optimizer states, arguments and paths."""
