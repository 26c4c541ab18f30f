"""The command line: precedence, conversion, every error text, the help, and how a recipe ends."""

import errno
import json
import time
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
import yaml
from transformers import TrainingArguments

from llm_unlearn.arguments.groups import parse_for_model
from llm_unlearn.arguments.parsing import arguments_to_dict, parse_arguments, run_main
from llm_unlearn.errors import DivergenceError, InputError


class Size(Enum):
    TINY = "tiny"
    SMALL = "small"


@dataclass
class DataArguments:
    """Which data to forget.

    A second paragraph.
    """

    _argument_group_name = "data"

    forget: str = field(default="fictional", metadata={"help": "Data to forget, up to 100%% of a folder."})
    retain_loss: Literal["nll", "kl", "none"] | None = "nll"
    size: Size = Size.TINY
    rates: list[float] | None = field(default=None, metadata={"help": "Learning rates of the attacker."})
    attacks: list[Literal["reinjection", "benign"]] = field(default_factory=lambda: ["benign"])
    span: tuple[int, ...] = (1, 2)
    weights: dict[str, float] = field(default_factory=dict)
    extra: dict | None = None
    people: int | None = None
    folder: Path | None = None
    chat: bool = True
    level: str = field(default="low", metadata={"choices": ["low", "high"]})
    levels: list[str] = field(default_factory=lambda: ["low"], metadata={"choices": ["low", "high"]})
    forms: list[str] | None = field(default=None, metadata={"choices": ["cloze", "reversed"]})


@dataclass
class SsiuuConfig(TrainingArguments):
    learning_rate: float = field(default=1e-5, metadata={"help": "Of the optimizer."})
    influence_weight: float = field(default=0.1, metadata={"help": "Weight of the regularizer."})

    def __post_init__(self):
        super().__post_init__()
        if self.influence_weight < 0:
            raise ValueError(f"influence_weight: {self.influence_weight}\n  must not be negative")


@dataclass
class RequiredArguments:
    model: str


def parse(*argv: str):
    return parse_arguments((DataArguments,), list(argv), description="Unlearn.", prog="recipes/x.py")[0]


def parse_training(*argv: str):
    types = (DataArguments, SsiuuConfig)
    return parse_arguments(types, [*argv, "--use_cpu"], description="Unlearn.", prog="recipes/x.py")[1]


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_precedence_default_then_yaml_then_flag(yaml_file):
    assert parse().forget == "fictional"
    config = yaml_file("forget: from_yaml\npeople: 3\n")
    assert parse("--config", config).forget == "from_yaml"
    both = parse("--people", "5", f"--config={config}")
    assert (both.forget, both.people, both.retain_loss) == ("from_yaml", 5, "nll")


def test_given_defaults_replace_those_of_the_dataclass(yaml_file):
    def parsed(*argv):
        return parse_arguments(
            (DataArguments,), argv, description="Unlearn.", defaults={"forget": "mine", "people": 2}
        )[0]

    assert (parsed().forget, parsed().people, parsed().level) == ("mine", 2, "low")
    config = yaml_file("forget: from_yaml")
    assert (parsed("--config", config).forget, parsed("--config", config, "--forget", "flag").forget) == (
        "from_yaml",
        "flag",
    )


def test_the_saved_configuration_repeats_the_run(yaml_file):
    types = (DataArguments, SsiuuConfig)
    flags = ["--people", "3", "--rates", "1e-4", "--size", "small", "--learning_rate", "2e-6", "--use_cpu"]
    saved = arguments_to_dict(*parse_arguments(types, flags, description="Unlearn."))
    config = yaml_file(yaml.safe_dump(saved, sort_keys=False))
    repeated = parse_arguments(types, ["--config", config], description="Unlearn.")
    assert arguments_to_dict(*repeated) == saved
    assert parse_arguments(types, ["--config", config, "--people", "4"], description="Unlearn.")[0].people == 4


def test_a_flag_beats_yaml_even_when_it_repeats_the_default(yaml_file):
    assert parse("--config", yaml_file("forget: other"), "--forget", "fictional").forget == "fictional"
    assert parse("--config", yaml_file("chat: false"), "--chat").chat is True


def test_training_arguments_take_part(yaml_file):
    config = yaml_file(
        "learning_rate: 1e-4\neval_strategy: no\nlr_scheduler_kwargs: {min_lr: 1e-6}\nreport_to: [none]\n"
    )
    parsed = parse_training("--config", config, "--per-device-train-batch-size=2")
    assert parsed.learning_rate == 1e-4 and parsed.per_device_train_batch_size == 2
    assert parsed.eval_strategy.value == "no"  # YAML reads `no` as false
    assert parsed.lr_scheduler_kwargs == {"min_lr": 1e-6} and parsed.report_to == []
    assert parse_training().learning_rate == 1e-5
    assert parse_training("--report_to", "wandb", "tensorboard").report_to == ["wandb", "tensorboard"]
    assert parse_training("--lr_scheduler_kwargs", '{"min_lr": 1e-6}').lr_scheduler_kwargs == {"min_lr": 1e-6}


@pytest.mark.parametrize(
    ("flags", "name", "expected"),
    [
        (["--retain-loss", "kl"], "retain_loss", "kl"),
        (["--retain_loss=null"], "retain_loss", None),
        (["--size", "small"], "size", Size.SMALL),
        (["--rates", "1e-3", "2"], "rates", [1e-3, 2.0]),
        (["--rates", "1e-3"], "rates", [1e-3]),
        (["--attacks", "benign", "reinjection"], "attacks", ["benign", "reinjection"]),
        (["--levels", "high", "low"], "levels", ["high", "low"]),
        (["--forms", "cloze"], "forms", ["cloze"]),
        (["--span", "3", "4", "5"], "span", (3, 4, 5)),
        (["--weights", '{"a": 1}'], "weights", {"a": 1.0}),
        (["--extra", '{"a": {"b": [1]}}'], "extra", {"a": {"b": [1]}}),
        (["--people", "1e3"], "people", 1000),
        (["--people=-9007199254740993"], "people", -9007199254740993),
        (["--folder", "a/b"], "folder", Path("a/b")),
        (["--chat", "false"], "chat", False),
        (["--no_chat"], "chat", False),
        (["--no-chat"], "chat", False),
        (["--forget", "null"], "forget", "null"),
        (["--forget", "a", "--forget", "b"], "forget", "b"),
    ],
)
def test_flags_become_the_type_of_the_field(flags, name, expected):
    value = getattr(parse(*flags), name)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ("rates: [1e-4, 1, '2e-3']", "rates", [1e-4, 1.0, 2e-3]),
        ("rates: null", "rates", None),
        ("people: ~", "people", None),
        ("people: 12", "people", 12),
        ("forget: 2024", "forget", "2024"),
        ("forget: 007", "forget", "007"),
        ("forget: no", "forget", "no"),
        ("forget: 2024-01-02", "forget", "2024-01-02"),
        ("retain_loss: none", "retain_loss", "none"),
        ("size: small", "size", Size.SMALL),
        ("span: [3]", "span", (3,)),
        ("chat: off", "chat", False),
        ("extra:\n  a:\n    b: 1e-4", "extra", {"a": {"b": 1e-4}}),
        ("weights: {a: 1e-4}", "weights", {"a": 1e-4}),
        ("folder: a/b", "folder", Path("a/b")),
        ("# everything commented out", "forget", "fictional"),
        ("", "forget", "fictional"),
    ],
)
def test_yaml_becomes_the_type_of_the_field(yaml_file, line, name, expected):
    value = getattr(parse("--config", yaml_file(line)), name)
    assert value == expected and type(value) is type(expected)


def test_a_flag_with_a_constant_stands_alone_or_takes_text():
    assert parse_training("--fsdp").fsdp is True
    assert parse_training("--bf16", "false").bf16 is False


@pytest.mark.parametrize(
    ("flags", "fragments"),
    [
        (["--forgt", "x"], ["unknown flag --forgt on the command line", "did you mean --forget?"]),
        (["--forgt=x"], ["unknown flag --forgt on the command line", "did you mean --forget?"]),
        (["--forge", "x"], ["unknown flag --forge ", "did you mean --forget?"]),  # no abbreviations
        (["--confg", "x"], ["unknown flag --confg", "did you mean --config?"]),
        (["--zzz"], ["unknown flag --zzz", "--help lists the fields"]),
        (["stray"], ["unexpected argument 'stray' on the command line", "--name value"]),
        (["--people", "3", "stray"], ["unexpected argument 'stray'"]),
        (["--people", "many"], ["people: 'many' on the command line", "give a whole number or null (default: null)"]),
        (["--people", "2.5"], ["people: '2.5'", "whole number"]),
        (["--rates", "1", "fast"], ["rates: ['1', 'fast']", "give a list, each a number or null"]),
        (["--rates", "nan"], ["rates: ['nan']"]),
        (["--retain_loss", "kll"], ["retain_loss: 'kll'", "one of nll, kl, none or null (default: nll)"]),
        (["--size", "huge"], ["size: 'huge'", "one of tiny, small (default: tiny)"]),
        (["--level", "mid"], ["level: 'mid'", "one of low, high"]),
        (["--levels", "low", "mid"], ["levels: ['low', 'mid']", "a list, each one of low, high"]),
        (["--forms", "cloze", "rhyme"], ["forms: ['cloze', 'rhyme']", "a list, each one of cloze, reversed or null"]),
        (["--attacks", "benin"], ["attacks: ['benin']", "a list, each one of reinjection, benign"]),
        (["--weights", "a=1"], ["weights: 'a=1'", "a mapping such as"]),
        (["--weights", "[1]"], ["weights: '[1]'", "a mapping such as"]),
        (["--chat", "maybe"], ["chat: 'maybe'", "true or false (default: true)"]),
        (["--people"], ["--people: expected one argument on the command line", "--people=VALUE"]),
        (["--config"], ["--config: expected one argument", "--config VALUE"]),
        (["--no_chat=yes"], ["--no_chat", "'yes'", "write --no_chat alone"]),
        (["--config", "missing.yaml"], ["--config missing.yaml: cannot be read (No such file", "check the path"]),
    ],
)
def test_bad_flags_are_one_line_that_names_field_value_and_fix(flags, fragments, capsys):
    with pytest.raises(InputError) as caught:
        parse(*flags)
    message = str(caught.value)
    assert "\n" not in message and all(fragment in message for fragment in fragments), message
    assert capsys.readouterr() == ("", "")  # never the usage of argparse


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("people: 1\nforgt: x", ["unknown field forgt in ", "run.yaml, line 2", "did you mean forget?"]),
        ("people: 1\n\npeople: 2", ["people is set again in ", "run.yaml, line 3", "keep one"]),
        ("people: many", ["people: 'many' in ", "run.yaml, line 1", "whole number"]),
        ("people: true", ["people: True"]),
        ("forget: null", ["forget: None in", "give text (default: fictional)"]),
        ("forget: [a]", ["forget: ['a']"]),
        ("rates: 1", ["rates: 1 in", "give a list"]),
        ("rates: [null]", ["rates: [None]"]),
        ("extra: [1]", ["extra: [1]", "a mapping"]),
        ("data:\n  forget: x\n  forgt: y", ["unknown field forgt in ", "line 3"]),
        ("data: 3", ["unknown field data in "]),
        ("- forget", ["holds a list, not a mapping", "field: value"]),
        ("just text", ["holds a str, not a mapping"]),
        ("forget: x\nrates: [1, 2\nchat: on", ["run.yaml, line 3: not valid YAML"]),
        ("forget: 2024-13-99", ["not valid YAML (month must be in 1..12"]),
        ("3: x", ["unknown field 3 in"]),
        ("forget: x\x00", ["not valid YAML"]),
    ],
)
def test_bad_yaml_names_the_file_and_the_line(yaml_file, text, fragments):
    with pytest.raises(InputError) as caught:
        parse("--config", yaml_file(text))
    message = str(caught.value)
    assert "\n" not in message and all(fragment in message for fragment in fragments), message


def test_a_folder_or_binary_file_as_config(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        parse("--config", str(tmp_path))
    (tmp_path / "model.bin").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match=r"model\.bin: not valid YAML"):
        parse("--config", str(tmp_path / "model.bin"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_rate", "fast"], r"learning_rate: 'fast' on the command line.*a number \(default: 1e-05\)"),
        (["--lr_scheduler_type", "linaer"], "lr_scheduler_type: 'linaer'.*one of linear, cosine"),
        (["--lr_scheduler_kwargs", "{oops"], "lr_scheduler_kwargs: '{oops'.*mapping"),
        (["--lr", "1"], "unknown flag --lr .*did you mean --learning_rate"),
        (["--batch_size", "1"], "did you mean --per_device_train_batch_size"),
        (["--influence_weight=-1"], r"^influence_weight: -1.0 must not be negative$"),
        (["--accelerator_config", '{"nonsense": 1}'], "nonsense"),
    ],
)
def test_bad_training_arguments(flags, message):
    with pytest.raises(InputError, match=message):
        parse_training(*flags)


def test_yaml_learning_rate_of_the_wrong_type(yaml_file):
    with pytest.raises(InputError, match=r"learning_rate: 'fast' in .*run.yaml, line 1 is not valid; give a number"):
        parse_training("--config", yaml_file("learning_rate: fast"))


def test_required_fields_come_from_either_source(yaml_file):
    def model(*argv):
        return parse_arguments((RequiredArguments,), argv, description="Unlearn.")[0].model

    assert model("--model", "a") == model("--config", yaml_file("model: a")) == "a"
    with pytest.raises(InputError, match="model is missing; give --model VALUE or write `model: VALUE`"):
        model()


def help_of(capsys, flag: str, description: str = "Unlearn with Ssiuu.\n\nMore words.") -> str:
    with pytest.raises(SystemExit) as caught:
        parse_arguments((DataArguments, SsiuuConfig), [flag], description=description, prog="recipes/x.py")
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_teaches_our_fields_first(capsys, monkeypatch, flag):
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(capsys, flag)
    assert text.startswith("Unlearn with Ssiuu.\n\nMore words.")
    assert "llm-unlearn run x --learning_rate" in text
    assert (
        "data: Which data to forget.\n  --forget (text; default fictional)\n      Data to forget, up to 100% of" in text
    )
    assert "--retain_loss (one of nll, kl, none or null; default nll)" in text
    assert "A second paragraph" not in text
    assert "ssiuu_config:\n  --influence_weight (a number; default 0.1)\n      Weight of the regularizer." in text
    assert "SsiuuConfig(" not in text  # the signature that `dataclass` makes its docstring
    words = " ".join(text.split())
    for item in ("--learning_rate 1e-05", "--seed 42", "--report_to none", "--resume_from_checkpoint null"):
        assert item in words
    assert f"--help_all shows all {len(fields(TrainingArguments))} of them" in words
    assert "--adam_epsilon" not in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert len(text.splitlines()) < 60


@pytest.mark.parametrize("flag", ["--help_all", "--help-all"])
def test_help_all_shows_every_field(capsys, flag):
    text = help_of(capsys, flag)
    assert "ssiuu_config, inherited from transformers.TrainingArguments:" in text
    assert "--adam_epsilon (a number; default 1e-08)" in text and "--influence_weight" in text


def test_help_keeps_the_examples_of_the_recipe_and_prints_once(capsys, monkeypatch):
    assert "Example:" not in help_of(capsys, "--help", "Unlearn.\n\n    python recipes/x.py --seed 1")
    monkeypatch.setenv("RANK", "1")
    assert help_of(capsys, "--help") == ""


def test_arguments_to_dict_is_plain_json_without_secrets():
    data = parse("--size", "small", "--folder", "a", "--extra", '{"api_key": "k", "pad_token": "p", "rate": Infinity}')
    config = parse_training("--hub_token", "secret-token")
    plain = arguments_to_dict(data, config)
    assert set(plain) == {"data", "ssiuu_config"}
    assert plain["data"]["size"] == "small" and plain["data"]["folder"] == "a" and plain["data"]["span"] == [1, 2]
    assert plain["data"]["extra"] == {"pad_token": "p", "rate": "inf"}
    assert plain["ssiuu_config"]["lr_scheduler_type"] == "linear" and "hub_token" not in plain["ssiuu_config"]
    assert "secret-token" not in json.dumps(plain, allow_nan=False)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("forget: 'x'\n is missing"), 2, "error: forget: 'x' is missing\n"),
        (DivergenceError("loss is NaN at step 3"), 3, "error: loss is NaN at step 3\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/results.json"),
            4,
            "error: out/results.json could not be written: No space left on device. What is finished is kept: make "
            "room, or the folder writable, and start the same command again\n",
        ),
    ],
)
def test_run_main_ends_with_one_line_and_a_code(capsys, monkeypatch, error, code, line):
    def main():
        raise error

    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    for rank, waits in ((None, []), ("0", []), ("1", [5.0])):  # the main process comes first, and ends the others
        monkeypatch.delenv("RANK", raising=False) if rank is None else monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as caught:
            run_main(main)
        assert caught.value.code == code
        assert capsys.readouterr() == ("", line)
        assert pauses == waits


def test_run_main_lets_bugs_and_success_through():
    def broken():
        raise KeyError("bug")

    def missing():
        Path("nothing/here").read_text()

    with pytest.raises(KeyError):
        run_main(broken)
    with pytest.raises(FileNotFoundError):
        run_main(missing)
    assert run_main(lambda: None) is None


def test_help_shows_the_defaults_of_the_program(capsys):
    defaults = {"output_dir": "outputs/x", "influence_weight": 7}
    with pytest.raises(SystemExit):
        parse_arguments((DataArguments, SsiuuConfig), ["--help"], description="Unlearn.", defaults=defaults)
    words = " ".join(capsys.readouterr().out.split())
    assert "--output_dir outputs/x," in words and "--influence_weight (a number; default 7)" in words


def test_help_tells_the_defaults_for_ones_own_model_from_those_of_the_embedded_one(capsys):
    """A threshold that only the embedded world has would let a user wait for a stop that never comes."""
    own, embedded = {"output_dir": "outputs/x"}, {"rates": [0.5], "learning_rate": 0.25, "output_dir": "elsewhere"}
    with pytest.raises(SystemExit):
        parse_for_model(
            (DataArguments, SsiuuConfig), ["--help"], description="Forget.", defaults=own, embedded_defaults=embedded
        )
    words = " ".join(capsys.readouterr().out.split())
    assert "--rates (a list, each a number or null; default null; in the embedded world [0.5])" in words
    assert "(in brackets: in the embedded world): --output_dir outputs/x, --learning_rate 1e-05 [0.25]," in words
