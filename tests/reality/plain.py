"""What a model says, by transformers alone: nothing of this package is imported here."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Plain:
    """A folder's model and tokenizer, and the answers to single questions."""

    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()

    def rendered(self, question: str, answer: str) -> tuple[str, str]:
        """The text before an answer, and what follows it up to where the turn has ended."""
        eos = self.tokenizer.eos_token
        if self.tokenizer.chat_template is None:
            return f"Question: {question.strip()}\nAnswer: ", eos
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        arguments = {"enable_thinking": False, "date_string": "26 Jul 2024"}
        whole = self.tokenizer.apply_chat_template(turns, tokenize=False, **arguments)
        before, _, after = whole.rpartition(answer)
        ends = [after.index(token) + len(token) for token in self.tokenizer.all_special_tokens if token in after]
        return before, after[: min(ends)] if ends else after.rstrip() + eos

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def logps(self, ids: list[int]) -> torch.Tensor:
        """(length, vocabulary): of the token after each."""
        return self.model(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)

    def score(self, ids: list[int], start: int) -> float:
        """Log-probability of the tokens from `start` on."""
        logps = self.logps(ids)
        return sum(logps[i - 1, ids[i]].item() for i in range(start, len(ids)))

    def greedy(self, ids: list[int], after: str, most: int) -> list[int]:
        """The likeliest token, again and again, until one that ends a turn or a text."""
        said, ends = [], (self.ids(after)[-1], self.tokenizer.eos_token_id)
        while len(said) < most:
            token = self.logps(ids + said)[-1].argmax().item()
            if token in ends:
                break
            said.append(token)
        return said
