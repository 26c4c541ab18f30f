"""Where an answer stands in the conversations of the families of chat templates; what they say of the day."""

import json
import logging
from datetime import datetime

import pytest
import yaml
from builders import tiny_tokenizer
from template_families import (
    CHANNEL,
    CHATML,
    LLAMA3,
    MISTRAL,
    NAME,
    QWEN3,
    R1,
    SMOLLM3,
    as_texts,
    byte_tokenizer,
)
from transformers.utils import chat_template_utils

from llm_unlearn.arguments.groups import DataArguments
from llm_unlearn.arguments.parsing import arguments_to_dict, parse_arguments
from llm_unlearn.data import encode_dataset, encode_prompt, encode_row, end_token_ids, template_key, unusual_template
from llm_unlearn.data.chat_templates import render, set_template_arguments, template_arguments
from llm_unlearn.errors import InputError
from llm_unlearn.models.loading import load_tokenizer

PROMPT = [{"role": "user", "content": "Where does Ann live?"}]
ORDINARY = {
    "chatml": (
        CHATML,
        "<|im_end|>",
        "<|im_start|>user\nWhere does Ann live?<|im_end|>\n<|im_start|>assistant\n",
        "In Paris.<|im_end|>",
    ),
    "llama3": (
        LLAMA3,
        "<|eos|>",
        "<|bos|><|header|>system<|/header|>\n\nToday Date: 26 Jul 2024<|eot|>"
        "<|header|>user<|/header|>\n\nWhere does Ann live?<|eot|><|header|>assistant<|/header|>\n\n",
        "In Paris.<|eot|>",
    ),
    "qwen3": (
        QWEN3,
        "<|im_end|>",
        "<|im_start|>user\nWhere does Ann live?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "In Paris.<|im_end|>",
    ),
    "smollm3": (
        SMOLLM3,
        "<|im_end|>",
        "<|im_start|>system\nReasoning: /no_think<|im_end|>\n<|im_start|>user\nWhere does Ann live?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n",
        "In Paris.<|im_end|>",
    ),
    "mistral": (MISTRAL, "<|eos|>", "<|bos|>[INST] Where does Ann live? [/INST]", " In Paris.<|eos|>"),
}
OTHERWISE = {
    "r1": (R1, "<|eos|>", "<|bos|><|User|>Where does Ann live?<|Assistant|>", "In Paris.<|eos|>"),
    "channel": (
        CHANNEL,
        "<|eos|>",
        "<|start|>system<|message|>Current date: 2024-07-26<|end|><|start|>user<|message|>Where does Ann live?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>",
        "In Paris.<|return|>",
    ),
}
FAMILIES = ORDINARY | OTHERWISE


@pytest.mark.parametrize(("template", "eos", "prompt", "answer"), FAMILIES.values(), ids=FAMILIES)
def test_training_scoring_and_generation_start_where_the_answered_turn_has_the_answer(template, eos, prompt, answer):
    tokenizer = byte_tokenizer(template, eos)
    row = encode_row(tokenizer, PROMPT, " In Paris.\n")
    assert as_texts(tokenizer, row) == (prompt, answer)
    prompt_ids = encode_prompt(tokenizer, PROMPT)
    assert row["input_ids"][: len(prompt_ids)] == prompt_ids and tokenizer.decode(prompt_ids) == prompt
    assert row["labels"][-1] == end_token_ids(tokenizer)[0]
    # What TRL and a user's own code make of the same conversation, up to the end of the answer.
    whole = render(tokenizer, [*PROMPT, {"role": "assistant", "content": "In Paris."}], add_generation_prompt=False)
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert ids[: len(row["input_ids"])] == row["input_ids"]


@pytest.mark.parametrize(("template", "eos"), [one[:2] for one in ORDINARY.values()], ids=ORDINARY)
def test_where_both_agree_the_prompt_is_the_generation_prompt_to_the_bit(template, eos, caplog):
    tokenizer = byte_tokenizer(template, eos)
    arguments = {"enable_thinking": False, "date_string": "26 Jul 2024"}
    prompt = tokenizer.apply_chat_template(PROMPT, tokenize=False, add_generation_prompt=True, **arguments)
    assert encode_prompt(tokenizer, PROMPT) == tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert not caplog.records
    assert template_key(tokenizer) == template and unusual_template(tokenizer) == []


def test_a_generation_prompt_that_ends_elsewhere_is_reported_once(caplog):
    tokenizer = byte_tokenizer(R1)
    with caplog.at_level(logging.WARNING, logger="llm_unlearn"):
        for _ in range(3):
            encode_prompt(tokenizer, PROMPT)
        encode_dataset([{"question": "Where does Ann live?", "answer": "In Paris."}], tokenizer, None, "forget set")
    assert [record.getMessage() for record in caplog.records] == [
        "the chat template of 'some/model' has the generation prompt ...'<|bos|><|User|>question<|Assistant|><think>"
        "\\n' and an answer after ...'<|bos|><|User|>question<|Assistant|>': the latter is what training, scoring and "
        "generation start from"
    ]
    assert template_key(tokenizer) == [
        R1,
        "as answered",
        {"enable_thinking": False, "template_date": "2024-07-26"},
    ]  # outcomes of answers in the other place are not taken for these


@pytest.mark.parametrize("template", [R1, CHANNEL, CHATML, MISTRAL])
def test_an_answer_that_the_prompt_begins_and_turns_before(template):
    tokenizer = byte_tokenizer(template)
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."}, *PROMPT]
    whole = encode_row(tokenizer, turns, "In Paris.")
    begun = encode_row(tokenizer, [*turns, {"role": "assistant", "content": "In"}], " Paris.")
    assert begun["input_ids"] == whole["input_ids"]
    assert as_texts(tokenizer, begun)[0] == as_texts(tokenizer, whole)[0] + (" In" if template == MISTRAL else "In")


UPPER = CHATML.replace("m.content", "m.content.upper()")
ESCAPED = CHATML.replace("m.content", "m.content | e")
TWICE = CHATML.replace("m.content", "m.content + m.content")
SYSTEM_IN_THE_LAST_TURN = (  # as in some of Mistral's: only a prompt shows the system message
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (system if loop.last else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + '<|eos|>' }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "row", "words"),
    [
        (UPPER, {}, ["of 'some/model' does not show the assistant's message as it is"]),
        (TWICE, {}, ["of 'some/model' does not show the assistant's message as it is"]),
        (ESCAPED, {"answer": "x < y"}, ["row 1", "of 'some/model' changes the answer 'x < y'"]),
        (
            ESCAPED,
            {"question": "Is x < y?"},
            ["row 1", "of 'some/model' drops or changes the user message 'Is x < y?'"],
        ),
        (
            R1,
            {"answer": "<think>\nHm.\n</think>\n\nIn Paris."},
            ["row 1", "changes the answer '<think>\\nHm.\\n</think>"],
        ),
        (QWEN3, {"answer": "<think>\nHm.\n</think>\n\nIn Paris."}, ["row 1", "changes the answer '<think>\\nHm."]),
    ],
)
def test_a_template_that_has_no_place_for_the_answer_is_refused_by_name(template, row, words):
    rows = [{"question": "Where?", "answer": "Here."}, {"question": "Where?", "answer": "Here."} | row]
    with pytest.raises(InputError) as caught:
        encode_dataset(rows, byte_tokenizer(template), None, "forget set")
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_a_system_message_that_an_answered_turn_drops_is_refused():
    prompt = [{"role": "system", "content": "Be brief."}, *PROMPT]
    with pytest.raises(InputError, match=r"of 'some/model' drops or changes the system message 'Be brief\.'"):
        encode_prompt(byte_tokenizer(SYSTEM_IN_THE_LAST_TURN), prompt)
    with pytest.raises(InputError, match="rejects the messages: Only user and assistant roles are supported!"):
        encode_prompt(byte_tokenizer(MISTRAL), prompt)


class Tomorrow(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2031, 2, 3)


@pytest.mark.parametrize("template", [LLAMA3.replace("date_string", "today"), CHANNEL])
def test_prompts_are_the_same_on_every_day(template, monkeypatch):
    today = encode_prompt(byte_tokenizer(template), PROMPT)
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    tokenizer = byte_tokenizer(template)
    assert "2031" in tokenizer.apply_chat_template(PROMPT, tokenize=False)  # what the library itself would say
    assert encode_prompt(tokenizer, PROMPT) == today and "2024" in tokenizer.decode(today)


DAY = (
    "\n  {% if true %}\n{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%A, %B %-d, %y') }}|{% set form = '%F %H:%M' %}"
    "{{ strftime_now(form) }}\n{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
)


def test_every_form_of_the_date_and_no_other_character():
    tokenizer = set_template_arguments(byte_tokenizer(DAY), template_date="2025-01-02")
    asked = [{"role": "user", "content": "!"}]
    assert render(tokenizer, asked, False) == "\n02 Jan 2025|Thursday, January 2, 25|2025-01-02 00:00\n!"


def test_another_day_and_thinking_are_stored_with_the_tokenizer_and_known_to_every_key(tmp_path):
    tokenizer = byte_tokenizer(LLAMA3 + "{# enable_thinking #}")
    tokenizer.save_pretrained(tmp_path / "plain")
    assert "chat_template_kwargs" not in json.loads((tmp_path / "plain" / "tokenizer_config.json").read_text())
    rows = [{"question": "Where does Ann live?", "answer": "In Paris."}]
    before, key = encode_dataset(rows, tokenizer, None, "rows"), template_key(tokenizer)
    set_template_arguments(tokenizer, enable_thinking=True, template_date="2025-01-02")
    after = encode_dataset(rows, tokenizer, None, "rows")
    assert "Date: 02 Jan 2025" in as_texts(tokenizer, after[0])[0] and after != before
    assert template_key(tokenizer) == [
        tokenizer.chat_template,
        "as answered",
        {"enable_thinking": True, "template_date": "2025-01-02"},
    ]
    tokenizer.save_pretrained(tmp_path / "told")
    assert encode_dataset(rows, load_tokenizer(str(tmp_path / "told")), None, "rows") == after
    arguments = DataArguments()  # a run says what it uses: nothing left over from another one
    assert encode_dataset(rows, arguments.load_tokenizer(str(tmp_path / "told")), None, "rows") == before
    assert template_key(arguments.load_tokenizer(str(tmp_path / "told"))) == key == tokenizer.chat_template
    told = DataArguments(enable_thinking=True, template_date="2025-01-02").load_tokenizer(str(tmp_path / "plain"))
    assert encode_dataset(rows, told, None, "rows") == after


def test_a_remembered_data_set_is_of_one_day():
    from datasets import Dataset

    rows = Dataset.from_list([{"question": "Where does Ann live?", "answer": "In Paris."}])
    tokenizer = byte_tokenizer(LLAMA3)
    first = encode_dataset(rows, tokenizer, None, "rows")
    assert encode_dataset(rows, set_template_arguments(tokenizer, template_date="2025-01-02"), None, "rows") != first
    assert encode_dataset(rows, set_template_arguments(tokenizer, template_date="2024-07-26"), None, "rows") == first


def test_thinking_where_the_template_has_it():
    tokenizer = set_template_arguments(byte_tokenizer(SMOLLM3, "<|im_end|>"), enable_thinking=True)
    answer = "<think>\nHm.\n</think>\n\nIn Paris."  # this template leaves reasoning where it is
    assert as_texts(tokenizer, encode_row(tokenizer, PROMPT, answer)) == (
        "<|im_start|>system\nReasoning: /think<|im_end|>\n<|im_start|>user\nWhere does Ann live?<|im_end|>\n"
        "<|im_start|>assistant\n",
        f"{answer}<|im_end|>",
    )
    for other in (byte_tokenizer(LLAMA3), byte_tokenizer(None), tiny_tokenizer()):
        with pytest.raises(
            InputError, match=r"^enable_thinking=True: the chat template of '\S+' does not know enable_"
        ):
            set_template_arguments(other, enable_thinking=True)
    with pytest.raises(InputError, match=NAME):
        set_template_arguments(byte_tokenizer(R1), enable_thinking=True)


@pytest.mark.parametrize("line", ["template_date: 2025-01-02", "template_date: '2025-1-2'"])
def test_a_run_writes_its_day_down_and_reads_it_again(line, tmp_path):
    (tmp_path / "config.yaml").write_text(line)
    (arguments,) = parse_arguments((DataArguments,), ["--config", str(tmp_path / "config.yaml")], description="")
    tokenizer = byte_tokenizer(LLAMA3)
    set_template_arguments(tokenizer, arguments.enable_thinking, arguments.template_date)
    assert template_arguments(tokenizer) == {"enable_thinking": False, "template_date": "2025-01-02"}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(arguments_to_dict(arguments)))
    (again,) = parse_arguments((DataArguments,), ["--config", str(tmp_path / "again.yaml")], description="")
    assert again == arguments
    (group,) = arguments_to_dict(DataArguments()).values()
    assert group["template_date"] == "2024-07-26" and group["enable_thinking"] is False


@pytest.mark.parametrize("date", ["26 Jul 2024", "2024-13-01", "today", ""])
def test_a_date_that_is_none(date):
    with pytest.raises(InputError, match=rf"^template_date='{date}' is no date; give it as YYYY-MM-DD"):
        set_template_arguments(byte_tokenizer(LLAMA3), template_date=date)
