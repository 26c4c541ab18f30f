"""Started twice by test_two_processes_push.py: trains two steps, pushes, and writes down what each process got."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_trainer_push import make_trainer

from llm_unlearn.errors import HubError, InputError


def outcome(trainer, **more) -> str:
    try:
        return str(trainer.push_to_hub(**more).commit_url)
    except (HubError, InputError) as error:
        return f"{type(error).__name__}: {error}"


folder = Path(sys.argv[1])
trainer = make_trainer(folder / "out", hub_model_id="me/npo", per_device_train_batch_size=2)
trainer.train()
found = [outcome(trainer)]
trainer.args.hub_model_id = "me/forbidden"
found.append(outcome(trainer))
found.append(outcome(trainer, blocking=False))
(folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))
