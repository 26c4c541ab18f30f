"""Models on the hub with the evidence of what they forgot: push a run, load one back, verify what its card says."""

from llm_unlearn.hub.loading import UnlearnedModel, load_unlearned
from llm_unlearn.hub.upload import check_ready, push_run
from llm_unlearn.hub.verification import verify

__all__ = ["UnlearnedModel", "check_ready", "load_unlearned", "push_run", "verify"]
