"""The command `llm-unlearn`: what it says, what it hands to the launcher, and which exit code comes back."""

import json
import subprocess
import sys

import pytest

from llm_unlearn.attacks import attack_names
from llm_unlearn.cli import main as command_line
from llm_unlearn.cli.main import attack, judge, main, parse_launch, run, scripts, scripts_folder
from llm_unlearn.errors import InputError


@pytest.fixture
def said(capsys):
    """Runs the command; returns (exit code, stdout, stderr)."""

    def said(*arguments):
        code = 0
        try:
            main(arguments)
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    return said


def test_help_names_every_command(said):
    code, out, _ = said("--help")
    assert code == 0 and said() == (0, out, "")
    assert all(f"\n  {name} " in out for name in command_line.COMMANDS)


@pytest.mark.parametrize("command", ["push", "verify"])
def test_help_of_the_hubs_commands_explains_flags_examples_and_exit_codes(said, command):
    code, out, _ = said(command, "--help")
    assert code == 0 and out.startswith(f"usage: llm-unlearn {command} ")
    assert all(
        word in out for word in ("examples:", f"\n  llm-unlearn {command} ", "exit codes: 0 ", "5 the hub failed")
    )


def test_run_without_a_name_lists_every_script_with_a_line(said):
    code, out, _ = said("run")
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert code == 0 and set(scripts()) < set(lines)
    assert lines["ssiuu"].endswith("meant to keep it from merely hiding them")
    assert all(len(line.split()) > 3 for name, line in lines.items() if name in scripts())
    assert "recipes/configs/npo.yaml" in lines


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rum"], "'rum' is no command; did you mean run?"),
        (["run", "suiuu"], "'suiuu' is no recipe or benchmark; did you mean ssiuu?"),
        (["attack", "quantisation"], "did you mean quantization?"),
        (["env", "now"], "env takes no arguments, got now"),
        (
            ["run", "npo", "--num_processes", "2"],
            "put it before the name, as in llm-unlearn run --num_processes ... npo",
        ),
        (["run", "--learning_rate", "1e-4", "npo"], "--learning_rate is no flag of accelerate launch"),
        (["run", "--num_processes"], "accelerate launch: "),
        (["run", "--num_processes", "1", "suiuu"], "did you mean ssiuu?"),
        (["run", "--config_file", "nowhere.yaml", "npo"], "`nowhere.yaml` does not exist"),
        (["report", "nowhere"], "nowhere is not a folder"),
        (["report"], "the following arguments are required: RUN_FOLDER; llm-unlearn report --help explains them"),
        (["push", "out", "--hub_model", "me/npo"], "--hub_model of llm-unlearn push; did you mean --hub_model_id?"),
        (["push", "out", "--push", "both"], "invalid choice: 'both' (choose from 'adapter', 'merged')"),
        (["push", "out", "me/npo"], "llm-unlearn push: 'me/npo' is one argument too many"),
        (["verify", "me/npo", "--forget_file"], "--forget_file: expected one argument"),
    ],
)
def test_mistakes_are_one_line_that_names_the_fix(said, arguments, expected):
    code, out, error = said(*arguments)
    assert (code, out) == (2, "") and len(error.splitlines()) == 1
    assert error.startswith("error: ") and expected in error


def test_flags_before_the_name_are_the_launchers_and_those_after_it_the_recipes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no recipes here
    launched = parse_launch(["--num_processes", "2", "ssiuu", "--learning_rate", "1e-4", "--seed", "3"])
    assert launched.num_processes == 2 and launched.training_script == str(scripts()["ssiuu"])
    assert launched.training_script_args == ["--learning_rate", "1e-4", "--seed", "3"]
    packaged = str(scripts_folder() / "recipes/configs/npo.yaml")
    for flags in (["--config", "recipes/configs/npo.yaml"], ["--config=recipes/configs/npo.yaml"]):
        assert packaged in parse_launch(["recipes/npo.py", *flags]).training_script_args[-1]
    assert parse_launch(["--config_file", "recipes/configs/npo.yaml", "npo"]).config_file == packaged
    (tmp_path / "own.yaml").touch()
    assert parse_launch(["npo", "--config", "own.yaml"]).training_script_args[-1] == "own.yaml"


def test_judge_and_attack_are_the_judging_benchmark(monkeypatch):
    launched = []
    monkeypatch.setattr(command_line, "launch", lambda arguments: launched.append(arguments) or 0)
    judge(["--seed", "1"])
    attack(["benign-relearning", "--output_dir", "out"])
    attack(["counterfactual"])
    attack(["decoding"])
    alone = ["--counterfactual", "false"]
    assert launched == [
        ["judge", "--seed", "1"],
        ["judge", "--attacks", "benign_relearning", *alone, "--output_dir", "out"],
        ["counterfactual_control"],
        ["judge", "--attacks", "decoding", *alone, "--output_dir", "outputs/decoding"],
    ]


def test_every_attack_is_offered(capsys):
    attack([])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert listed == [*attack_names(), "counterfactual"]


def test_flags_that_are_sent_before_the_name_are_the_launchers_alone():
    from accelerate.commands.launch import launch_command_parser

    from llm_unlearn import SsiuuConfig

    options = {option for action in launch_command_parser()._actions for option in action.option_strings}
    assert {f"--{flag}" for flag in command_line.LAUNCHER_FLAGS} <= options
    assert not set(command_line.LAUNCHER_FLAGS) & set(SsiuuConfig.__dataclass_fields__)


def test_the_help_of_a_recipe_shows_how_it_was_started(said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["llm-unlearn"])
    code, out, _ = said("run", "ssiuu", "--help")
    assert code == 0 and "\n  llm-unlearn run ssiuu [--config FILE.yaml]" in out and "--regularizer_ratio" in out


def test_a_reader_who_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m llm_unlearn run | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage:")


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Makes a file the only recipe: its path and its text."""

    def script(text):
        path = tmp_path / "trial.py"
        path.write_text(text)
        monkeypatch.setattr(command_line, "scripts", lambda: {"trial": path})

    return script


def test_a_run_gets_its_flags_and_ends_with_0(script, tmp_path):
    script("import json, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(json.dumps(sys.argv[2:]))")
    assert run(["trial", str(tmp_path / "out"), "--seed", "b c"]) == 0
    assert json.loads((tmp_path / "out").read_text()) == ["--seed", "b c"]


@pytest.mark.parametrize("flags", [[], ["--multi_gpu", "--num_processes", "2"]])
def test_the_code_of_a_failed_process_comes_back_without_the_launchers_traceback(script, flags, capfd):
    script("import sys; print('error: it diverged', file=sys.stderr); sys.exit(3)")
    assert run([*flags, "trial"]) == 3
    assert set(capfd.readouterr().err.splitlines()) == {"error: it diverged"}


def test_a_killed_process_is_said_to_be_killed(script, capfd):
    script("import os; os.kill(os.getpid(), 9)")
    assert run(["trial"]) == 137
    assert capfd.readouterr().err == "error: a process was ended by SIGKILL; often there was not enough memory\n"


def test_names_and_help_need_no_library():
    """Torch and transformers take seconds; so do numpy and scipy."""
    code = (
        "import sys; before = {name.partition('.')[0] for name in sys.modules}\n"
        "from llm_unlearn.cli.main import run_help; run_help()\n"
        "from llm_unlearn.cli import hub, report\n"
        "after = {name.partition('.')[0] for name in sys.modules}\n"
        "print(after - before - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{'llm_unlearn'}\n"


def test_a_name_that_is_none_is_an_error_for_callers_too():
    with pytest.raises(InputError, match="did you mean ssiuu"):
        run(["suiuu"])
