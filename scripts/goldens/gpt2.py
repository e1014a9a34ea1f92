"""Makes tests/goldens/gpt2: a tiny GPT-2 and reference files for `trifold verify`.

An independent authority for loss, logits and LoRA gradients: GPT-2 (Radford et al. 2019, as Hugging Face's
`GPT2LMHeadModel` and `GPT2ForSequenceClassification` compute it) and LoRA (Hu et al. 2021, as PEFT computes it)
in plain PyTorch float64 with autograd. Needs PyTorch only (Debian: python3-torch 1.13); run from the project root:

    /usr/bin/python3 scripts/goldens/gpt2.py
"""

import math
import os

import torch
from references import (
    IGNORED,
    adapter_scale,
    classification,
    drawing,
    mask,
    next_token,
    write_config,
    write_reference,
    write_safetensors,
)

FOLDER = os.path.join("tests", "goldens", "gpt2")
VOCABULARY, POSITIONS, HIDDEN, LAYERS, HEADS, INNER, EPSILON = 50, 12, 16, 2, 4, 40, 1e-5
normal, generator = drawing(20)


def make_model():
    """Weights large enough that no non-linearity is nearly linear and attention is not uniform."""
    tensors = {
        "wte.weight": normal(VOCABULARY, HIDDEN, scale=0.6),
        "wpe.weight": normal(POSITIONS, HIDDEN, scale=0.4),
        "ln_f.weight": normal(HIDDEN, scale=0.2, mean=1),
        "ln_f.bias": normal(HIDDEN, scale=0.2),
    }
    for layer in range(LAYERS):
        for norm in ("ln_1", "ln_2"):
            tensors[f"h.{layer}.{norm}.weight"] = normal(HIDDEN, scale=0.2, mean=1)
            tensors[f"h.{layer}.{norm}.bias"] = normal(HIDDEN, scale=0.2)
        for path, (inputs, outputs) in LINEAR.items():
            tensors[f"h.{layer}.{path}.weight"] = normal(inputs, outputs, scale=1.2 / math.sqrt(inputs))
            tensors[f"h.{layer}.{path}.bias"] = normal(outputs, scale=0.2)
    return tensors


LINEAR = {
    "attn.c_attn": (HIDDEN, 3 * HIDDEN),
    "attn.c_proj": (HIDDEN, HIDDEN),
    "mlp.c_fc": (HIDDEN, INNER),
    "mlp.c_proj": (INNER, HIDDEN),
}


def make_adapter(targets, rank):
    adapter = {}
    for layer in range(LAYERS):
        for path, (inputs, outputs) in LINEAR.items():
            if not any(("." + path).endswith("." + target) for target in targets):
                continue
            name = f"base_model.model.transformer.h.{layer}.{path}"
            adapter[f"{name}.lora_A.weight"] = normal(rank, inputs, scale=0.4)
            adapter[f"{name}.lora_B.weight"] = normal(outputs, rank, scale=0.4)
    return adapter


def forward(model, adapter, scale, input_ids, attention_mask):
    """Final states [batch, seq, hidden]."""
    batch, sequence = input_ids.shape
    lowest = torch.finfo(torch.float64).min
    causal = torch.tril(torch.ones(sequence, sequence, dtype=torch.bool))
    padding = (1.0 - attention_mask[:, None, None, :].to(torch.float64)) * lowest

    def norm(path, x):
        return torch.nn.functional.layer_norm(
            x, (HIDDEN,), model[f"{path}.weight"], model[f"{path}.bias"], EPSILON
        )

    def linear(path, x):
        y = x @ model[f"{path}.weight"] + model[f"{path}.bias"]
        a = adapter.get(f"base_model.model.transformer.{path}.lora_A.weight")
        b = adapter.get(f"base_model.model.transformer.{path}.lora_B.weight")
        return y if a is None else y + scale * (x @ a.T) @ b.T

    def gelu_new(x):
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))

    def attention(path, x):
        size = HIDDEN // HEADS
        q, k, v = (
            part.view(batch, sequence, HEADS, size).transpose(1, 2)
            for part in linear(f"{path}.c_attn", x).split(HIDDEN, dim=2)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(size)
        scores = torch.where(causal, scores, torch.tensor(lowest, dtype=torch.float64)) + padding
        mixed = (torch.softmax(scores, dim=3) @ v).transpose(1, 2).reshape(batch, sequence, HIDDEN)
        return linear(f"{path}.c_proj", mixed)

    x = model["wte.weight"][input_ids] + model["wpe.weight"][torch.arange(sequence)]
    for layer in range(LAYERS):
        x = x + attention(f"h.{layer}.attn", norm(f"h.{layer}.ln_1", x))
        inner = gelu_new(linear(f"h.{layer}.mlp.c_fc", norm(f"h.{layer}.ln_2", x)))
        x = x + linear(f"h.{layer}.mlp.c_proj", inner)
    return norm("ln_f", x)


def reference(name, head, trainable, metadata, batch):
    def compute(trainable, input_ids, attention_mask, labels):
        states = forward(model, trainable, adapter_scale(metadata), input_ids, attention_mask)
        if head == "classification":
            return classification(states, trainable["score.weight"], attention_mask, labels)
        return next_token(states, model["wte.weight"], labels)

    file = os.path.join(FOLDER, f"{name}.safetensors")
    write_reference(file, compute, trainable, {"family": "gpt2", "head": head, **metadata}, batch)


def random_ids(rows, sequence):
    return torch.randint(0, VOCABULARY, (rows, sequence), generator=generator)


config = {
    "model_type": "gpt2",
    "architectures": ["GPT2Model"],
    "vocab_size": VOCABULARY,
    "n_positions": POSITIONS,
    "n_embd": HIDDEN,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_inner": INNER,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": EPSILON,
}
write_config(FOLDER, config)
model = make_model()
write_safetensors(os.path.join(FOLDER, "model.safetensors"), model, {"format": "pt"})

# Padding on the right, on the left, a hole in the middle, none; the last row's label is ignored.
reference(
    "classification",
    "classification",
    {**make_adapter(("c_attn", "mlp.c_fc"), 3), "score.weight": normal(5, HIDDEN, scale=0.5)},
    {"rank": "3", "alpha": "6", "targets": "c_attn,mlp.c_fc"},
    (
        random_ids(5, 9),
        mask("111110000", "000111111", "110011110", "111111111", "111111100"),
        torch.tensor([4, 0, 2, 3, IGNORED]),
    ),
)

# No label is predicted from a position that sees no token: what attention gives there is a matter of taste.
reference(
    "lm",
    "lm",
    make_adapter(("c_attn",), 2),
    {"rank": "2", "alpha": "3", "targets": "c_attn"},
    (
        ids := random_ids(3, 10),
        visible := mask("1111111000", "0001111111", "1111111111"),
        torch.where((visible == 1) & (torch.arange(10) != 3), ids, torch.tensor(IGNORED)),
    ),
)

# Every linear layer, the sequence as long as the model allows.
reference(
    "lm-all-linear",
    "lm",
    make_adapter(LINEAR, 4),
    {"rank": "4", "alpha": "4", "targets": "all-linear"},
    (ids := random_ids(2, POSITIONS), torch.ones(2, POSITIONS, dtype=torch.int64), ids),
)
