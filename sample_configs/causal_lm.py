"""Sentences from a small grammar, and a small GPT-2 of Hugging Face's; nothing here knows of swa-cli.

pip install transformers
"""

import random
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

GRAMMAR = {
    "text": ["sentence .", "sentence . sentence .", "sentence and sentence ."],
    "sentence": ["noun verb", "noun verb noun", "noun says that sentence"],
    "noun": ["article thing", "article adjective thing", "name", "article thing of noun"],
    "article": ["the", "a", "every", "no"],
    "adjective": ["small", "old", "red", "quick", "quiet", "strange"],
    "thing": ["fox", "house", "river", "letter", "clock", "teacher", "cat", "book"],
    "name": ["Anna", "Boris", "Clara", "David"],
    "verb": ["sees", "finds", "likes", "forgets", "follows", "sleeps near", "waits for"],
}
WORDS = sorted({word for rules in GRAMMAR.values() for rule in rules for word in rule.split()} - GRAMMAR.keys())
VOCABULARY = {word: number for number, word in enumerate(["<pad>", "<text>", *WORDS])}
LONGEST = 48
NOT_SCORED = -100


def small_gpt2(width: int = 48, layers: int = 2, heads: int = 2) -> nn.Module:
    """From a configuration, with random weights; nothing is downloaded."""
    import transformers  # noqa: PLC0415  # pyright: ignore[reportMissingImports]  # only this sample needs it

    config = transformers.GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=LONGEST,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=VOCABULARY["<text>"],
        eos_token_id=VOCABULARY["<text>"],
        use_cache=False,
    )
    return transformers.GPT2LMHeadModel(config)


class GrammarData:
    """Texts of up to 48 words, in batches as Hugging Face's models take them, padded at the end."""

    def __init__(
        self, n_train: int = 2000, n_val: int = 300, n_test: int = 600, batch_size: int = 32, seed: int = 0
    ) -> None:
        self.sizes, self.batch_size, self.seed = (n_train, n_val, n_test), batch_size, seed

    def setup(self, stage: str) -> None:
        del stage
        rng = random.Random(self.seed)  # noqa: S311
        self.parts: list[Any] = [[self._text(rng) for _ in range(size)] for size in self.sizes]

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(self.parts[0], self.batch_size, shuffle=True, generator=generator, collate_fn=padded)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[1], self.batch_size, collate_fn=padded)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[2], self.batch_size, collate_fn=padded)

    def _text(self, rng: random.Random) -> list[int]:
        words = ["<text>", *derived("text", rng)][:LONGEST]
        return [VOCABULARY[word] for word in words]


def derived(symbol: str, rng: random.Random) -> list[str]:
    """The words that a symbol of the grammar comes to."""
    if symbol not in GRAMMAR:
        return [symbol]
    return [word for part in rng.choice(GRAMMAR[symbol]).split() for word in derived(part, rng)]


def padded(texts: list[list[int]]) -> dict[str, torch.Tensor]:
    """One batch; the model shifts the labels itself."""
    longest = max(map(len, texts))
    ids = torch.tensor([text + [VOCABULARY["<pad>"]] * (longest - len(text)) for text in texts])
    mask = torch.arange(longest) < torch.tensor([len(text) for text in texts])[:, None]
    labels = torch.where(mask, ids, NOT_SCORED)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}
