"""Makes tests/goldens/training.json: optimizer steps, learning rates and smoothed losses.

An independent authority: torch.optim (AdamW, SGD), torch.optim.lr_scheduler and torch.nn.functional.cross_entropy in float64
with autograd. Needs PyTorch only (Debian: python3-torch 1.13); run from the project root:

    /usr/bin/python3 scripts/goldens/training.py
"""

import json
import os

import torch

FILE = os.path.join("tests", "goldens", "training.json")
generator = torch.Generator().manual_seed(21)


def normal(*shape, scale=1.0):
    """Values that float32 holds exactly, so that both sides start from the same numbers."""
    drawn = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
    return drawn.to(torch.float32).to(torch.float64)


def optimize(make, slots):
    """Five steps at changing rates: the parameters after each, and the moments after the last."""
    start = {"a": normal(3), "b": normal(2, 2)}
    gradients = [{name: normal(*value.shape) for name, value in start.items()} for _ in RATES]
    parameters = {name: value.clone().requires_grad_(True) for name, value in start.items()}
    optimizer = make(list(parameters.values()))
    after = []
    for rate, gradient in zip(RATES, gradients):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, parameter in parameters.items():
            parameter.grad = gradient[name].clone()
        optimizer.step()
        after.append({name: value.detach().clone() for name, value in parameters.items()})
    moments = {
        ours: {name: optimizer.state[value][theirs] for name, value in parameters.items()}
        for ours, theirs in slots.items()
    }
    return {"start": start, "rates": RATES, "gradients": gradients, "after": after, "moments": moments}


RATES = [0.1, 0.05, 0.05, 0.2, 0.01]


def rates(kind, warm_up, total, final):
    """Rates of every step, from the schedulers one after another."""
    step_rates = []
    if warm_up > 0:
        rise = lambda optimizer: torch.optim.lr_scheduler.LinearLR(
            optimizer, start_factor=1 / warm_up, end_factor=1, total_iters=max(1, warm_up - 1)
        )
        step_rates += run_schedule(rise, warm_up)
    fall = {
        "constant": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1),
        "linear": lambda optimizer: torch.optim.lr_scheduler.LinearLR(
            optimizer, start_factor=1, end_factor=final, total_iters=total - warm_up - 1
        ),
        "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=total - warm_up - 1, eta_min=final * RATE
        ),
    }[kind]
    return step_rates + run_schedule(fall, total - warm_up)


RATE = 0.003


def run_schedule(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    schedule = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def smoothed(x, logits_of, labels, smoothing):
    """Mean loss over the rows and its gradient."""
    x.requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(logits_of(x), labels, label_smoothing=smoothing)
    loss.backward()
    return {"x": x, "labels": labels, "smoothing": smoothing, "loss": loss, "gradient": x.grad}


def plain(value):
    if isinstance(value, torch.Tensor):
        return {"shape": list(value.shape), "data": value.detach().flatten().tolist()}
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value


wte = normal(7, 4)
golden = {
    "adamw": {
        "weightDecay": 0.1,
        **optimize(
            lambda parameters: torch.optim.AdamW(parameters, weight_decay=0.1),
            {"first": "exp_avg", "second": "exp_avg_sq"},
        ),
    },
    "sgd": {
        "weightDecay": 0.05,
        "momentum": 0.8,
        **optimize(
            lambda parameters: torch.optim.SGD(parameters, lr=1, momentum=0.8, weight_decay=0.05),
            {"momentum": "momentum_buffer"},
        ),
    },
    "schedules": [
        {
            "kind": kind,
            "rate": RATE,
            "warmUpSteps": warm_up,
            "totalSteps": 10,
            "finalFraction": 0.1,
            "rates": rates(kind, warm_up, 10, 0.1),
        }
        for kind in ("constant", "linear", "cosine")
        for warm_up in (0, 1, 3)
    ],
    "classification": smoothed(normal(4, 5), lambda x: x, torch.tensor([4, 0, 2, 2]), 0.1),
    "lm": {
        "wte": wte,
        **smoothed(normal(6, 4), lambda x: x @ wte.T, torch.tensor([6, 0, 1, 3, 3, 5]), 0.2),
    },
}
with open(FILE, "w") as out:
    out.write(json.dumps(plain(golden), indent=1) + "\n")
