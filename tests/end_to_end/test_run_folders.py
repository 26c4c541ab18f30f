"""One folder, several runs: evidence never stands beside another run's weights."""

import json
import shutil

import fork_server
import pytest
from command_line import run

from llm_unlearn.files.run_folder import check_judged_weights, locked
from llm_unlearn.methods import load_method
from llm_unlearn.runs.recipe import Recipe

TINY = ("--data", "fictional:tiny", "--attacks", "none", "--counterfactual", "false")
SHORT = (*TINY, "--max_steps", "2", "--disable_tqdm", "true", "--output_dir", "out")


def push(cache, folder):
    command = ["-m", "llm_unlearn", "push", "out", "--hub_model_id", "me/npo", "--dry_run"]
    return fork_server.run(command, cwd=folder, environment={"LLM_UNLEARN_CACHE": str(cache)})


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """A folder in which NPO with an adapter was run, and then with full fine-tuning."""
    folder = tmp_path_factory.mktemp("runs")
    for flags in ((), ("--full_finetuning",)):
        done = run("recipes/npo.py", *SHORT, *flags, cache=cache, cwd=folder)
        assert done.returncode == 0, done.stderr[-2000:]
    assert "what an earlier run left there is now in out/earlier-1" in done.stdout
    return folder


def test_a_second_run_leaves_the_first_one_whole_and_has_its_own(finished, cache):
    out, earlier = finished / "out", finished / "out" / "earlier-1"
    assert (out / "model").is_dir() and not (out / "adapter").exists() and (earlier / "adapter").is_dir()
    for folder, full in ((out, True), (earlier, False)):
        results = json.loads((folder / "results.json").read_text())
        assert results["config"]["adapter_arguments"]["full_finetuning"] is full
        check_judged_weights(results, folder)
        assert (folder / "report.html").is_file() and (folder / "forget.jsonl").is_file()
    assert not (out / ".running").exists()
    pushed = push(cache, finished)
    assert pushed.returncode == 0, pushed.stderr
    assert (out / "hub" / "model.safetensors").is_file() and not list((out / "hub").glob("adapter*"))


def test_a_run_that_is_interrupted_certifies_nothing(finished, cache, tmp_path, monkeypatch):
    shutil.copytree(finished / "out" / "earlier-1", tmp_path / "out")  # a run that came to its end
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    method = load_method("gradient_ascent")
    recipe = Recipe.from_command_line(method, [*SHORT, "--use_cpu"])
    trainer = method.trainer(**recipe.trainer_arguments())

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(recipe.examination), "examine", interrupt)  # in the middle of its attacks
    with pytest.raises(KeyboardInterrupt):
        recipe.run(trainer)
    assert (tmp_path / "out" / "adapter").is_dir() and not (tmp_path / "out" / "results.json").exists()
    pushed = push(cache, tmp_path)
    assert pushed.returncode == 2 and "results.json cannot be read" in pushed.stderr
    reported = fork_server.run(["-m", "llm_unlearn", "report", "out"], cwd=tmp_path)
    assert reported.returncode == 2 and "Traceback" not in reported.stderr
    again = fork_server.run(["-m", "llm_unlearn", "report", "out/earlier-1"], cwd=tmp_path)
    assert again.returncode == 0, again.stderr


def test_weights_that_were_exchanged_are_refused_everywhere(finished, cache):
    out = finished / "out"
    original = (out / "model" / "model.safetensors").read_bytes()
    try:
        changed = bytearray(original)
        changed[-1] ^= 1
        (out / "model" / "model.safetensors").write_bytes(changed)
        words = "is about other weights than those in out/model: model.safetensors has other contents"
        for done in (push(cache, finished), fork_server.run(["-m", "llm_unlearn", "report", "out"], cwd=finished)):
            assert done.returncode == 2 and words in done.stderr, done.stderr
        (finished / "load.py").write_text("from llm_unlearn import load_unlearned\nload_unlearned('out')\n")
        loaded = fork_server.run(["load.py"], cwd=finished, environment={"LLM_UNLEARN_CACHE": str(cache)})
        assert loaded.returncode == 1 and words in loaded.stderr
    finally:
        (out / "model" / "model.safetensors").write_bytes(original)


def test_of_two_runs_in_one_folder_one_is_refused(finished, cache):
    before = sorted(path.name for path in (finished / "out").iterdir())
    with locked(finished / "out"):
        done = run("recipes/npo.py", *SHORT, cache=cache, cwd=finished)
    assert done.returncode == 2 and done.stderr.count("\n") <= 3
    assert "error: output_dir='out': another run is writing there; wait for its end, or give another" in done.stderr
    assert sorted(path.name for path in (finished / "out").iterdir()) == before
