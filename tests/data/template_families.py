"""Chat templates of the families in use, cut down to what matters, and a tokenizer that keeps every text."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (  # Llama 3.2: asks the clock unless it is told the date
    "{{- bos_token }}\n"
    "{%- if not date_string is defined %}\n"
    "    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n'
    "    {%- endif %}\n"
    "{%- endif %}\n"
    '{{- "<|header|>system<|/header|>\n\nToday Date: " + date_string + "<|eot|>" }}\n'
    "{%- for m in messages %}\n"
    "    {{- '<|header|>' + m.role + '<|/header|>\n\n' + m.content | trim + '<|eot|>' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|header|>assistant<|/header|>\n\n' }}\n"
    "{%- endif %}\n"
)
R1 = (  # DeepSeek-R1's distillations: the generation prompt opens a reasoning block, an answered turn has none
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|eos|>' }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
CHANNEL = (  # gpt-oss: an answer has a channel, which a generation prompt leaves open, and the date by the clock
    '{%- macro header() %}{{- "Current date: " + strftime_now("%Y-%m-%d") }}{%- endmacro -%}'
    '{{- "<|start|>system<|message|>" }}{{- header() }}{{- "<|end|>" }}'
    "{%- for m in messages -%}{%- if m.role == 'assistant' -%}"
    '{{- "<|start|>assistant<|channel|>final<|message|>" + m.content }}'
    '{%- if loop.last and not add_generation_prompt %}{{- "<|return|>" }}{%- else %}{{- "<|end|>" }}{%- endif %}'
    '{%- else -%}{{- "<|start|>" + m.role + "<|message|>" + m.content + "<|end|>" }}{%- endif -%}{%- endfor -%}'
    '{%- if add_generation_prompt -%}{{- "<|start|>assistant" }}{%- endif -%}'
)
QWEN3 = (  # a reasoning block before the last answer, empty where there was none; off: in the generation prompt, too
    "{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{%- set content = m.content.split('</think>')[-1].lstrip('\n') %}{%- set reasoning = '' %}"
    "{%- if '</think>' in m.content %}"
    "{%- set reasoning = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\n' }}{%- if loop.last %}{{- '<think>\n' + reasoning + '\n</think>\n\n' }}{%- endif %}"
    "{{- content + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
SMOLLM3 = (  # says in a system message whether to think, and shows an empty block only where not
    "{% set thinks = enable_thinking is not defined or enable_thinking %}"
    "{{ '<|im_start|>system\nReasoning: ' + ('/think' if thinks else '/no_think') + '<|im_end|>\n' }}"
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' + ('' if thinks else '<think>\n\n</think>\n') + m.content + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' + ('' if thinks else '<think>\n\n</think>\n') }}{% endif %}"
)
MISTRAL = (  # no system role, and a space before an answer
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + '<|eos|>' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
SPECIAL = (
    *("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>", "<|header|>", "<|/header|>", "<|eot|>", "<|User|>"),
    *("<|Assistant|>", "<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "[INST]", "[/INST]"),
)
NAME = "some/model"


def byte_tokenizer(chat_template=None, eos="<|eos|>", adds_bos=False, rstrip=()) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few merges: any text comes back from its ids. `rstrip`: these swallow whitespace."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(
        ["It prints the code alpha and im_end. user assistant Where does Ann live?"] * 3, trainer
    )
    tokenizer.add_special_tokens([AddedToken(one, rstrip=one in rstrip, normalized=False) for one in SPECIAL])
    if adds_bos:
        bos = tokenizer.token_to_id("<|bos|>")
        tokenizer.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", bos)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token=eos)
    wrapped.chat_template, wrapped.name_or_path = chat_template, NAME
    return wrapped


def as_texts(tokenizer, row) -> tuple[str, str]:
    """(prompt, answer) of an encoded row; that labels are its last ids is checked on the way."""
    start = next(i for i, label in enumerate(row["labels"]) if label != -100)
    assert row["labels"] == [-100] * start + row["input_ids"][start:]
    return tokenizer.decode(row["input_ids"][:start]), tokenizer.decode(row["input_ids"][start:])
