"""Makes tests/goldens/{llama,qwen2,qwen3}: tiny models and reference files for `trifold verify`.

An independent authority for loss, logits and LoRA gradients: Llama (Touvron et al. 2023) with grouped queries
(Ainslie et al. 2023), rotary positions (Su et al. 2021) in Hugging Face's half-split layout, Llama 3's stretched
frequencies, Qwen2's biases and Qwen3's normalised queries and keys, with LoRA (Hu et al. 2021, as PEFT computes it),
in plain PyTorch float64 with autograd. Needs PyTorch only (Debian: python3-torch 1.13); run from the project root:

    /usr/bin/python3 scripts/goldens/llama.py
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

normal, generator = drawing(31)


def linears(config):
    hidden, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries = config["num_attention_heads"] * size
    keys = config["num_key_value_heads"] * size
    return {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }


def make_model(config, biased, head_norms):
    """Weights large enough that no non-linearity is nearly linear and attention is not uniform."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    tensors = {
        "model.embed_tokens.weight": normal(vocabulary, hidden, scale=0.8),
        "model.norm.weight": normal(hidden, scale=0.2, mean=1),
    }
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = normal(vocabulary, hidden, scale=0.5)
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{path}.{norm}.weight"] = normal(hidden, scale=0.2, mean=1)
        for norm in ("q_norm", "k_norm") if head_norms else ():
            tensors[f"{path}.self_attn.{norm}.weight"] = normal(config["head_dim"], scale=0.3, mean=1.5)
        for name, (inputs, outputs) in linears(config).items():
            tensors[f"{path}.{name}.weight"] = normal(outputs, inputs, scale=1.2 / math.sqrt(inputs))
            if name in biased:
                tensors[f"{path}.{name}.bias"] = normal(outputs, scale=0.3)
    return tensors


def make_adapter(config, targets, rank):
    adapter = {}
    for layer in range(config["num_hidden_layers"]):
        for path, (inputs, outputs) in linears(config).items():
            if targets != "all-linear" and path.split(".")[1] not in targets.split(","):
                continue
            name = f"base_model.model.model.layers.{layer}.{path}"
            adapter[f"{name}.lora_A.weight"] = normal(rank, inputs, scale=0.4)
            adapter[f"{name}.lora_B.weight"] = normal(outputs, rank, scale=0.4)
    return adapter


def rotary_angles(config, sequence):
    """[seq, head_dim / 2]: position times frequency, stretched as "The Llama 3 Herd of Models" and its code do."""
    size = config["head_dim"]
    theta = config.get("rope_parameters", config)["rope_theta"]
    frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    scaling = config.get("rope_scaling")
    if scaling is not None:
        wavelengths = 2 * math.pi / frequencies
        original = scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        smooth = ((original / wavelengths - low) / (high - low)).clamp(0, 1)
        frequencies = (1 - smooth) * frequencies / scaling["factor"] + smooth * frequencies
    return torch.arange(sequence, dtype=torch.float64)[:, None] * frequencies


def forward(config, model, adapter, scale, input_ids, attention_mask):
    """Final states [batch, seq, hidden]."""
    batch, sequence = input_ids.shape
    size, groups = config["head_dim"], config["num_key_value_heads"]
    heads = config["num_attention_heads"]
    lowest = torch.finfo(torch.float64).min
    causal = torch.tril(torch.ones(sequence, sequence, dtype=torch.bool))
    visible = causal & (attention_mask[:, None, None, :] == 1)
    angles = rotary_angles(config, sequence)

    def norm(path, x):
        root = torch.sqrt((x * x).mean(-1, keepdim=True) + config["rms_norm_eps"])
        return x / root * model[f"{path}.weight"]

    def linear(path, x):
        y = x @ model[f"{path}.weight"].T
        if f"{path}.bias" in model:
            y = y + model[f"{path}.bias"]
        a = adapter.get(f"base_model.model.{path}.lora_A.weight")
        b = adapter.get(f"base_model.model.{path}.lora_B.weight")
        return y if a is None else y + scale * (x @ a.T) @ b.T

    def rotate(x):
        """Element i of a head and element i + size / 2 as a complex number, times e^(i angle)."""
        first, second = x[..., : size // 2], x[..., size // 2 :]
        cos, sin = torch.cos(angles), torch.sin(angles)
        return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)

    def attention(path, x):
        def split(name, count):
            y = linear(f"{path}.{name}_proj", x).view(batch, sequence, count, size)
            if f"{path}.{name}_norm.weight" in model:
                y = norm(f"{path}.{name}_norm", y)
            return y.transpose(1, 2)

        q, k = rotate(split("q", heads)), rotate(split("k", groups))
        v = split("v", groups)
        mixed = []
        for head in range(heads):
            group = head // (heads // groups)
            scores = q[:, head] @ k[:, group].transpose(1, 2) / math.sqrt(size)
            scores = scores.masked_fill(~visible[:, 0], lowest)
            mixed.append(torch.softmax(scores, dim=2) @ v[:, group])
        return linear(f"{path}.o_proj", torch.cat(mixed, dim=2))

    x = model["model.embed_tokens.weight"][input_ids]
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        x = x + attention(f"{path}.self_attn", norm(f"{path}.input_layernorm", x))
        normal_x = norm(f"{path}.post_attention_layernorm", x)
        gate = linear(f"{path}.mlp.gate_proj", normal_x)
        inner = gate / (1 + torch.exp(-gate)) * linear(f"{path}.mlp.up_proj", normal_x)
        x = x + linear(f"{path}.mlp.down_proj", inner)
    return norm("model.norm", x)


def make(name, config, biased=(), head_norms=False):
    """A model folder, and a function that adds a reference file to it."""
    folder = os.path.join("tests", "goldens", name)
    write_config(folder, config)
    # Hugging Face derives what is not written.
    config = {"head_dim": config["hidden_size"] // config["num_attention_heads"], **config}
    model = make_model(config, biased, head_norms)
    write_safetensors(os.path.join(folder, "model.safetensors"), model, {"format": "pt"})
    tied = config["tie_word_embeddings"]
    matrix = model["model.embed_tokens.weight" if tied else "lm_head.weight"]

    def reference(head, targets, rank, alpha, batch, classes=0):
        metadata = {"rank": str(rank), "alpha": str(alpha), "targets": targets}

        def compute(trainable, input_ids, attention_mask, labels):
            states = forward(config, model, trainable, adapter_scale(metadata), input_ids, attention_mask)
            if head == "classification":
                return classification(states, trainable["score.weight"], attention_mask, labels)
            return next_token(states, matrix, labels)

        trainable = make_adapter(config, targets, rank)
        if head == "classification":
            trainable["score.weight"] = normal(classes, config["hidden_size"], scale=0.5)
        file = os.path.join(folder, f"{head}.safetensors")
        write_reference(file, compute, trainable, {"family": "llama", "head": head, **metadata}, batch)

    return reference


def random_ids(config, rows, sequence):
    return torch.randint(0, config["vocab_size"], (rows, sequence), generator=generator)


def classification_batch(config):
    """Padding on the right, on the left, a hole in the middle, none; the last row's label is ignored."""
    return (
        random_ids(config, 5, 9),
        mask("111110000", "000111111", "110011110", "111111111", "111111100"),
        torch.tensor([3, 0, 2, 1, IGNORED]),
    )


def lm_batch(config):
    """No label is predicted from a position that sees no token: what attention gives there is a matter of taste."""
    ids = random_ids(config, 3, 10)
    visible = mask("1111111000", "0001111111", "1111111111")
    labels = torch.where((visible == 1) & (torch.arange(10) != 3), ids, torch.tensor(IGNORED))
    return ids, visible, labels


SHARED = {"hidden_act": "silu", "max_position_embeddings": 12, "rope_theta": 10000.0}

# Frequencies 1, 0.1, 0.01 and 0.001 of a context of 12: the first stays, the second lies between, the rest are divided.
llama = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    **SHARED,
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 0.1,
        "high_freq_factor": 1.5,
        "original_max_position_embeddings": 12,
    },
    "attention_bias": True,
    "mlp_bias": True,
    "tie_word_embeddings": False,
}
reference = make("llama", llama, biased=linears({"head_dim": 8, **llama}))
reference("classification", "q_proj,v_proj", 3, 6, classification_batch(llama), classes=4)
reference("lm", "all-linear", 2, 3, lm_batch(llama))

qwen2 = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    **SHARED,
    "vocab_size": 45,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "sliding_window": None,
    "tie_word_embeddings": True,
}
reference = make("qwen2", qwen2, biased=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
reference("classification", "all-linear", 2, 4, classification_batch(qwen2), classes=4)
reference("lm", "q_proj,v_proj", 2, 3, lm_batch(qwen2))

# One key head for all queries; heads wider than hidden_size / num_attention_heads; the newer form of rotary settings.
qwen3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    **{key: value for key, value in SHARED.items() if key != "rope_theta"},
    "vocab_size": 40,
    "hidden_size": 20,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    "attention_bias": False,
    "use_sliding_window": False,
    "layer_types": ["full_attention", "full_attention"],
    "tie_word_embeddings": True,
}
reference = make("qwen3", qwen3, head_norms=True)
reference("classification", "all-linear", 3, 6, classification_batch(qwen3), classes=4)
reference("lm", "q_proj,v_proj", 2, 3, lm_batch(qwen3))
