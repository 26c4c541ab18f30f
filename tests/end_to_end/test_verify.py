"""Runs in the embedded world, and `llm-unlearn verify` on what they leave, as a user types both."""

import json

import fork_server
import pytest

pytestmark = pytest.mark.long
QUICK = ("--data=fictional:tiny", "--attacks=none", "--max_steps=3", "--use_cpu", "--disable_tqdm", "--report_to=none")


@pytest.fixture
def command(cache, tmp_path):
    """Runs `llm-unlearn` with these words, which must succeed; returns what it printed."""

    def run(*words):
        environment = {"LLM_UNLEARN_CACHE": str(cache), "COLUMNS": "100"}
        done = fork_server.run(["-m", "llm_unlearn", *words], cwd=tmp_path, environment=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def test_a_run_that_trained_its_rows_in_reverse(command, tmp_path):
    """Half of the reversed questions were trained, so the others judge."""
    command("run", "npo", *QUICK, "--augment_forms=reversed", "--output_dir=out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["abilities"]["unlearned"]["retain_reversed"]["rows"] == 5
    printed = command("verify", "out", "--data=fictional:tiny")
    assert "The card's scores are those of the model." in printed
    assert "not verified" not in printed and "retained facts, in reverse: probability" in printed


def test_some_requests_of_a_sequence(command):
    """The world has more rows to forget than the two requests name."""
    command("run", "sequence", *QUICK, "--request_column=attribute", "--requests=2", "--output_dir=out")
    assert "2 requests, each line as it was written" in command("verify", "out")
    printed = command("verify", "out", "--data=fictional:tiny")
    assert "2 requests, each line as it was written" in printed and "not verified" not in printed
    assert "The card's scores are those of the model." in printed
