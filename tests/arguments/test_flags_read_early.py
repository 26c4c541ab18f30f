"""Mistakes in flags that are found without importing what is started: never one that its own parser would take."""

import runpy
import sys

import pytest
from transformers import HfArgumentParser

from llm_unlearn.arguments import flags
from llm_unlearn.arguments import parsing as arguments
from llm_unlearn.arguments.flags import check_flags, known_flags
from llm_unlearn.arguments.help_text import field_types
from llm_unlearn.cli.main import parse_launch, run, scripts
from llm_unlearn.errors import InputError


@pytest.fixture(scope="module")
def parsers() -> list[HfArgumentParser]:
    """Those of all recipes and benchmarks, as they are before they parse."""
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arguments, "help_text", lambda classes, *_: asked.append(list(classes)))
        for path in scripts().values():
            for first in (["eval"], ["train"]) if path.stem == "speed" else ([],):
                patch.setattr(sys, "argv", [str(path), *first, "--help_all"])
                with pytest.raises(SystemExit):
                    runpy.run_path(str(path), run_name="__main__")
    assert len(asked) == len(scripts()) + 1
    found = []
    for classes in asked:
        parser = HfArgumentParser(classes, add_help=False, allow_abbrev=False)
        arguments._read_flags(parser, [], {name: hint for one in classes for name, hint in field_types(one).items()})
        found.append(parser)
    return found


def test_every_flag_is_known_and_those_that_may_stand_alone_may_do_so(parsers):
    known = known_flags()
    for parser in parsers:
        for action in parser._actions:
            for option in action.option_strings:
                name = option.removeprefix("--").replace("-", "_")
                assert name in known, option
                assert known[name] or action.nargs not in ("?", 0), f"{option} needs no value"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--lerning_rate", "1"], "unknown flag --lerning_rate on the command line; did you mean --learning_rate?"),
        (["--lr=1"], "unknown flag --lr on the command line; did you mean --learning_rate?"),
        (["--seed", "1", "--zzzzzz"], "unknown flag --zzzzzz on the command line; --help lists the fields"),
        (["--learning-rate", "--seed", "1"], "--learning-rate: expected a value on the command line"),
        (["--seed", "1", "--attacks"], "write --attacks VALUE or --attacks=VALUE"),
    ],
)
def test_what_is_wrong_for_every_script_is_refused_before_anything_is_imported(given, message):
    for start in (run, parse_launch):
        with pytest.raises(InputError) as refused:
            start(["npo", *given])
        assert message in str(refused.value)


def test_what_only_the_scripts_parser_can_judge_is_left_to_it():
    check_flags(["eval", "--use_cpu", "--seed=1", "--max-steps", "-1", "--attacks", "a", "b", "--no_counterfactual"])
    check_flags(["--config", "my.yaml", "--help_all", "-x", "--data", "-- a text"])


def test_where_the_sources_do_not_tell_nothing_is_refused(monkeypatch, tmp_path):
    (tmp_path / "training_args.py").write_text("from elsewhere import TrainingArguments\n")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    for found in (spec, None):
        monkeypatch.setattr(flags, "find_spec", lambda name, found=found: found)
        assert known_flags.__wrapped__() == {}
    monkeypatch.setattr(flags, "known_flags", dict)
    check_flags(["--lerning_rate"])
