"""A transformer under a held mask in Hugging Face's Trainer: nothing else about the training changes."""

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import tombola as tb


def examples(count: int) -> list[dict[str, torch.Tensor]]:
    """Sequences of 12 tokens; the label says whether the first token comes again."""
    tokens = torch.randint(2, 20, (count, 12), generator=torch.Generator().manual_seed(0))
    labels = (tokens[:, 1:] == tokens[:, :1]).any(1).long()
    return [{"input_ids": one, "labels": label} for one, label in zip(tokens, labels, strict=True)]


def main(epochs: int = 3, count: int = 1000) -> tuple[tb.Mask, tb.Mask]:
    """The mask that was held, and the one that the trained network has."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=20, num_labels=2, **shape))  # or a pretrained one
    scores = {name: weight.detach().abs() for name, weight in tb.prunable(model).items()}
    mask = tb.select(scores, density=0.3, scope="global")
    settings = TrainingArguments(
        "trainer", num_train_epochs=epochs, per_device_train_batch_size=32, learning_rate=1e-3, weight_decay=0.01,
        save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    with tb.hold(model, mask):
        Trainer(model, settings, train_dataset=examples(count)).train()
    return mask, tb.Mask.from_zeros(model)


if __name__ == "__main__":
    held, left = main()
    print(held.table())
    print(f"after training {left.density:.2%} of the weights are not 0")
