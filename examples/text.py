"""Topics of messages; a message has several, one or none.

    python examples/text.py

A bag of word vectors, trained from scratch, with a threshold for each topic. The messages are generated from
phrases of their topics and small talk, and every tenth word is left out. Real messages are harder.
"""

import logging
import random
import re
import warnings

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls

PHRASES = {
    "delivery": "the parcel never arrived|the courier left it outside|it was sent to my old address|"
    "tracking shows nothing|the box came open|it is still in the warehouse",
    "payment": "my card was charged twice|the invoice is wrong|i want my money back|the refund is not there|"
    "the price was lower before|the voucher was not accepted",
    "account": "i cannot log in|the password link has expired|please change my address|my profile is empty|"
    "delete my data|the code by mail never arrived",
    "product": "the screen is broken|the colour is wrong|it does not fit|a part is missing|"
    "the battery is empty after an hour|it smells of paint",
}
SMALL_TALK = (
    "hello|good morning|i ordered last week|as i wrote before|please help me|thank you|"
    "this is the second time|what can be done|i like your shop|my neighbour had the same|"
    "it is for my old mother"
)
FREQUENCIES = {"delivery": 0.4, "payment": 0.3, "account": 0.15, "product": 0.1}
"""Fraction of the messages that are about each topic."""


def write(count, draw):
    """Return messages, and the lists of their topics."""
    messages, topics = [], []
    for _ in range(count):
        about = [topic for topic, frequency in FREQUENCIES.items() if draw.random() < frequency]
        parts = [draw.choice(PHRASES[topic].split("|")) for topic in about]
        parts += draw.sample(SMALL_TALK.split("|"), 3)
        draw.shuffle(parts)
        messages.append(" ".join(word for word in " ".join(parts).split() if draw.random() > 0.1))
        topics.append(about)
    return messages, topics


def words_of(message):
    """Return the words of a message in lower case."""
    return re.findall(r"[a-z]+", message.lower())


class TopicModel(ls.TaskModule):
    """The mean of word vectors, followed by a linear layer; unknown words are ignored.

    Args:
        task: A multilabel task.
        vocabulary: All known words; a checkpoint contains them, like other plain arguments.
        width: Size of the word vectors.
        **kwargs: Passed to `TaskModule`.
    """

    def __init__(self, task, vocabulary, width=32, **kwargs):
        super().__init__(task=task, **kwargs)
        self.index = {word: 1 + i for i, word in enumerate(vocabulary)}  # 0 pads short rows
        self.vectors = nn.EmbeddingBag(1 + len(vocabulary), width, padding_idx=0)
        self.head = nn.Linear(width, task.num_outputs)

    def forward(self, words):
        return self.head(self.vectors(words))

    def rows_of(self, messages):
        """Return messages as rows of word indices."""
        rows = [[self.index[w] for w in words_of(m) if w in self.index] for m in messages]
        return nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], True)


def main():
    """Train, tune the thresholds on validation messages, test, and predict the topics of a new message."""
    L.seed_everything(0, verbose=False)
    draw = random.Random(0)
    texts = {split: write(count, draw) for split, count in (("train", 800), ("val", 300), ("test", 500))}
    task = ls.Multilabel(len(PHRASES), class_names=list(PHRASES))
    vocabulary = sorted({word for message in texts["train"][0] for word in words_of(message)})
    model = TopicModel(task, vocabulary, optimizer={"name": "AdamW", "lr": 0.01}, bias_init="prior")
    loaders = {
        split: DataLoader(
            TensorDataset(model.rows_of(messages), task.encode(topics)), 50, shuffle=split == "train"
        )
        for split, (messages, topics) in texts.items()
    }
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advertisements
    warnings.filterwarnings("ignore", module="lightning")  # for example about loaders without workers
    trainer = L.Trainer(
        max_epochs=12,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loaders["train"], loaders["val"])
    ls.tune_decision(trainer, model, loaders["val"], metric="f1_macro")
    result = trainer.test(model, loaders["test"], verbose=False)[0]

    all_topics = ls.make_metrics(task)
    target = loaders["test"].dataset.tensors[1]
    all_topics.update(torch.ones_like(target), target)
    print(f"Macro-F1 with tuned thresholds: {result['test/f1_macro']:.3f}")
    print(f"Macro-F1 with threshold 0.5: {result['test/default_decision/f1_macro']:.3f}")
    print(f"Macro-F1 of 'all topics': {all_topics.compute()['f1_macro']:.3f}")
    new = "Hello, the box came open and the screen is broken. Can I have my money back?"
    (batch,) = trainer.predict(model, DataLoader(model.rows_of([new])))
    print(f"{new} {model.task.decode(batch['prediction'])[0]}")


if __name__ == "__main__":
    main()
