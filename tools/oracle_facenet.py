#!/usr/bin/env python3
"""Inception-ResNet-v1 beside facenet-pytorch: fixtures under tests/fixtures and the exchange of weights (set up as tools/oracle.py).

  oracle-env/bin/python tools/oracle_facenet.py forward              tests/fixtures/facenet.json
  oracle-env/bin/python tools/oracle_facenet.py training             tests/fixtures/facenet_training.json
  oracle-env/bin/python tools/oracle_facenet.py roundtrip MIEN       weights through `mien convert` and back
  oracle-env/bin/python tools/oracle_facenet.py step                 times one training step
  oracle-env/bin/python tools/oracle_facenet.py pca                  LFW accuracy of whitened principal components
"""
import argparse, json, os, resource, struct, subprocess, sys, tempfile, time
import numpy as np
import torch
import torch.nn.functional as F
from facenet_pytorch import InceptionResnetV1
from oracle import FIXTURES, hashed, read_safetensors


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


def faces(n, side, seed, dtype):
    """n pictures in about [-1, 1): squares of 16 pixels, each with a level from the hash, under noise from the hash."""
    squares = (side + 15) // 16
    levels = mixed((n, 3, squares, squares), seed + 2).repeat_interleave(16, 2).repeat_interleave(16, 3)[:, :, :side, :side]
    return (levels * 1.5 + mixed((n, 3, side, side), seed) * .5).to(dtype)


def checksum(t):
    """Sum, sum of absolute values, a value a third into the tensor, the last one."""
    v = t.detach().double().flatten()
    return [float(v.sum()), float(v.abs().sum()), float(v[len(v) // 3]), float(v[-1])]


@torch.no_grad()
def clearest(args):
    """Which pictures keep furthest from the kinks of the late layers, in f64: rounding in f32 must not decide the side of a rectifier (one at 3x3 moves all
    gradients before it by 5e-4) nor which value is a maximum. Prints the seeds, best first, by the smallest distance relative to the layer's mean size."""
    net, margin = start(InceptionResnetV1(pretrained=None), torch.float64).eval(), []
    def rectifier(m, i, o): margin.append(float(i[0].abs().min() / i[0].abs().mean()))
    def pooling(m, i, o):
        top = F.unfold(i[0].flatten(0, 1)[:, None], 3, stride=2).topk(2, 1).values
        margin.append(float(((top[:, 0] - top[:, 1]) / i[0].mean()).masked_fill(top[:, 0] == 0, 9).min()))
    for name, m in net.named_modules():
        if isinstance(m, torch.nn.ReLU) and name.startswith(("mixed_7a", "repeat_3", "block8")): m.register_forward_hook(rectifier)
        if isinstance(m, torch.nn.MaxPool2d) and name.startswith("mixed"): m.register_forward_hook(pooling)
    found = []
    for seed in range(args.seeds):
        margin.clear()
        net(faces(2, 160, seed, torch.float64))
        found.append((min(margin), seed))
    print(sorted(found, reverse=True)[:5])


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
        x = faces(2, 160, 85, dtype).requires_grad_()  # `clearest`'s first
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


# The net as a table, for sizes that facenet-pytorch does not build; `small` has its names and blocks. A convolution: (out, kernel, stride, padding).
ONE, SAME, HALF = (1, 1, 0), (3, 1, 1), (3, 2, 0)


class ConvNormRelu(torch.nn.Module):
    def __init__(self, inside, out, kernel, stride, padding):
        super().__init__()
        self.conv = torch.nn.Conv2d(inside, out, kernel, stride, padding, bias=False)
        self.bn = torch.nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x): return F.relu(self.bn(self.conv(x)))


class Mixed(torch.nn.Module):
    """Branches, then (unless scale is None) relu(scale * conv2d + x)."""
    def __init__(self, inside, branches, scale=None, rectify=True):
        super().__init__()
        self.scale, self.rectify, self.out, self.count = scale, rectify, 0, len(branches)
        for i, specs in enumerate(branches):
            convs, c = [], inside
            for out, how in specs:
                convs.append(ConvNormRelu(c, out, *how))
                c = out
            branch = torch.nn.MaxPool2d(3, 2) if not convs else convs[0] if len(convs) == 1 else torch.nn.Sequential(*convs)
            setattr(self, f"branch{i}", branch)
            self.out += c
        if scale is not None: self.conv2d = torch.nn.Conv2d(self.out, inside, 1)

    def forward(self, x):
        y = torch.cat([getattr(self, f"branch{i}")(x) for i in range(self.count)], 1)
        if self.scale is None: return y
        y = self.conv2d(y) * self.scale + x
        return F.relu(y) if self.rectify else y


class Small(torch.nn.Module):
    def __init__(self, embedding, classes, repeats, d):
        super().__init__()
        row, column = lambda k: ((1, k), 1, (0, k // 2)), lambda k: ((k, 1), 1, (k // 2, 0))
        stem = lambda name, i, o, how: setattr(self, name, ConvNormRelu(i if i == 3 else i // d, o // d, *how))
        stem("conv2d_1a", 3, 32, HALF); stem("conv2d_2a", 32, 32, (3, 1, 0)); stem("conv2d_2b", 32, 64, SAME)
        stem("conv2d_3b", 64, 80, ONE); stem("conv2d_4a", 80, 192, (3, 1, 0)); stem("conv2d_4b", 192, 256, HALF)
        b35 = [[(32 // d, ONE)], [(32 // d, ONE), (32 // d, SAME)], [(32 // d, ONE), (32 // d, SAME), (32 // d, SAME)]]
        self.repeat_1 = torch.nn.Sequential(*[Mixed(256 // d, b35, .17) for _ in range(repeats[0])])
        self.mixed_6a = Mixed(256 // d, [[(384 // d, HALF)], [(192 // d, ONE), (192 // d, SAME), (256 // d, HALF)], []])
        wide = lambda n, k: [[(n // d, ONE)], [(n // d, ONE), (n // d, row(k)), (n // d, column(k))]]
        self.repeat_2 = torch.nn.Sequential(*[Mixed(896 // d, wide(128, 7), .1) for _ in range(repeats[1])])
        a = 256 // d
        self.mixed_7a = Mixed(896 // d, [[(a, ONE), (384 // d, HALF)], [(a, ONE), (a, HALF)], [(a, ONE), (a, SAME), (a, HALF)], []])
        self.repeat_3 = torch.nn.Sequential(*[Mixed(1792 // d, wide(192, 3), .2) for _ in range(repeats[2])])
        self.block8 = Mixed(1792 // d, wide(192, 3), 1, False)
        self.last_linear = torch.nn.Linear(1792 // d, embedding, bias=False)
        self.last_bn = torch.nn.BatchNorm1d(embedding, eps=1e-3)
        if classes: self.logits = torch.nn.Linear(embedding, classes)

    def forward(self, x):
        x = F.max_pool2d(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x))), 3, 2)
        x = self.repeat_1(self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(x))))
        x = self.block8(self.repeat_3(self.mixed_7a(self.repeat_2(self.mixed_6a(x)))))
        return self.last_bn(self.last_linear(x.mean((2, 3))))


CLASSES, EMBEDDING, BATCH, SIDE, DIVISOR = 5, 16, 20, 107, 16


def softmax_loss(net, x, labels, state):
    return F.cross_entropy(net.logits(net(x)), labels)


def center_loss(net, x, labels, state):
    e = net(x)
    centers = state.setdefault("centers", torch.zeros(CLASSES, EMBEDDING, dtype=e.dtype))
    apart = e - centers[labels]
    centers.index_add_(0, labels, .05 * apart.detach())
    return F.cross_entropy(net.logits(e), labels) + .01 * (apart ** 2).mean()


def triplet_loss(net, x, labels, state):
    """FaceNet's over fixed triplets: every ordered pair of one label with every row of another."""
    e = F.normalize(net(x))
    same = labels[:, None] == labels[None]
    a, p, n = [torch.tensor(v) for v in zip(*[(i, j, k) for i in range(BATCH) for j in range(BATCH) for k in range(BATCH) if i != j and same[i, j] and not same[i, k]])]
    return F.relu(((e[a] - e[p]) ** 2).sum(1) - ((e[a] - e[n]) ** 2).sum(1) + .2).mean()


def mined_loss(net, x, labels, state):
    """The same over mined triplets: every ordered pair of one label with the nearest row of another (the lower index on ties)."""
    e = F.normalize(net(x))
    d, same = torch.cdist(e.detach(), e.detach(), compute_mode="donot_use_mm_for_euclid_dist"), labels[:, None] == labels[None]
    nearest = torch.where(same, torch.full_like(d, 9), d).argmin(1)
    a, p = [torch.tensor(v) for v in zip(*[(i, j) for i in range(BATCH) for j in range(BATCH) if i != j and same[i, j]])]
    return F.relu(((e[a] - e[p]) ** 2).sum(1) - ((e[a] - e[nearest[a]]) ** 2).sum(1) + .2).mean()


def arcface_loss(net, x, labels, state):
    """InsightFace's additive angle, scale 16, m .5; beyond pi the cosine less m sin m."""
    cosine = F.linear(F.normalize(net(x)), F.normalize(net.head.weight))
    own = cosine[torch.arange(BATCH), labels]
    theta = own.acos()
    harder = torch.where(theta + .5 <= np.pi, (theta + .5).cos(), own - .5 * np.sin(.5))
    return F.cross_entropy(16 * torch.where(F.one_hot(labels, CLASSES).bool(), harder[:, None], cosine), labels)


def training(args):
    # At full size the table must be facenet-pytorch's net.
    x, ours, theirs = faces(2, 91, 1, torch.float64), start(Small(512, 0, (5, 10, 5), 1), torch.float64).eval(), start(InceptionResnetV1(pretrained=None), torch.float64).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert (F.normalize(ours(x)) - theirs(x)).abs().max() < 1e-12
    path = os.path.join(FIXTURES, "facenet_training.json")
    out = json.load(open(path)) if args.only else {"torch": torch.__version__}
    for name, lr, loss_of in (("softmax", 1e-4, softmax_loss), ("center", 1e-4, center_loss), ("triplet", 1e-4, triplet_loss), ("arcface", 1e-5, arcface_loss), ("mined", 1e-4, mined_loss)):
        if args.only and name not in args.only: continue
        out[name] = {"lr": lr}
        for dtype in (torch.float64, torch.float32):
            net, state, curve = Small(EMBEDDING, CLASSES if name in ("softmax", "center") else 0, (1, 1, 1), DIVISOR), {}, []
            if name == "arcface": net.head = torch.nn.Linear(EMBEDDING, CLASSES, bias=False)
            start(net, dtype)
            opt = torch.optim.SGD(net.parameters(), lr=lr, momentum=.9, weight_decay=5e-4)
            for step in range(50):
                loss = loss_of(net, faces(BATCH, SIDE, 1000 + step % 5, dtype), torch.arange(BATCH) % CLASSES, state)
                opt.zero_grad(); loss.backward(); opt.step()
                curve.append(loss.item())
            out[name]["f64" if dtype == torch.float64 else "f32"] = curve
            if dtype == torch.float64: out[name]["weights"] = {n: checksum(t)[:2] for n, t in net.state_dict().items() if "num_batches" not in n}
            print(name, dtype, curve[0], curve[10], curve[-1])
        print("  f32 from f64", max(abs(a - b) for a, b in zip(out[name]["f64"], out[name]["f32"])))
    json.dump(out, open(path, "w"), separators=(",", ":"))

def variables(net):
    """The net's values under the names and in the order of axes of David Sandberg's facenet."""
    scopes = {"conv2d_1a": "Conv2d_1a_3x3", "conv2d_2a": "Conv2d_2a_3x3", "conv2d_2b": "Conv2d_2b_3x3", "conv2d_3b": "Conv2d_3b_1x1", "conv2d_4a": "Conv2d_4a_3x3", "conv2d_4b": "Conv2d_4b_3x3",
              "repeat_1": "Repeat", "repeat_2": "Repeat_1", "repeat_3": "Repeat_2", "mixed_6a": "Mixed_6a", "mixed_7a": "Mixed_7a", "block8": "Block8"}
    blocks, out = {"repeat_1": "block35_", "repeat_2": "block17_", "repeat_3": "block8_"}, {}
    hwio = lambda w: w.detach().permute(2, 3, 1, 0).numpy()
    for name, m in net.named_modules():
        if not isinstance(m, torch.nn.Conv2d): continue
        path = name.split(".")
        scope = ["InceptionResnetV1", scopes[path[0]]] + ([blocks[path[0]] + str(int(path[1]) + 1)] if path[0] in blocks else [])
        rest = path[(2 if path[0] in blocks else 1):]
        k = f"{m.kernel_size[0]}x{m.kernel_size[1]}"
        if rest[0].startswith("branch"):
            many = len(rest) > 2  # branch, [number], conv
            letter = "" if not many else ("1a_" if m.stride[0] == 2 else f"0{'abc'[int(rest[1])]}_")
            if not many and m.stride[0] == 2: letter = "1a_"
            scope += [f"Branch_{rest[0][-1]}", f"Conv2d_{letter}{k}"]
        elif rest[0] == "conv2d": scope.append("Conv2d_1x1")
        at = "/".join(scope)
        out[at + "/weights"] = hwio(m.weight)
        if m.bias is not None: out[at + "/biases"] = m.bias.detach().numpy()
        else:
            bn = net.get_submodule(".".join(path[:-1] + ["bn"]))
            out.update({f"{at}/BatchNorm/beta": bn.bias.detach().numpy(), f"{at}/BatchNorm/moving_mean": bn.running_mean.numpy(), f"{at}/BatchNorm/moving_variance": bn.running_var.numpy()})
    at = "InceptionResnetV1/Bottleneck"
    out[at + "/weights"] = net.last_linear.weight.detach().numpy().T
    out.update({f"{at}/BatchNorm/beta": net.last_bn.bias.detach().numpy(), f"{at}/BatchNorm/moving_mean": net.last_bn.running_mean.numpy(), f"{at}/BatchNorm/moving_variance": net.last_bn.running_var.numpy()})
    if hasattr(net, "logits"): out.update({"Logits/weights": net.logits.weight.detach().numpy().T, "Logits/biases": net.logits.bias.detach().numpy()})
    return out


@torch.no_grad()
def roundtrip(args):
    """PyTorch -> mien convert -> PyTorch: same values, loaded strictly; the TensorFlow names give the same file when every gamma is 1."""
    x = faces(1, 160, 85, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        def convert(path):
            made = os.path.join(folder, "out.safetensors")
            subprocess.run([args.mien, "convert", path, "--model", "facenet", "--out", made], check=True)
            return read_safetensors(made)
        for classes in (0, 8631, 10575):
            new = lambda: InceptionResnetV1(pretrained=None, classify=classes > 0, num_classes=classes or None)
            net = start(new(), torch.float32).eval()
            for m in net.modules():
                if hasattr(m, "running_var"): m.weight.fill_(1)
            torch.save(net.state_dict(), os.path.join(folder, "net.pt"))
            np.savez(os.path.join(folder, "net.npz"), **variables(net))
            want = net(x)
            for kind in ("pt", "npz"):
                back = new().eval()
                print(back.load_state_dict(convert(os.path.join(folder, "net." + kind)), strict=True))
                assert torch.equal(back(x), want), kind
            print("classes", classes, "from .pt and .npz: loads strictly, the same outputs")


def step(args):
    """CPU time of one training step at full size, of the better memory format; the work of bench_embedding_step."""
    torch.set_num_threads(args.threads)
    for layout in ("contiguous_format", "channels_last"):
        torch.manual_seed(1)
        memory = getattr(torch, layout)
        net = Small(512, args.classes if args.loss == "softmax" else 0, (5, 10, 5), 1).train().to(memory_format=memory)
        weight = None if args.loss == "softmax" else torch.nn.Parameter(torch.randn(args.classes, 512) * .01)
        opt = torch.optim.SGD([*net.parameters()] + ([] if weight is None else [weight]), lr=.01, momentum=.9, weight_decay=5e-4)
        x, labels = torch.randn(args.batch, 3, 160, 160).contiguous(memory_format=memory), torch.randint(args.classes, (args.batch,))
        cpu, wall = [], []
        for _ in range(args.steps + 2):
            c, t = time.process_time(), time.perf_counter()
            if weight is None:
                loss = F.cross_entropy(net.logits(net(x)), labels)
            else:
                cosine = F.linear(F.normalize(net(x)), F.normalize(weight))
                own = F.one_hot(labels, args.classes).bool()
                if args.loss == "cosface": harder = cosine - .35
                else: harder = torch.where(cosine.clamp(-1, 1).acos() + .5 <= np.pi, (cosine.clamp(-1 + 1e-7, 1 - 1e-7).acos() + .5).cos(), cosine - .5 * np.sin(.5))
                loss = F.cross_entropy(64 * torch.where(own, harder, cosine), labels)
            opt.zero_grad(); loss.backward(); opt.step()
            cpu.append(time.process_time() - c); wall.append(time.perf_counter() - t)
        print(json.dumps({"net": "inception-resnet-v1", "loss": args.loss, "classes": args.classes, "batch": args.batch, "threads": args.threads, "layout": layout, "torch": torch.__version__,
                          "train_cpu_ms": round(1000 * float(np.median(cpu[2:])), 1), "train_wall_ms": round(1000 * float(np.median(wall[2:])), 1),
                          "resident_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}), flush=True)


def pca(args):
    """LFW accuracy of 200 whitened principal components of gray aligned crops (folders of `mien align`): what no training at all reaches."""
    from PIL import Image
    read = lambda f: np.asarray(Image.open(f).convert("L"), np.float64).ravel()
    people = [l.split()[0] for l in open(args.people)]
    x = np.stack([read(os.path.join(args.crops, p, f)) for p in people if os.path.isdir(os.path.join(args.crops, p)) for f in sorted(os.listdir(os.path.join(args.crops, p)))])
    mean = x.mean(0)
    _, s, v = np.linalg.svd(x - mean, full_matrices=False)
    project = v[:200].T / s[:200]
    rows = [l.split() for l in open(args.pairs) if l.strip()]
    folds, per = int(rows[0][0]), int(rows[0][1])
    rows = rows[1:][(args.fold - 1) * 2 * per:args.fold * 2 * per]
    crop = lambda name, i: os.path.join(args.crops, name, f"{name}_{int(i):04d}.png")
    seen = {}
    def embed(f):
        if f not in seen:
            e = (read(f) - mean) @ project if os.path.exists(f) else np.full(200, np.nan)
            seen[f] = e / np.linalg.norm(e)
        return seen[f]
    d = np.array([((embed(crop(r[0], r[1])) - embed(crop(r[0], r[2]) if len(r) == 3 else crop(r[2], r[3]))) ** 2).sum() for r in rows])
    same, part, grid = np.array([len(r) == 3 for r in rows]), np.arange(len(rows)) % 10, np.arange(0, 4, .01)
    right = lambda sel, t: ((d[sel] < t) == same[sel]) & ~np.isnan(d[sel])
    best = [grid[int(np.argmax([right(part != k, t).mean() for t in grid]))] for k in range(10)]
    print(json.dumps({"crops": len(x), "fold": args.fold, "accuracy": round(float(np.mean([right(part == k, best[k]).mean() for k in range(10)])), 4)}))


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="what", required=True)
    sub.add_parser("forward").set_defaults(run=forward)
    p = sub.add_parser("training"); p.set_defaults(run=training); p.add_argument("--only", nargs="+", help="make these losses anew and keep the others")
    p = sub.add_parser("clearest"); p.set_defaults(run=clearest); p.add_argument("--seeds", type=int, default=100)
    p = sub.add_parser("roundtrip"); p.set_defaults(run=roundtrip); p.add_argument("mien")
    p = sub.add_parser("step"); p.set_defaults(run=step); p.add_argument("--loss", choices=("softmax", "cosface", "arcface"), default="softmax"); p.add_argument("--batch", type=int, default=32)
    p.add_argument("--threads", type=int, default=1); p.add_argument("--steps", type=int, default=3); p.add_argument("--classes", type=int, default=10575)
    p = sub.add_parser("pca"); p.set_defaults(run=pca); p.add_argument("--crops", required=True); p.add_argument("--people", required=True); p.add_argument("--pairs", required=True); p.add_argument("--fold", type=int, default=5)
    a = ap.parse_args()
    torch.set_num_threads(1)
    a.run(a)
