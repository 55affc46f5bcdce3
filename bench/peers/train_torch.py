#!/usr/bin/env python3
"""Training speed of the same GPT in PyTorch: tokens per second, eager or compiled.

train_torch.py [--threads 2] [--steps 5] [--compile]
"""
import argparse
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

WIDTH, LAYERS, HEADS, CONTEXT, VOCAB, BATCH = 384, 6, 6, 256, 256, 12


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (z.view(b, t, HEADS, WIDTH // HEADS).transpose(1, 2) for z in self.qkv(self.norm1(x)).split(WIDTH, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, WIDTH)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.tokens.weight.T
        return F.cross_entropy(logits.view(-1, VOCAB), targets.reshape(-1))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--steps", type=int, default=5)
    options.add_argument("--compile", action="store_true")
    options = options.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(options.threads)
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    run = torch.compile(model) if options.compile else model
    data = torch.randint(0, VOCAB, (BATCH, CONTEXT + 1))

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = run(data[:, :-1], data[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    step()
    step()
    start = time.perf_counter()
    for _ in range(options.steps):
        step()
    seconds = time.perf_counter() - start
    kind = "compiled" if options.compile else "eager"
    print(f"pytorch {torch.__version__} {kind} {options.steps * BATCH * CONTEXT / seconds:.0f} tokens/s")


if __name__ == "__main__":
    main()
