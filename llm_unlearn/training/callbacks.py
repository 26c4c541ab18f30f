"""What ties the trainer's own checks and its progress bar to the events of the training loop."""

from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ProgressCallback

SHOWN = {"forget/probability": "forget", "retain/probability": "retain", "loss": "loss"}


class UnlearnCallback(TrainerCallback):
    """Calls an `UnlearnTrainer`'s checks at the right moments."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)  # a resumed run would log and save as often as it did before
        if args.activation_checkpointing:
            # Transformers lets embeddings require gradients then, which only reentrant checkpointing needs: outputs
            # that nothing trainable reaches would pass for neurons that training can change.
            self.trainer.model.disable_input_require_grads()
        self.trainer.scores.warn_if_forgotten()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.set_sampler_epoch(int(state.epoch or 0))

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.check_divergence()
        self.trainer.before_update()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.scores.check_stopping()


class UnlearnProgressCallback(ProgressCallback):
    """A progress bar with the mean answer probabilities of the last batches: forget should fall, retain stay."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description("unlearning")

    def on_log(self, args, state, control, logs=None, **kwargs):
        shown = {short: f"{logs[name]:.3f}" for name, short in SHOWN.items() if name in (logs or {})}
        if self.training_bar is not None and shown:
            self.training_bar.set_postfix(shown)
