"""A training step of GPT-2 124M shapes in PyTorch, run on request: what Trifold's step is compared with.

Usage: python3 pytorch-step.py HEAD BATCH SEQUENCE THREADS     (HEAD: lm or classification)
       python3 pytorch-step.py products

The first form prints a line of JSON when it is ready and then answers each line "step" of standard input with
the milliseconds of one step and the peak resident memory of the process so far. A step is forward pass, loss and
backward pass; gradients of the adapters (LoRA, rank 8, on c_attn) and of the head only, no optimizer. The second
form prints the FLOP/s of square float32 products on one thread, by which the fastest kernels of OpenBLAS are chosen.
"""

import json
import math
import resource
import sys
import time

import torch
import torch.nn.functional as F

VOCABULARY, WIDTH, LAYERS, HEADS, INNER = 50257, 768, 12, 12, 3072
RANK, ALPHA, CLASSES = 8, 16, 77


def frozen(*shape):
    return torch.empty(*shape).normal_(0, 0.02)


def trained(*shape):
    return frozen(*shape).requires_grad_()


class Block:
    """Weights lie as in the checkpoint, [in, out], so that every layer is one addmm."""

    def __init__(self):
        self.norms = [(torch.ones(WIDTH), torch.zeros(WIDTH)) for _ in range(2)]
        self.attention = frozen(WIDTH, 3 * WIDTH), frozen(3 * WIDTH)
        self.projection = frozen(WIDTH, WIDTH), frozen(WIDTH)
        self.up = frozen(WIDTH, INNER), frozen(INNER)
        self.down = frozen(INNER, WIDTH), frozen(WIDTH)
        self.a, self.b = trained(RANK, WIDTH), trained(3 * WIDTH, RANK)

    def __call__(self, x, mask, batch, sequence):  # x: [tokens, width]
        normed = F.layer_norm(x, (WIDTH,), *self.norms[0], 1e-5)
        qkv = linear(normed, *self.attention)
        qkv = torch.addmm(qkv, normed @ self.a.t(), self.b.t(), alpha=ALPHA / RANK)
        size = WIDTH // HEADS
        q, k, v = (
            qkv.view(batch, sequence, 3, HEADS, size)
            .permute(2, 0, 3, 1, 4)
            .reshape(3, batch * HEADS, sequence, size)
        )
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=1 / math.sqrt(size))
        mixed = torch.bmm(scores.softmax(-1), v)  # [batch * heads, sequence, size]
        mixed = mixed.view(batch, HEADS, sequence, size).transpose(1, 2).reshape(-1, WIDTH)
        x = x + linear(mixed, *self.projection)
        normed = F.layer_norm(x, (WIDTH,), *self.norms[1], 1e-5)
        return x + linear(F.gelu(linear(normed, *self.up), approximate="tanh"), *self.down)


def linear(x, weight, bias):
    return torch.addmm(bias, x, weight)


class Model:
    def __init__(self, head, batch, sequence):
        self.head, self.batch, self.sequence = head, batch, sequence
        self.words, self.places = frozen(VOCABULARY, WIDTH), frozen(1024, WIDTH)
        self.blocks = [Block() for _ in range(LAYERS)]
        self.norm = torch.ones(WIDTH), torch.zeros(WIDTH)
        self.parameters = [p for block in self.blocks for p in (block.a, block.b)]
        if head == "classification":
            self.score = trained(CLASSES, WIDTH)
            self.parameters.append(self.score)
        self.mask = torch.full((1, sequence, sequence), -1e9).triu(1)
        self.ids = torch.randint(VOCABULARY, (batch, sequence))
        last = self.ids[:, -1]
        self.labels = self.ids.view(-1) if head == "lm" else last % CLASSES

    def step(self):
        for parameter in self.parameters:
            parameter.grad = None
        hidden = (F.embedding(self.ids, self.words) + self.places[: self.sequence]).view(-1, WIDTH)
        for block in self.blocks:
            hidden = block(hidden, self.mask, self.batch, self.sequence)
        if self.head == "classification":
            hidden = hidden.view(self.batch, self.sequence, WIDTH)[:, -1]
        states = F.layer_norm(hidden, (WIDTH,), *self.norm, 1e-5)
        output = self.words if self.head == "lm" else self.score
        F.cross_entropy(F.linear(states, output), self.labels).backward()


def peak_bytes():
    try:
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
            return int(line.split()[1]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def say(**fields):
    print(json.dumps(fields), flush=True)


def products(size=1024, repeats=12):
    torch.set_num_threads(1)
    x = torch.ones(size, size)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        torch.mm(x, x)
        times.append(time.process_time() - start)
    # Processor time at its least: kernels are compared here, and others on the machine must not decide.
    say(version=torch.__version__, flopsPerSecond=2 * size**3 / min(times))


def main(arguments):
    if arguments == ["products"]:
        products()
        return
    torch.set_num_threads(int(arguments[3]))
    torch.manual_seed(1)
    head, batch, sequence = arguments[0], int(arguments[1]), int(arguments[2])
    model = Model(head, batch, sequence)
    say(ready=True)
    for line in sys.stdin:
        if line.strip() != "step":
            raise SystemExit(f"unknown request: {line!r}")
        start = time.perf_counter()
        model.step()
        say(ms=1000 * (time.perf_counter() - start), peakBytes=peak_bytes())


main(sys.argv[1:])
