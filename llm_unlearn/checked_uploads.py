"""What keeps a `transformers.Trainer` from uploading anything by itself: the one way to the hub is checked.

With `push_to_hub=True`, transformers creates a public repository before training, sends checkpoints with every save,
and with them the arguments, which hold the paths and the name of this machine.
"""

from __future__ import annotations

from huggingface_hub import CommitInfo

from llm_unlearn.errors import InputError


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

        Every process calls it and gets the same commit, or the same error; the main one uploads.

        Args:
            private: default: `args.hub_private_repo`, which is true unless it says otherwise.

        Raises:
            InputError: nobody is logged in, the results in `output_dir` are of other weights, or arguments that belong
                to an upload in the background or to the card of transformers.
            LeakError, HubError: as `hub.push_run`.
        """
        from llm_unlearn.hub.upload import push_trained  # slow to import, and imports what imports trainers

        if card_fields or not blocking:
            given = ", ".join([*card_fields, *([] if blocking else ["blocking=False"])])
            raise InputError(
                f"push_to_hub: {given}: files are checked, then sent, with a card of our own; leave it out"
            )
        return push_trained(self, private=private, token=token, revision=revision, commit_message=commit_message)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; unlike in transformers, that uploads nothing."""
        super().save_model(output_dir, _internal_call=True)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Creates no repository: the upload does, when there is something to send."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Uploads no checkpoint: they hold optimizer states, arguments and paths."""
