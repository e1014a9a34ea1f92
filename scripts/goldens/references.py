"""What the golden scripts share: drawing numbers, task heads, and files in the safetensors format."""

import json
import os
import struct

import torch

IGNORED = -100


def drawing(seed):
    """A function that draws normal values that float32 holds exactly, so that both sides start from the same numbers."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0, mean=0.0):
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale + mean
        return drawn.to(torch.float32).to(torch.float64)

    return normal, generator


def adapter_scale(metadata):
    return float(metadata["alpha"]) / int(metadata["rank"])


def classification(states, score, attention_mask, labels):
    """Logits of the last position whose mask is 1, and the mean loss of the labels that count."""
    last = [max(i for i, real in enumerate(row) if real) for row in attention_mask.tolist()]
    logits = states[torch.arange(len(last)), last] @ score.T
    return logits, torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED)


def next_token(states, head, labels):
    """Logits of every position, and the mean loss of the labels one position later."""
    logits = states @ head.T
    shifted = logits[:, :-1].reshape(-1, head.shape[0])
    return logits, torch.nn.functional.cross_entropy(
        shifted, labels[:, 1:].reshape(-1), ignore_index=IGNORED
    )


def write_reference(file, compute, trainable, metadata, batch):
    """`compute(trainable, *batch)` gives logits and loss; writes them with every gradient."""
    for tensor in trainable.values():
        tensor.requires_grad_(True)
    logits, loss = compute(trainable, *batch)
    loss.backward()
    tensors = dict(zip(("input_ids", "attention_mask", "labels"), batch))
    tensors.update(trainable)
    tensors["expected.loss"] = loss.reshape(1)
    tensors["expected.logits"] = logits
    for name, tensor in trainable.items():
        tensors[f"expected.grad.{name}"] = tensor.grad
    write_safetensors(file, tensors, metadata)


def write_safetensors(file, tensors, metadata):
    header, bodies, offset = {"__metadata__": metadata}, [], 0
    for name, tensor in tensors.items():
        whole = tensor.dtype == torch.int64
        body = tensor.detach().to(torch.int64 if whole else torch.float32).contiguous().numpy().tobytes()
        header[name] = {
            "dtype": "I64" if whole else "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(body)],
        }
        bodies.append(body)
        offset += len(body)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + b"".join(bodies))


def write_config(folder, config):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as out:
        out.write(json.dumps(config, indent=1) + "\n")


def mask(*rows):
    return torch.tensor([[int(bit) for bit in row] for row in rows])
