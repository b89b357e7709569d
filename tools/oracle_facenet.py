#!/usr/bin/env python3
"""Inception-ResNet-v1 beside facenet-pytorch: fixtures under tests/fixtures and the exchange of weights (set up as tools/oracle.py).

  oracle-env/bin/python tools/oracle_facenet.py forward              tests/fixtures/facenet.json
  oracle-env/bin/python tools/oracle_facenet.py training             tests/fixtures/facenet_training.json
  oracle-env/bin/python tools/oracle_facenet.py roundtrip MIEN       weights through `mien convert` and back
  oracle-env/bin/python tools/oracle_facenet.py step                 times one training step
"""
import argparse, json, os, resource, struct, subprocess, sys, tempfile, time
import numpy as np
import torch
import torch.nn.functional as F
from facenet_pytorch import InceptionResnetV1
from oracle import FIXTURES, hashed


def mixed(shape, seed):
    """As hashed(), without its regular steps (a convolution's mean over them is nearly zero): the fraction of 65536 (u + 1)^2, less .5."""
    w = (hashed(shape, seed, torch.float64) + 1) ** 2 * 65536
    return w - w.floor() - .5


def start(net, dtype):
    """Weights from the hash. Parameters and buffers in the order of the state dict are number k = 0, 1, ...: matrices U * sqrt(6 / fan_in) * 2
    (He: the variance of 2 / fan_in), batch norm's weight 1 + .4 U, its bias and mean .4 U, its variance 1 + U, other biases .4 U; U of mixed()."""
    net = net.to(dtype)
    with torch.no_grad():
        state = [(n, t) for n, t in net.state_dict().items() if "num_batches" not in n]
        for k, (name, t) in enumerate(state):
            u = mixed(t.shape, 100 + k)
            if t.dim() >= 2: u = u * (2 * (6 / t[0].numel()) ** .5)
            elif name.endswith("running_var"): u = u + 1
            elif name.endswith("weight"): u = u * .4 + 1
            else: u = u * .4
            t.copy_(u)
    return net


def faces(n, dtype):
    """n pictures 160x160 in about [-1, 1): squares of 16 pixels, each with a level from the hash, under noise from the hash."""
    levels = mixed((n, 3, 10, 10), 3).repeat_interleave(16, 2).repeat_interleave(16, 3)
    return (levels * 1.5 + mixed((n, 3, 160, 160), 1) * .5).to(dtype)


def checksum(t):
    """Sum, sum of absolute values, a value a third into the tensor, the last one."""
    v = t.detach().double().flatten()
    return [float(v.sum()), float(v.abs().sum()), float(v[len(v) // 3]), float(v[-1])]


WATCHED = ("conv2d_1a.conv.weight", "conv2d_4b.bn.weight", "repeat_1.2.branch2.1.conv.weight", "repeat_1.4.conv2d.bias", "mixed_6a.branch1.1.conv.weight",
           "repeat_2.7.branch1.1.conv.weight", "repeat_2.9.branch1.2.conv.weight", "mixed_7a.branch0.1.bn.bias", "block8.branch1.1.conv.weight", "block8.conv2d.weight",
           "last_linear.weight", "last_bn.weight")


def forward(args):
    out = {"torch": torch.__version__}
    for key, dtype in (("f64", torch.float64), ("f32", torch.float32)):
        net = start(InceptionResnetV1(pretrained=None), dtype).eval()
        seen = {}
        for name, module in net.named_modules():
            if name: module.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, checksum(o)))
        last = {}
        net.last_bn.register_forward_hook(lambda m, i, o: last.__setitem__("out", o))
        x = faces(2, dtype).requires_grad_()
        net(x)
        e = last["out"]  # before L2 normalisation
        (e * mixed(e.shape, 2).to(dtype)).sum().backward()
        grads = dict(net.named_parameters())
        out[key] = {"modules": seen, "output": [[float(v) for v in row] for row in e.detach()], "gradients": {"input": checksum(x.grad), **{n: checksum(grads[n].grad) for n in WATCHED}}}
        print(key, "embedding std", float(e.detach().std()), "between the crops", float((e[0] - e[1]).detach().std()), "block8 abs mean", seen["block8"][1] / (2 * 9 * 1792))
        if key == "f32":  # only what f64 cannot tell: how the output differs
            out[key] = {"output": out[key]["output"], "gradients": out[key]["gradients"]}
    names = [n for n in InceptionResnetV1(pretrained=None).state_dict() if "num_batches" not in n]
    out["names"] = names
    out["parameters"] = {str(c): sum(p.numel() for p in InceptionResnetV1(pretrained=None, classify=c > 0, num_classes=c or None).parameters()) for c in (0, 8631, 10575)}
    json.dump(out, open(os.path.join(FIXTURES, "facenet.json"), "w"), separators=(",", ":"))
