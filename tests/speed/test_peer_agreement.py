"""The comparison with other people's trainers: with a made-up checkout, one of whose losses is ours and one is not."""

import sys

import pytest

from llm_unlearn import InputError
from llm_unlearn.speed.peer import PEERS
from llm_unlearn.speed.peer_agreement import compared, markdown_table, peer_agreement

GRAD_DIFF = """
from transformers import Trainer

class GradDiff(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        forget, retain = (model(**inputs[role]).loss for role in ("forget", "retain"))
        return retain - {} * forget
"""
# A mean over all positions of rows whose labels are those of answers.
UNDIAL = """
import copy
import torch
from transformers import Trainer

class UNDIAL(Trainer):
    def __init__(self, beta, **arguments):
        super().__init__(**arguments)
        self.beta, self.before = beta, copy.deepcopy(self.model)

    def compute_loss(self, model, inputs, return_outputs=False):
        forget = inputs["forget"]
        with torch.no_grad():
            target = self.before(**forget).logits[:, :-1]
        labels = forget["labels"][:, 1:, None]
        target.scatter_add_(2, labels.clamp(min=0), -self.beta * (labels >= 0).to(target.dtype))
        said = model(**forget).logits[:, :-1].log_softmax(-1)
        return model(**inputs["retain"]).loss - (target.softmax(-1) * said).sum(-1).mean()
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "trainer"]:
        monkeypatch.delitem(sys.modules, name)
    place = tmp_path / "src" / "trainer" / "unlearn"
    place.mkdir(parents=True)
    yield place
    for name in [name for name in sys.modules if name.partition(".")[0] == "trainer"]:
        del sys.modules[name]


def test_equal_losses_take_equal_steps(checkout):
    (checkout / "grad_diff.py").write_text(GRAD_DIFF.format(1))
    found = compared("grad_diff", str(checkout.parents[2]))
    assert found["as used"] < 1e-6 and found["positions alike"] is None


def test_other_losses_do_not(checkout):
    (checkout / "grad_diff.py").write_text(GRAD_DIFF.format(0.9))
    assert compared("grad_diff", str(checkout.parents[2]))["as used"] > 1e-2


def test_a_difference_in_positions_is_gone_on_rows_that_are_all_answer(checkout):
    (checkout / "undial.py").write_text(UNDIAL)
    found = compared("undial", str(checkout.parents[2]))
    assert found["as used"] > 1e-2 and found["positions alike"] < 1e-5
    lines = markdown_table({"undial": found}).splitlines()
    assert lines[2].startswith("| UNDIAL | ") and lines[2].endswith(f"| {PEERS['undial'].differs} |")


def test_without_a_checkout_nothing_is_compared(capsys, tmp_path):
    assert peer_agreement("peers", []) == {}
    assert capsys.readouterr().out.startswith("nothing compared: give --open_unlearning FOLDER")
    with pytest.raises(InputError, match=r"has no src/trainer/unlearn/grad_diff\.py; give a checkout of it"):
        peer_agreement("peers", ["--open_unlearning", str(tmp_path)])
