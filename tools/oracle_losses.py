#!/usr/bin/env python3
"""Makes tests/fixtures/losses.safetensors: the losses of face-embedding training, written as plain loops (values and, by autograd, gradients), and PyTorch's own.

  oracle-env/bin/python tools/oracle_losses.py        the environment is that of tools/oracle.py
"""
import json, math, os
import torch
import torch.nn.functional as F
from oracle import Cases, FIXTURES, write_safetensors


def distance(x, i, j, squared):
    d2 = ((x[i] - x[j]) ** 2).sum()
    return d2 if squared or i == j else d2.sqrt()


def pairwise(x, squared):
    n = len(x)
    return torch.stack([torch.stack([distance(x, i, j, squared) for j in range(n)]) for i in range(n)])


def reduced(terms, how):
    t = torch.stack(terms)
    return t if how == "none" else t.sum() if how == "sum" else t.mean()


# The TensorFlow triplet tutorial, in three loops.
def batch_all(x, labels, margin, squared):
    n, total, active, valid = len(x), x.sum() * 0, 0, 0
    for i in range(n):
        for j in range(n):
            for k in range(n):
                if i == j or i == k or j == k or labels[i] != labels[j] or labels[i] == labels[k]: continue
                valid += 1
                term = distance(x, i, j, squared) - distance(x, i, k, squared) + margin
                if term > 0: total = total + term
                if term > 1e-16: active += 1
    return total / (active + 1e-16), torch.tensor(active / (valid + 1e-16), dtype=x.dtype)


def batch_hard(x, labels, margin, squared):
    n, total = len(x), x.sum() * 0
    for i in range(n):
        row = [distance(x, i, j, squared) for j in range(n)]
        positive = [row[j] for j in range(n) if j != i and labels[j] == labels[i]]
        negative = [row[j] for j in range(n) if labels[j] != labels[i]]
        far = max(positive, key=lambda t: float(t.detach())) if positive else row[i]
        near = min(negative, key=lambda t: float(t.detach())) if negative else max(row, key=lambda t: float(t.detach()))
        total = total + torch.relu(far - near + margin)
    return total / n


def eligible(d, labels, alpha, rule):
    """All (a, p, n) that the rule allows."""
    n, out = len(d), []
    for a in range(n):
        for p in range(n):
            if a == p or labels[a] != labels[p]: continue
            others = [k for k in range(n) if labels[k] != labels[a]]
            if rule == "hard": keep = [min(others, key=lambda k: (float(d[a, k]), k))] if others else []
            elif rule == "semi_hard": keep = [k for k in others if d[a, p] < d[a, k] < d[a, p] + alpha]
            else: keep = [k for k in others if d[a, k] < d[a, p] + alpha]
            out += [(a, p, k) for k in keep]
    return torch.tensor(out, dtype=torch.int64).reshape(-1, 3)


def contrastive(a, b, same, margin, how):
    terms = []
    for i in range(len(a)):
        d = ((a[i] - b[i]) ** 2).sum().sqrt()
        terms.append(d ** 2 / 2 if same[i] else torch.relu(margin - d) ** 2 / 2)
    return reduced(terms, how)


def center(f, labels, centers, alfa, rule):
    loss = ((f - centers[labels]) ** 2).mean()
    after, rows = centers.clone(), labels.tolist()
    for c in set(rows):
        step = sum(centers[c] - f[i] for i in range(len(f)) if rows[i] == c).detach()
        after[c] = centers[c] - (1 - alfa) * step / (1 + rows.count(c) if rule == "averaged" else 1)
    return loss, after


def margin_head(e, w, target, s, m1, m2, m3):
    rows = []
    for i in range(len(e)):
        row = []
        for c in range(len(w)):
            cos = (e[i] / e[i].norm()) @ (w[c] / w[c].norm())
            if c == target[i]:
                a = m1 * torch.acos(cos) + m2
                k = math.floor(float(a.detach()) / math.pi)
                if m1 == 1 and k > 0: cos = cos - m2 * math.sin(math.pi - m2)
                else: cos = (-1) ** k * torch.cos(a) - 2 * k
                cos = cos - m3
            row.append(s * cos)
        rows.append(torch.stack(row))
    return torch.stack(rows)


c = Cases()
R = c.rand
for f32 in (False, True):
    for p in (1, 2):
        for shape, dim in (((4, 5), 1), ((3, 4), 0), ((2, 3, 2, 2), 1), ((6,), -1)):
            c.add("normalize", dict(p=p, dim=dim), lambda x: F.normalize(x, p=p, dim=dim), R(*shape), f32=f32)
    for p, swap, margin, how in ((2, False, 1, "mean"), (2, True, 1, "mean"), (1, False, 1, "sum"), (3, False, .5, "none"), (3, True, 2, "none"), (2, False, .1, "none")):
        c.add("triplet_margin", dict(p=p, swap=swap, margin=margin, reduction=how), lambda a, b, n: F.triplet_margin_loss(a, b, n, margin=margin, p=p, swap=swap, reduction=how),
              R(6, 4), R(6, 4), R(6, 4), f32=f32)
    for alpha, how in ((.2, "mean"), (.2, "none"), (2, "sum")):
        c.add("facenet_triplet", dict(alpha=alpha, reduction=how),
              lambda a, p, n: reduced([torch.relu(((x - y) ** 2).sum() - ((x - z) ** 2).sum() + alpha) for x, y, z in zip(a, p, n)], how), R(6, 4), R(6, 4), R(6, 4), f32=f32)
    for margin, how in ((0, "mean"), (.3, "none"), (-.2, "sum")):
        c.add("cosine_embedding", dict(margin=margin, reduction=how), lambda a, b, t: F.cosine_embedding_loss(a, b, t, margin=margin, reduction=how), R(6, 4), R(6, 4),
              torch.tensor([1, -1, -1, 1, -1, -1]), f32=f32)
    for margin, how in ((1, "mean"), (2, "none")):
        c.add("contrastive", dict(margin=margin, reduction=how), lambda a, b, s: contrastive(a, b, s, margin, how), R(5, 3), R(5, 3), torch.tensor([True, False, False, True, False]), f32=f32)
    for squared in (False, True):
        c.add("pairwise", dict(squared=squared), lambda x: pairwise(x, squared), R(6, 4), f32=f32)
        for labels in ([0, 0, 1, 1, 2, 0, 2, 1], [3, 3, 3, 5, 6, 7, 5, 8], [0, 1, 2, 3, 4, 5, 6, 7], [4] * 8):
            for margin in (.1, 1):
                y = torch.tensor(labels)
                c.add("batch_all", dict(margin=margin, squared=squared), lambda x, y: batch_all(x, y, margin, squared), R(8, 3), y, f32=f32)
                c.add("batch_hard", dict(margin=margin, squared=squared), lambda x, y: batch_hard(x, y, margin, squared), R(8, 3), y, f32=f32)
    for alfa, rule in ((.95, "facenet"), (.5, "facenet"), (.5, "averaged")):
        c.add("center", dict(alfa=alfa, rule=rule), lambda f, y, k: center(f, y, k, alfa, rule), R(6, 3), torch.tensor([0, 2, 2, 4, 2, 0]), R(5, 3).detach(), f32=f32)
    for s, m1, m2, m3 in ((64, 1, .5, 0), (30, 1, 0, .35), (64, 1, 0, .4), (16, 4, 0, 0), (32, 1, .3, .2), (8, 1.5, .2, .1), (64, 1, 2.5, 0), (10, 1, 0, 0)):
        c.add("margin_head", dict(s=s, m1=m1, m2=m2, m3=m3), lambda e, w, t: margin_head(e, w, t, s, m1, m2, m3), R(7, 4), R(5, 4), torch.tensor([0, 3, 3, 1, 4, 2, 0]), f32=f32)

mining = []
for i, alpha in enumerate((.2, .6)):
    x = F.normalize(R(12, 4).detach())
    labels = torch.tensor([0, 1, 1, 2, 0, 2, 2, 3, 1, 0, 4, 4])
    d = pairwise(x, True)
    c.tensors[f"m{i}.distances"], c.tensors[f"m{i}.labels"] = d, labels
    for rule in ("semi_hard", "violating", "hard"): c.tensors[f"m{i}.{rule}"] = eligible(d, labels, alpha, rule)
    mining.append(alpha)

write_safetensors(os.path.join(FIXTURES, "losses.safetensors"), c.tensors,
                  {"cases": json.dumps(c.rows, separators=(",", ":")), "mining": json.dumps(mining), "torch": torch.__version__})
print(len(c.rows), "cases")
