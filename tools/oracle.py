#!/usr/bin/env python3
"""Makes the small fixtures under tests/fixtures with PyTorch and facenet-pytorch, and times PyTorch beside mien.

Set up once:  python3 -m venv oracle-env && oracle-env/bin/pip install numpy torch torchvision pillow requests tqdm && oracle-env/bin/pip install --no-deps facenet-pytorch
Then:         oracle-env/bin/python tools/oracle.py ops|training|mtcnn|boxes|lenet|step [options]
"""
import argparse, glob, json, os, struct, sys, time
import numpy as np
import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
FIXTURES = os.path.join(HERE, "..", "tests", "fixtures")
DATA = os.environ.get("MIEN_DATA", os.path.join(HERE, "..", "..", "shared", "data"))


# ---------------------------------------------------------------------------------------------------------- mtcnn
def cascade(nets, image, min_face=20, thresholds=(.6, .7, .7), factor=.709):
    """facenet-pytorch's detect_face on one picture, with the boxes after each stage."""
    from facenet_pytorch.models.utils import detect_face as fp
    from torchvision.ops import nms
    pnet, rnet, onet = nets
    x = torch.as_tensor(np.array(image, copy=True)).permute(2, 0, 1)[None].float()
    h, w = x.shape[2:]
    scale = 12.0 / min_face
    side = min(h, w) * scale
    found = []
    while side >= 12:
        small = (fp.imresample(x, (int(h * scale + 1), int(w * scale + 1))) - 127.5) * .0078125
        reg, prob = pnet(small)
        boxes, _ = fp.generateBoundingBox(reg, prob[:, 1], scale, thresholds[0])
        found.append(boxes[nms(boxes[:, :4], boxes[:, 4], .5)])
        scale, side = scale * factor, side * factor
    boxes = torch.cat(found)
    boxes = boxes[nms(boxes[:, :4], boxes[:, 4], .7)]
    rw, rh = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    boxes = torch.stack([boxes[:, 0] + boxes[:, 5] * rw, boxes[:, 1] + boxes[:, 6] * rh, boxes[:, 2] + boxes[:, 7] * rw, boxes[:, 3] + boxes[:, 8] * rh, boxes[:, 4]]).T
    stage1 = fp.rerec(boxes)

    def crops(b, size):
        y, ey, px, ex = fp.pad(b, w, h)
        keep = [k for k in range(len(y)) if ey[k] > y[k] - 1 and ex[k] > px[k] - 1]
        cut = [fp.imresample(x[:, :, y[k] - 1:ey[k], px[k] - 1:ex[k]], (size, size)) for k in keep]
        return b[keep], (torch.cat(cut) - 127.5) * .0078125

    b, c = crops(stage1, 24)
    reg, prob = rnet(c)
    keep = prob[:, 1] > thresholds[1]
    b, reg = torch.cat([b[keep, :4], prob[keep, 1:]], 1), reg[keep]
    pick = nms(b[:, :4], b[:, 4], .7)
    stage2 = fp.rerec(fp.bbreg(b[pick], reg[pick]))
    b, c = crops(stage2, 48)
    reg, points, prob = onet(c)
    keep = prob[:, 1] > thresholds[2]
    b, reg, points = torch.cat([b[keep, :4], prob[keep, 1:]], 1), reg[keep], points[keep]
    bw, bh = b[:, 2] - b[:, 0] + 1, b[:, 3] - b[:, 1] + 1
    points = torch.stack([bw[:, None] * points[:, :5] + b[:, :1] - 1, bh[:, None] * points[:, 5:] + b[:, 1:2] - 1], 2)
    b = fp.bbreg(b, reg)
    pick = fp.batched_nms_numpy(b[:, :4], b[:, 4], torch.zeros(len(b)), .7, "Min")
    return stage1, stage2, b[pick], points[pick]


def reference_nets(weights=None):
    """facenet-pytorch's nets with the authors' weights, or with those of one of mien's files."""
    from facenet_pytorch.models.mtcnn import PNet, RNet, ONet
    nets = PNet(pretrained=False), RNet(pretrained=False), ONet(pretrained=False)
    for name, net in zip(("pnet", "rnet", "onet"), nets):
        if weights:
            state = {k[5:]: v for k, v in read_safetensors(weights).items() if k.startswith(name + ".")}
        else:
            state = torch.load(os.path.join(DATA, "mtcnn-weights", "facenet-pytorch", name + ".pt"), weights_only=False)
        net.load_state_dict(state)
        net.eval()
    return nets


def read_safetensors(path):
    raw = open(path, "rb").read()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    kinds = {"F32": np.float32, "F64": np.float64, "I64": np.int64}
    return {k: torch.from_numpy(np.frombuffer(raw[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]], kinds[v["dtype"]]).reshape(v["shape"]).copy())
            for k, v in header.items() if k != "__metadata__"}


def write_safetensors(path, tensors, metadata):
    kinds = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.bool: "BOOL"}
    header, blob = {"__metadata__": metadata}, b""
    for k, v in tensors.items():
        data = v.detach().contiguous().numpy().tobytes()
        header[k] = {"dtype": kinds[v.dtype], "shape": list(v.shape), "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    open(path, "wb").write(struct.pack("<Q", len(text)) + text + blob)


def open_rgb(path):
    from PIL import Image
    return Image.open(path).convert("RGB")


@torch.no_grad()
def mtcnn(args):
    nets, out = reference_nets(), {}
    for name in ("ivan.jpg", "office3.jpg", "bbt2.jpg"):
        path = glob.glob(os.path.join(DATA, "mtcnn-reference", "*", name))[0]
        s1, s2, b, p = cascade(nets, open_rgb(path))
        rows = lambda t: [[round(float(v), 6) for v in r] for r in t]
        out[name] = {"p": rows(s1), "r": rows(s2), "o": rows(b), "points": [rows(q) for q in p]}
    json.dump(out, open(os.path.join(FIXTURES, "mtcnn_stages.json"), "w"), separators=(",", ":"))


@torch.no_grad()
def boxes(args):
    nets, out = reference_nets(args.weights), {}
    for path in sorted(glob.glob(os.path.join(args.photos, "*.jpg"))):
        try:
            _, _, b, p = cascade(nets, open_rgb(path))
        except RuntimeError:  # no candidate in some stage: facenet-pytorch can't concatenate nothing
            b, p = torch.zeros(0, 5), torch.zeros(0, 5, 2)
        order = torch.argsort(-b[:, 4], stable=True)
        out[os.path.basename(path)] = [{"box": [float(v) for v in b[i, :4]], "prob": float(b[i, 4]), "landmarks": p[i].tolist()} for i in order]
    json.dump(out, open(args.out, "w"), separators=(",", ":"))


# ------------------------------------------------------------------------------------------------------------ ops
class Cases:
    def __init__(self):
        self.rows, self.tensors, self.generator = [], {}, torch.Generator().manual_seed(7)

    def rand(self, *shape, low=-1.0, high=1.0):
        return (torch.rand(shape, generator=self.generator, dtype=torch.float64) * (high - low) + low).requires_grad_()

    def distinct(self, *shape):  # no ties: for pooling and extrema
        n = int(np.prod(shape))
        return (torch.randperm(n, generator=self.generator).double().reshape(shape) / n - .5).requires_grad_()

    def add(self, op, params, f, *inputs, f32=False):
        i = len(self.rows)
        if f32:
            inputs = tuple(t.detach().float().requires_grad_(t.requires_grad) if t.is_floating_point() else t for t in inputs)
        outs = f(*inputs)
        outs = outs if isinstance(outs, tuple) else (outs,)
        row = {"id": i, "op": op, "params": params, "inputs": [], "outputs": [], "grad_out": [], "grads": []}
        go = [torch.rand(o.shape, generator=self.generator, dtype=torch.float64).to(o.dtype) - .5 for o in outs if o.requires_grad]
        wanted = [t for t in inputs if t.requires_grad]
        grads = iter(torch.autograd.grad([o for o in outs if o.requires_grad], wanted, go, allow_unused=True)) if go else iter(())
        for k, t in enumerate(inputs):
            self.tensors[f"c{i}.in{k}"] = t
            row["inputs"].append(f"c{i}.in{k}")
            g = next(grads, None) if t.requires_grad else None
            row["grads"].append(None if g is None else f"c{i}.g{k}")
            if g is not None: self.tensors[f"c{i}.g{k}"] = g
        for k, t in enumerate(outs):
            self.tensors[f"c{i}.out{k}"] = t
            row["outputs"].append(f"c{i}.out{k}")
        for k, t in enumerate(go):
            self.tensors[f"c{i}.go{k}"] = t
            row["grad_out"].append(f"c{i}.go{k}")
        self.rows.append(row)


def ops(args):
    c = Cases()
    R = c.rand
    pair = lambda v: [v, v] if isinstance(v, int) else list(v)

    def conv(x, w, bias, stride=1, padding=(0, 0, 0, 0), dilation=1, groups=1, f32=False):
        p = dict(stride=pair(stride), padding=list(padding), dilation=pair(dilation), groups=groups)
        f = lambda a, b, *r: F.conv2d(F.pad(a, (padding[2], padding[3], padding[0], padding[1])), b, *(r or (None,)), stride=stride, dilation=dilation, groups=groups)
        c.add("conv2d", p, f, R(*x), R(*w), *([R(w[0])] if bias else []), f32=f32)

    for f32 in (False, True):
        for x, w, b, kw in [((1, 3, 8, 8), (4, 3, 3, 3), True, {}), ((2, 3, 7, 9), (5, 3, 3, 3), True, dict(stride=2)), ((2, 4, 6, 6), (6, 2, 3, 3), False, dict(groups=2, padding=(1, 1, 1, 1))),
                            ((1, 4, 5, 5), (1, 4, 2, 3), True, dict(stride=2, padding=(1, 1, 1, 1), dilation=(2, 3))) if False else ((1, 4, 7, 9), (3, 4, 2, 3), True, dict(stride=2, padding=(1, 1, 1, 1), dilation=(2, 3))),
                            ((2, 6, 9, 9), (6, 1, 3, 3), True, dict(groups=6, padding=(1, 1, 1, 1))), ((1, 3, 9, 9), (6, 1, 3, 3), False, dict(groups=3)),
                            ((1, 2, 10, 10), (3, 2, 3, 3), True, dict(dilation=2)), ((2, 3, 6, 7), (4, 3, 1, 1), True, {}), ((1, 3, 8, 6), (2, 3, 1, 5), True, dict(padding=(0, 0, 2, 2))),
                            ((1, 3, 8, 6), (2, 3, 5, 1), False, dict(padding=(2, 2, 0, 0))), ((1, 2, 6, 6), (3, 2, 3, 3), True, dict(padding=(0, 1, 2, 0))),
                            ((1, 2, 11, 8), (3, 2, 3, 2), True, dict(stride=(3, 2), padding=(2, 1, 1, 0))), ((3, 1, 28, 28), (6, 1, 5, 5), True, dict(padding=(2, 2, 2, 2))),
                            ((2, 3, 12, 12), (10, 3, 3, 3), True, {}), ((1, 8, 6, 6), (16, 8, 3, 3), True, {}), ((2, 4, 3, 3), (4, 4, 3, 3), True, {}), ((1, 4, 8, 8), (8, 1, 4, 4), True, dict(groups=4, stride=2, padding=(1, 2, 0, 3)))]:
            conv(x, w, b, f32=f32, **kw)
    for x, w, b, kw in [((1, 3, 4, 4), (3, 3, 3, 3), True, dict(stride=2, padding=2, output_padding=1)), ((2, 2, 4, 4), (2, 2, 4, 5), True, dict(stride=(3, 2), padding=(1, 2), output_padding=(2, 3), groups=2, dilation=4)),
                        ((1, 1, 4, 5), (1, 1, 4, 3), False, dict(stride=2, padding=1, output_padding=1, dilation=(2, 3))), ((2, 8, 4, 4), (8, 1, 3, 3), True, dict(groups=4)),
                        ((1, 3, 5, 5), (3, 2, 3, 3), True, {}), ((1, 2, 4, 4), (2, 3, 2, 2), True, dict(stride=2)), ((2, 4, 3, 3), (4, 2, 3, 3), False, dict(groups=2, padding=1)),
                        ((1, 2, 7, 7), (2, 2, 4, 4), True, dict(stride=2, padding=1)), ((1, 3, 5, 5), (3, 2, 3, 3), True, dict(stride=3, dilation=2, output_padding=2)),
                        ((1, 4, 4, 6), (4, 1, 2, 3), True, dict(groups=4, stride=(1, 2))), ((2, 1, 3, 3), (1, 4, 1, 1), True, {}), ((1, 2, 3, 4), (2, 2, 3, 3), True, dict(dilation=2, padding=1))]:
        p = {k: pair(kw.get(k, d)) for k, d in (("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1))}
        p["groups"] = kw.get("groups", 1)
        c.add("conv_transpose2d", p, lambda a, b, *r, kw=kw: F.conv_transpose2d(a, b, *(r or (None,)), **kw), R(*x), R(*w), *([R(w[1] * p["groups"])] if b else []))
    for k, s, pd, d, ceil in [(2, 2, 0, 1, False), (2, 2, 0, 1, True), (3, 2, 0, 1, True), (3, 2, 1, 1, False), (3, 2, 1, 1, True), (3, 1, 1, 2, False), ((2, 3), (2, 1), (1, 1), (1, 2), True), ((3, 2), (1, 2), 0, 1, False)]:
        for shape in [(2, 3, 7, 7), (1, 2, 8, 5)]:
            c.add("max_pool2d", dict(kernel=pair(k), stride=pair(s), padding=pair(pd), dilation=pair(d), ceil_mode=ceil), lambda a: F.max_pool2d(a, k, s, pd, d, ceil), c.distinct(*shape))
    for k, s, pd, ceil, inc, div in [(2, 2, 0, False, True, 0), (3, 2, 1, False, True, 0), (3, 2, 1, False, False, 0), (3, 2, 1, True, True, 0), (3, 2, 1, True, False, 0), ((2, 3), (2, 1), (1, 0), True, True, 0), (2, 2, 0, True, True, 3), (3, 3, 1, False, False, 2), (3, 1, 0, False, True, 0), (5, 3, 2, True, True, 0)]:
        c.add("avg_pool2d", dict(kernel=pair(k), stride=pair(s), padding=pair(pd), ceil_mode=ceil, count_include_pad=inc, divisor_override=div), lambda a: F.avg_pool2d(a, k, s, pd, ceil, inc, div or None), R(2, 2, 7, 6))
    for size in [(1, 1), (3, 3), (2, 5), (7, 6), (9, 10), (4, 1)]:
        c.add("adaptive_avg_pool2d", dict(size=list(size)), lambda a: F.adaptive_avg_pool2d(a, size), R(2, 2, 7, 6))
    for size, align in [((3, 3), False), ((10, 4), False), ((14, 12), False), ((3, 9), True), ((14, 12), True), ((1, 5), False)]:
        c.add("resize_bilinear", dict(size=list(size), align_corners=align), lambda a: F.interpolate(a, size, mode="bilinear", align_corners=align), R(2, 2, 7, 6))
    away = lambda t: torch.where(t.abs() < .05, t + .2, t).detach().requires_grad_()
    for name, f, params, low, high in [("relu", F.relu, {}, -1, 1), ("sigmoid", torch.sigmoid, {}, -4, 4), ("tanh", torch.tanh, {}, -2, 2), ("exp", torch.exp, {}, -2, 2), ("log", torch.log, {}, .2, 3), ("sqrt", torch.sqrt, {}, .2, 3), ("abs", torch.abs, {}, -1, 1),
                                       ("neg", torch.neg, {}, -1, 1), ("square", torch.square, {}, -1, 1), ("softplus", F.softplus, {}, -25, 25), ("silu", F.silu, {}, -3, 3), ("leaky_relu", lambda a: F.leaky_relu(a, .1), {"slope": .1}, -1, 1), ("clamp", lambda a: a.clamp(-.52, .48), {"min": -.52, "max": .48}, -1, 1)]:
        for f32 in (False, True):
            c.add(name, params, f, away(R(3, 17, low=low, high=high)), f32=f32)
    for shape, n in [((2, 3, 4, 5), 3), ((2, 3, 4, 5), 1), ((4, 6), 6)]:
        c.add("prelu", {}, F.prelu, away(R(*shape)), R(n))
    for shape, dim in [((3, 5), 1), ((3, 5), 0), ((2, 4, 3, 2), 1), ((2, 3, 7), -1)]:
        c.add("softmax", {"dim": dim}, lambda a: F.softmax(a, dim), R(*shape, low=-4, high=4))
        c.add("log_softmax", {"dim": dim}, lambda a: F.log_softmax(a, dim), R(*shape, low=-4, high=4))
    for shape in [(4, 3), (3, 2, 4, 5)]:
        for training in (True, False):
            mean, var = R(shape[1]).detach(), R(shape[1], low=.5, high=2).detach()
            def bn(x, w, b, m, v):
                m, v = m.clone(), v.clone()
                y = F.batch_norm(x, m, v, w, b, training, .1, 1e-3)
                return (y, m, v)
            c.add("batch_norm", dict(training=training, eps=1e-3, momentum=.1), bn, R(*shape), R(shape[1]), R(shape[1]), mean, var)
    for shape, o, bias in [((4, 7), 3, True), ((2, 3, 5), 4, True), ((1, 17), 9, False), ((33, 20), 37, True)]:
        c.add("linear", {}, F.linear, R(*shape), R(o, shape[-1]), *([R(o)] if bias else []))
    for a, b in [((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((1, 7), (7, 1)), ((19, 33), (33, 21))]:
        c.add("matmul", {}, torch.matmul, R(*a), R(*b))
    for name, f in [("add", torch.add), ("sub", torch.sub), ("mul", torch.mul), ("div", torch.div), ("maximum", torch.maximum), ("minimum", torch.minimum)]:
        for a, b in [((3, 4), (3, 4)), ((2, 3, 4), (4,)), ((2, 1, 4), (3, 1))]:
            c.add(name, {}, f, R(*a), R(*b, low=.5, high=2))
    for name, f in [("sum", torch.sum), ("mean", torch.mean), ("max", torch.amax), ("min", torch.amin)]:
        for dims, keep in [([0], False), ([1, 2], True), ([-1], False), ([0, 2], False)]:
            c.add(name, dict(dims=dims, keepdim=keep), lambda a: f(a, dims, keepdim=keep), c.distinct(3, 4, 5))
    c.add("concat", {"dim": 1}, lambda *t: torch.cat(t, 1), R(2, 3, 2), R(2, 1, 2), R(2, 4, 2))
    c.add("concat", {"dim": 0}, lambda *t: torch.cat(t, 0), R(2, 3), R(5, 3))
    for dim, start, stop, step in [(0, 1, 4, 1), (1, 0, 5, 2), (1, 2, 5, 3)]:
        c.add("slice", dict(dim=dim, start=start, stop=stop, step=step), lambda a: a[tuple([slice(None)] * dim + [slice(start, stop, step)])], R(5, 5, 2))
    c.add("pad", dict(pads=[[1, 2], [0, 3]], value=.5), lambda a: F.pad(a, (0, 3, 1, 2), value=.5), R(3, 4))
    c.add("reshape", dict(shape=[6, 4]), lambda a: a.reshape(6, 4), R(2, 3, 4))
    c.add("permute", dict(order=[2, 0, 1]), lambda a: a.permute(2, 0, 1), R(2, 3, 4))
    c.add("expand", dict(shape=[4, 2, 3]), lambda a: a.expand(4, 2, 3), R(2, 1))
    target = torch.tensor([0, 3, 2, 1, -100, 2])
    for red in ("none", "mean", "sum"):
        for smooth in (0.0, .1):
            for weighted in (False, True):
                w = [torch.tensor([.5, 1., 2., .7], dtype=torch.float64)] if weighted else []
                c.add("cross_entropy", dict(reduction=red, label_smoothing=smooth, ignore_index=-100), lambda a, t, *w: F.cross_entropy(a, t, *w, reduction=red, label_smoothing=smooth), R(6, 4, low=-3, high=3), target, *w)
        c.add("bce", dict(reduction=red), lambda a, t: F.binary_cross_entropy(a, t, reduction=red), R(3, 4, low=.05, high=.95), R(3, 4, low=0, high=1).detach())
        c.add("bce_with_logits", dict(reduction=red), lambda a, t: F.binary_cross_entropy_with_logits(a, t, reduction=red), R(3, 4, low=-3, high=3), R(3, 4, low=0, high=1).detach())
        c.add("bce_with_logits", dict(reduction=red), lambda a, t, w: F.binary_cross_entropy_with_logits(a, t, pos_weight=w, reduction=red), R(3, 4, low=-3, high=3), R(3, 4, low=0, high=1).detach(), R(4, low=.5, high=2).detach())
        c.add("smooth_l1", dict(beta=.7, reduction=red), lambda a, t: F.smooth_l1_loss(a, t, beta=.7, reduction=red), R(3, 4, low=-2, high=2), R(3, 4).detach())
        c.add("mse", dict(reduction=red), lambda a, t: F.mse_loss(a, t, reduction=red), R(3, 4), R(3, 4).detach())
    from torchvision.ops import nms
    for n, thr in [(20, .5), (50, .3), (1, .5), (40, .7)]:
        xy, wh = R(n, 2, low=0, high=60).detach(), R(n, 2, low=10, high=40).detach()
        c.add("nms", dict(threshold=thr), lambda b, s: nms(b, s, thr), torch.cat([xy, xy + wh], 1).detach(), R(n, low=0, high=1).detach())
    write_safetensors(os.path.join(FIXTURES, "ops.safetensors"), c.tensors, {"cases": json.dumps(c.rows, separators=(",", ":")), "torch": torch.__version__})
    print(len(c.rows), "cases")


# ------------------------------------------------------------------------------------------------------- training
def hashed(shape, seed, dtype):
    """Reproducible values in [-.5, .5): ((i * 2654435761 + seed * 40503) mod 2^32) / 2^32 - .5."""
    i = np.arange(int(np.prod(shape)), dtype=np.uint64)
    v = (i * np.uint64(2654435761) + np.uint64(seed * 40503)) % np.uint64(2 ** 32)
    return torch.from_numpy((v.astype(np.float64) / 2.0 ** 32 - .5).reshape(shape)).to(dtype)


class LeNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = torch.nn.Conv2d(1, 6, 5, padding=2), torch.nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = torch.nn.Linear(400, 120), torch.nn.Linear(120, 84), torch.nn.Linear(84, 10)

    def forward(self, x):
        x = F.avg_pool2d(torch.sigmoid(self.conv1(x)), 2)
        x = F.avg_pool2d(torch.sigmoid(self.conv2(x)), 2).flatten(1)
        return self.fc3(torch.sigmoid(self.fc2(torch.sigmoid(self.fc1(x)))))


def cascade_net(kind):
    """A net of facenet-pytorch's MTCNN that gives logits: (logits, boxes, points or None)."""
    from facenet_pytorch.models import mtcnn as source
    flat = lambda x: x.permute(0, 3, 2, 1).flatten(1)

    class P(source.PNet):
        def forward(self, x):
            x = self.pool1(self.prelu1(self.conv1(x)))
            x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
            return self.conv4_1(x).flatten(1), self.conv4_2(x).flatten(1), None

    class R(source.RNet):
        def forward(self, x):
            x = self.pool1(self.prelu1(self.conv1(x)))
            x = self.pool2(self.prelu2(self.conv2(x)))
            x = self.prelu4(self.dense4(flat(self.prelu3(self.conv3(x)))))
            return self.dense5_1(x), self.dense5_2(x), None

    class O(source.ONet):
        def forward(self, x):
            x = self.pool1(self.prelu1(self.conv1(x)))
            x = self.pool2(self.prelu2(self.conv2(x)))
            x = self.pool3(self.prelu3(self.conv3(x)))
            x = self.prelu5(self.dense5(flat(self.prelu4(self.conv4(x)))))
            return self.dense6_1(x), self.dense6_2(x), self.dense6_3(x)
    return {"pnet": P, "rnet": R, "onet": O}[kind](pretrained=False)


def three_task_loss(out, labels, box, points):
    logits, b, p = out
    each = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")[labels >= 0]
    kept = each.topk(max(1, int(.7 * len(each)))).values.mean()
    sq = lambda a, t, m: ((a - t) ** 2).sum(1)[m].mean()
    return kept + .5 * sq(b, box, labels.abs() == 1) + sq(p, points, labels == -2)


def start(net, dtype):
    """Weights from the hash: U(-.5, .5) * 2 * sqrt(3 / fan_in) for matrices (the variance of 1 / fan_in), 0 for biases, .25 for PReLU."""
    net = net.to(dtype)
    with torch.no_grad():
        for k, (name, p) in enumerate(net.named_parameters()):
            if p.dim() >= 2:
                p.copy_(hashed(p.shape, 100 + k, dtype) * (2 * (3 / p[0].numel()) ** .5))
            elif "prelu" in name: p.fill_(.25)
            else: p.zero_()
    return net


def training(args):
    out = {"lenet": {}, "onet": {}}
    for kind, lr in (("lenet", .1), ("onet", .002)):
        for dtype in (torch.float64, torch.float32):
            net = start(LeNet() if kind == "lenet" else cascade_net("onet"), dtype)
            opt = torch.optim.SGD(net.parameters(), lr=lr, momentum=.9, weight_decay=5e-4)
            curve = []
            for step in range(50):
                n = 16
                if kind == "lenet":
                    x, y = hashed((n, 1, 28, 28), 1000 + step, dtype), torch.arange(n) * 7 % 10
                    loss = F.cross_entropy(net(x), y)
                else:
                    x = hashed((n, 3, 48, 48), 1000 + step, dtype)
                    labels = torch.tensor([1, 0, -1, -2] * 4)
                    loss = three_task_loss(net(x), labels, hashed((n, 4), 2000 + step, dtype), hashed((n, 10), 3000 + step, dtype))
                opt.zero_grad(); loss.backward(); opt.step()
                curve.append(float(loss))
            out[kind]["f64" if dtype == torch.float64 else "f32"] = curve
            if dtype == torch.float64:
                out[kind]["weights"] = {name: [float(p.sum()), float(p.abs().sum())] + [float(v) for v in p.flatten()[:4]] for name, p in net.named_parameters()}
        out[kind]["lr"] = lr
    json.dump(out, open(os.path.join(FIXTURES, "training.json"), "w"), indent=0)


def masked_loss(out, labels, box, points, kept):
    """three_task_loss in fixed shapes, which is faster and compiles whole; `kept` samples count for the class."""
    logits, b, p = out
    each = F.cross_entropy(logits, labels.clamp(min=0), reduction="none").masked_fill(labels < 0, -torch.inf)
    def sq(a, t, m): return (((a - t) ** 2).sum(1) * m).sum() / m.sum()
    loss = each.topk(kept).values.mean() + .5 * sq(b, box, labels.abs() == 1)
    return loss if p is None else loss + sq(p, points, labels == -2)


def step(args):
    """CPU time of one training step, median: each round gives every form of PyTorch and the command --beside its turn."""
    import subprocess
    torch.set_num_threads(args.threads)
    n = args.batch or {"pnet": 512, "rnet": 512}.get(args.net, 256)
    size = {"pnet": 12, "rnet": 24, "onet": 48, "lenet": 28}[args.net]
    picture = hashed((n, 1 if args.net == "lenet" else 3, size, size), 1, torch.float32)
    labels = torch.tensor({"lenet": [0, 7, 4, 1, 8, 5, 2, 9, 6, 3], "onet": [1, 0, -1, -2]}.get(args.net, [1, 0, -1, 0])).repeat(n)[:n]
    box, points, kept = hashed((n, 4), 2, torch.float32), hashed((n, 10), 3, torch.float32), max(1, int(.7 * int((labels >= 0).sum())))

    def form(name):
        last = "channels_last" in name
        net = start(LeNet() if args.net == "lenet" else cascade_net(args.net), torch.float32).to(memory_format=torch.channels_last if last else torch.contiguous_format)
        x = picture.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        opt = torch.optim.SGD(net.parameters(), lr=.001, momentum=.9, weight_decay=5e-4, fused=True)
        def loss(x): return F.cross_entropy(net(x), labels) if args.net == "lenet" else masked_loss(net(x), labels, box, points, kept)
        f = torch.compile(loss) if "compile" in name else loss
        def run():
            t = time.process_time()
            f(x).backward(); opt.step(); opt.zero_grad()
            return time.process_time() - t
        for _ in range(3): run()
        return run
    forms, times, beside = {name: form(name) for name in args.forms}, {name: [] for name in args.forms}, {}
    for _ in range(args.rounds):
        for name, run in forms.items(): times[name] += [run() for _ in range(args.steps)]
        for command in args.beside:
            result = json.loads(subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            beside.setdefault(command, []).append(result["cpu_ms"])
    median = lambda v: round(float(np.median(v)), 3)
    print(json.dumps({"torch": torch.__version__, "net": args.net, "batch": n, "threads": args.threads, "ms": {k: median(np.array(v) * 1000) for k, v in times.items()},
                      "beside_ms": {k: median(v) for k, v in beside.items()}}))


def lenet(args):
    import gzip
    torch.set_num_threads(args.threads)
    def idx(name, skip): return np.frombuffer(gzip.open(os.path.join(args.folder, name)).read()[skip:], np.uint8)
    load = lambda s: (torch.from_numpy(idx(s + "-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).copy()).float() / 255, torch.from_numpy(idx(s + "-labels-idx1-ubyte.gz", 8).copy()).long())
    (x, y), (tx, ty) = load("train"), load("t10k")
    for seed in args.seeds:
        torch.manual_seed(seed)
        net = LeNet()
        for m in net.modules():
            if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)): torch.nn.init.xavier_uniform_(m.weight)
        opt, t = torch.optim.SGD(net.parameters(), lr=.9), time.time()
        for epoch in range(args.epochs):
            order = torch.randperm(len(x))
            for i in range(0, len(x) - 255, 256):
                rows = order[i:i + 256]
                loss = F.cross_entropy(net(x[rows]), y[rows])
                opt.zero_grad(); loss.backward(); opt.step()
        seconds = (time.time() - t) / args.epochs
        with torch.no_grad(): accuracy = float((net(tx).argmax(1) == ty).float().mean())
        print(json.dumps({"seed": seed, "test_accuracy": round(accuracy, 4), "seconds_per_epoch": round(seconds, 2), "torch": torch.__version__, "threads": args.threads}), flush=True)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="what", required=True)
    for f in (ops, training, mtcnn):
        sub.add_parser(f.__name__).set_defaults(run=f)
    p = sub.add_parser("boxes"); p.set_defaults(run=boxes); p.add_argument("--weights", required=True); p.add_argument("--photos", required=True); p.add_argument("--out", required=True)
    p = sub.add_parser("step"); p.set_defaults(run=step); p.add_argument("--net", choices=["pnet", "rnet", "onet", "lenet"], default="onet")
    p.add_argument("--batch", type=int); p.add_argument("--threads", type=int, default=1); p.add_argument("--steps", type=int, default=3, help="of a round"); p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--forms", nargs="*", default=["eager", "eager channels_last", "compile", "compile channels_last"]); p.add_argument("--beside", nargs="*", default=[])
    p = sub.add_parser("lenet"); p.set_defaults(run=lenet); p.add_argument("--folder", default="/usr/share/datasets/fashion-mnist"); p.add_argument("--epochs", type=int, default=10)
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3]); p.add_argument("--threads", type=int, default=2)
    a = ap.parse_args()
    if a.what in ("ops", "training", "mtcnn", "boxes"): torch.set_num_threads(1)
    a.run(a)
