#!/usr/bin/env python3
"""PyTorch on a GPU, measured as `mien bench` measures mien: the other side of `gpu-check`'s comparison. Needs torch and numpy; PIL or torchvision to read a picture.

  gpu_peers.py train --model facenet --batch 256 --dtype bf16 --compile     a training step of Inception-ResNet-v1
  gpu_peers.py embed --batch 1 --dtype f32 --compile                        its inference
  gpu_peers.py detect PICTURE --weights mtcnn.safetensors [--boxes B.json]  facenet-pytorch's MTCNN, from a decoded picture in host memory to boxes and points there
  gpu_peers.py all OUT.json --budget 300 [--picture P --weights W]          these in turn, as many as fit

The last line is one JSON object (schema mien.gpu_peers/1). Every way to run the work is a "form" under details.forms, and the fastest one counts: `best` names it, median_ms is
its time. Lines before it with "complete": false hold what is known so far, for a caller whose patience ends first (compiling takes long). Exit code 69: no GPU.
"""
import argparse, contextlib, gc, json, os, signal, struct, subprocess, sys, time
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SCHEMA = "mien.gpu_peers/1"
# --- measuring ----------------------------------------------------------------------------------------------------------------
def measure(run, seconds, device, most=1000):
    """Wall time of `run` with a wait for the device after each call. Warm-up: at least three calls and a tenth of the time; `first_s` holds what the first
    call cost (compiling, cuDNN's choice of algorithms). `pipelined_ms`: calls one after the other, waiting only at the end."""
    wait, now = torch.cuda.synchronize if device.type == "cuda" else lambda: None, time.perf_counter
    def timed(calls=1):
        start = now()
        for _ in range(calls): run()
        wait()
        return 1e3 * (now() - start) / calls
    wait()
    first, begin, times = timed(), now(), []
    timed(2)
    while now() - begin < seconds / 10: timed()
    gc.collect(); begin = now()
    while len(times) < 3 or (len(times) < most and now() - begin < seconds * .8): times.append(timed())
    p10, median, p90 = (round(float(v), 4) for v in np.percentile(times, [10, 50, 90]))
    return {"median_ms": median, "p10": p10, "p90": p90, "repeats": len(times), "first_s": round(first / 1e3, 2),
            "pipelined_ms": round(timed(int(max(2, min(50, seconds * 100 / median)))), 4)}

class Report:
    """Collects forms; prints a line after each."""
    def __init__(self, name, a, device, **details):
        self.forms, self.details, self.device = {}, {"cudnn_benchmark": True, **details}, device
        self.head = {"schema": SCHEMA, "name": name, "dtype": getattr(a, "dtype", "f32"), "batch": getattr(a, "batch", 1)}
        self.tail = {"torch": torch.__version__, "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"}
    def add(self, form, prepare, seconds, more=lambda: {}):
        """`prepare` makes what is measured; `more` tells about it afterwards. A form that can't run (no compiler, no memory left) is reported, and others follow."""
        try: self.forms[form] = {**measure(prepare(), seconds, self.device), **more()}
        except Exception as e: self.forms[form] = {"error": f"{type(e).__name__}: {e}"[:600]}
        if self.device.type == "cuda":
            self.forms[form]["peak_GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            gc.collect(); torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()
        self.show(False)
    def best(self):
        known = {k: v["median_ms"] for k, v in self.forms.items() if "error" not in v}
        return min(known, key=known.get) if known else None
    def show(self, complete=True):
        best = self.best()
        figures = {k: self.forms[best][k] if best else None for k in ("median_ms", "p10", "p90", "repeats")}
        print(json.dumps({**self.head, **figures, "best": best, "complete": complete, "details": {**self.details, "forms": self.forms}, **self.tail}), flush=True)
        return 0 if best else 1

def set_up(a):
    """f32 means f32: no TF32. cuDNN may try its algorithms and keep the fastest."""
    if a.device.startswith("cuda") and not torch.cuda.is_available():
        print("gpu_peers: PyTorch finds no GPU", file=sys.stderr); sys.exit(69)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True; torch.manual_seed(1)
    return torch.device(a.device)

# --- Inception-ResNet-v1, with facenet-pytorch's structure and names ------------------------------------------------------------
# A convolution: (outputs, kernel, stride, padding).
def one(n): return n, 1, 1, 0
def same(n): return n, 3, 1, 1
def half(n): return n, 3, 2, 0
def row(n, k): return n, (1, k), 1, (0, k // 2)
def column(n, k): return n, (k, 1), 1, (k // 2, 0)
def wide(n, k): return [[one(n)], [one(n), row(n, k), column(n, k)]]

class Conv(nn.Module):
    def __init__(self, inputs, spec):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, *spec, bias=False), nn.BatchNorm2d(spec[0], eps=1e-3)
    def forward(self, x): return F.relu(self.bn(self.conv(x)), inplace=True)

class Mixed(nn.Module):
    """Branches side by side (an empty one is the pooling), then, with a scale, relu(scale * conv2d(branches) + x)."""
    def __init__(self, inputs, branches, scale=None, rectify=True):
        super().__init__()
        self.scale, self.rectify, self.count, total = scale, rectify, len(branches), 0
        for i, specs in enumerate(branches):
            outputs = [inputs] + [s[0] for s in specs]
            convs = [Conv(c, s) for c, s in zip(outputs, specs)]
            setattr(self, f"branch{i}", nn.MaxPool2d(3, 2) if not convs else convs[0] if len(convs) == 1 else nn.Sequential(*convs))
            total += outputs[-1]
        if scale is not None: self.conv2d = nn.Conv2d(total, inputs, 1)
    def forward(self, x):
        y = torch.cat([getattr(self, f"branch{i}")(x) for i in range(self.count)], 1)
        if self.scale is None: return y
        y = self.conv2d(y) * self.scale + x
        return F.relu(y, inplace=True) if self.rectify else y

class InceptionResnetV1(nn.Module):
    """Gives embeddings before L2 normalisation; no dropout, as mien's benchmark."""
    def __init__(self, classes=0):
        super().__init__()
        inputs = 3
        for name, spec in (("1a", half(32)), ("2a", (32, 3, 1, 0)), ("2b", same(64)), ("3b", one(80)), ("4a", (192, 3, 1, 0)), ("4b", half(256))):
            setattr(self, "conv2d_" + name, Conv(inputs, spec))
            inputs = spec[0]
        self.repeat_1 = nn.Sequential(*[Mixed(256, [[one(32)], [one(32), same(32)], [one(32), same(32), same(32)]], .17) for _ in range(5)])
        self.mixed_6a = Mixed(256, [[half(384)], [one(192), same(192), half(256)], []])
        self.repeat_2 = nn.Sequential(*[Mixed(896, wide(128, 7), .1) for _ in range(10)])
        self.mixed_7a = Mixed(896, [[one(256), half(384)], [one(256), half(256)], [one(256), same(256), half(256)], []])
        self.repeat_3 = nn.Sequential(*[Mixed(1792, wide(192, 3), .2) for _ in range(5)])
        self.block8 = Mixed(1792, wide(192, 3), 1, False)
        self.last_linear, self.last_bn = nn.Linear(1792, 512, bias=False), nn.BatchNorm1d(512, eps=1e-3)
        if classes: self.logits = nn.Linear(512, classes)
    def forward(self, x):
        x = F.max_pool2d(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x))), 3, 2)
        x = self.repeat_1(self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(x))))
        x = self.block8(self.repeat_3(self.mixed_7a(self.repeat_2(self.mixed_6a(x)))))
        return self.last_bn(self.last_linear(x.mean((2, 3))))

def folded(net):
    """The batch norms into the layers before them; in f32, so before any cast."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
    for m in net.modules():
        if isinstance(m, Conv): m.conv, m.bn = fuse_conv_bn_eval(m.conv, m.bn), nn.Identity()
    net.last_linear, net.last_bn = fuse_linear_bn_eval(net.last_linear, net.last_bn), nn.Identity()
    return net

LAYOUTS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}
def layouts_of(a):
    """cuDNN's f32 kernels without TF32 may prefer either layout, so both are tried; in bf16 the tensor cores want channels_last."""
    return [a.layout] if a.layout != "auto" else ["channels_last"] + (["nchw"] if a.dtype == "f32" else [])

def compiled(what, mode): return torch.compile(what, dynamic=False, mode=None if mode == "default" else mode)

# --- train and embed ------------------------------------------------------------------------------------------------------------
def train(a):
    device, layouts, losses = set_up(a), layouts_of(a), {}
    mode = "max-autotune-no-cudagraphs" if a.max_autotune else "default"
    report = Report("facenet train", a, device, classes=a.classes, image=a.side, loss="softmax over embeddings", optimizer="SGD momentum .9, weight decay 5e-4, fused",
                    precision="autocast to bf16, f32 weights" if a.dtype == "bf16" else "f32, TF32 off", timing="data on the device; wall, waiting for it after each step")
    x0, labels = torch.randn(a.batch, 3, a.side, a.side, device=device), torch.randint(a.classes, (a.batch,), device=device)

    def add(form, layout, compile=False):
        form = f"{form} {layout}"
        def prepare():
            torch.manual_seed(2)  # every form starts from the same weights, so the first losses can be compared
            net, x = InceptionResnetV1(a.classes).train().to(device, memory_format=LAYOUTS[layout]), x0.contiguous(memory_format=LAYOUTS[layout])
            optimizer = torch.optim.SGD(net.parameters(), lr=.001, momentum=.9, weight_decay=5e-4, fused=True)
            value = lambda x, labels: F.cross_entropy(net.logits(net(x)), labels)
            if compile: value = compiled(value, mode)
            def step():
                with torch.autocast(device.type, torch.bfloat16, enabled=a.dtype == "bf16"): loss = value(x, labels)
                loss.backward(); optimizer.step(); optimizer.zero_grad(set_to_none=True)
                if form not in losses: losses[form] = round(float(loss.detach()), 5)
            return step
        report.add(form, prepare, a.seconds / (len(layouts) + a.compile), lambda: {"first_loss": losses[form]})

    for layout in layouts: add("eager", layout)
    if a.compile: add(f"compile {mode}", (report.best() or layouts[0]).split()[-1], True)
    return report.show()

@torch.no_grad()
def embed(a):
    device, layouts, outputs = set_up(a), layouts_of(a), {}
    cuda, dtype = device.type == "cuda", torch.bfloat16 if a.dtype == "bf16" else torch.float32
    # Few pictures: launching kernels is what costs, and recorded graphs take that away.
    mode = "max-autotune-no-cudagraphs" if a.max_autotune else "reduce-overhead" if a.batch <= 16 else "default"
    report = Report("facenet embed", a, device, image=a.side, precision="bf16 weights and values" if a.dtype == "bf16" else "f32, TF32 off",
                    timing="input on the device; wall, waiting for it after each run")
    x0 = torch.randn(a.batch, 3, a.side, a.side, device=device).to(dtype)

    def recorded(net, x):
        static, graph = x.clone(), torch.cuda.CUDAGraph()
        for _ in range(3): net(static)  # cuDNN makes its choice
        with torch.cuda.graph(graph): out = net(static)
        def replay(x):
            static.copy_(x); graph.replay()
            return out
        return replay

    def add(form, layout, fold=False, record=False, compile=False):
        form = f"{form} {layout}"
        def prepare():
            torch.manual_seed(2)
            net = InceptionResnetV1().eval()
            for m in net.modules():  # values that keep their size through the net and statistics as after training: so outputs of two forms can be compared
                if isinstance(m, nn.Conv2d): nn.init.kaiming_normal_(m.weight)
                if hasattr(m, "running_var"): m.running_mean.normal_(0, .2); m.running_var.uniform_(.5, 1.5)
            net = (folded(net) if fold else net).to(device, dtype).to(memory_format=LAYOUTS[layout])
            x = x0.contiguous(memory_format=LAYOUTS[layout])
            net = recorded(net, x) if record else compiled(net, mode) if compile else net
            return lambda: outputs.__setitem__(form, net(x))
        def difference():
            outputs[form] = outputs[form].float().clone()  # recorded graphs write over theirs
            first = next(iter(outputs.values()))
            return {"relative_difference": round(float((outputs[form] - first).abs().max() / first.abs().max()), 9)}
        report.add(form, prepare, a.seconds / (len(layouts) + 2 * cuda + a.compile), difference)

    for layout in layouts: add("eager", layout)
    layout = (report.best() or layouts[0]).split()[-1]
    for fold in (False, True) if cuda else (): add(f"CUDA graph{', batch norms folded,' if fold else ''}", layout, fold, record=True)
    if a.compile: add(f"compile {mode}", layout, compile=True)
    return report.show()

# --- detect: facenet-pytorch's nets and detect_face -----------------------------------------------------------------------------
def stage(s, pools, dense, heads):
    """A net from its parameters: convolutions with PReLU and pooling (a window or 0), perhaps a dense layer with PReLU, heads: probabilities, offsets and (O-Net) points."""
    def forward(x):
        for i, window in enumerate(pools, 1):
            x = F.prelu(F.conv2d(x, s[f"conv{i}.weight"], s[f"conv{i}.bias"]), s[f"prelu{i}.weight"])
            if window: x = F.max_pool2d(x, window, 2, ceil_mode=True)
        if dense:  # its weights are in the order width, height, channel
            x = F.prelu(F.linear(x.permute(0, 3, 2, 1).flatten(1), s[dense + ".weight"], s[dense + ".bias"]), s[f"prelu{len(pools) + 1}.weight"])
        out = [(F.linear if dense else F.conv2d)(x, s[h + ".weight"], s[h + ".bias"]) for h in heads]
        return (out[0].softmax(1), *out[1:])
    return forward

def mtcnn(path, device):
    """From mien's file of the three nets, or a folder with facenet-pytorch's pnet.pt, rnet.pt and onet.pt: the names and layouts are the same."""
    if os.path.isdir(path): state = {f"{n}.{k}": v for n in ("pnet", "rnet", "onet") for k, v in torch.load(os.path.join(path, n + ".pt"), weights_only=True).items()}
    else:
        with open(path, "rb") as f: data = f.read()
        start = 8 + struct.unpack("<Q", data[:8])[0]
        state = {n: torch.from_numpy(np.frombuffer(data[start + t["data_offsets"][0]:start + t["data_offsets"][1]], "<f4").reshape(t["shape"]).copy())
                 for n, t in json.loads(data[8:start]).items() if n != "__metadata__"}
    part = lambda name: {k[5:]: v.to(device) for k, v in state.items() if k.startswith(name + ".")}
    return [stage(part("pnet"), (2, 0, 0), None, ("conv4_1", "conv4_2")), stage(part("rnet"), (3, 3, 0), "dense4", ("dense5_1", "dense5_2")),
            stage(part("onet"), (3, 3, 2, 0), "dense5", ("dense6_1", "dense6_2", "dense6_3"))]

try:
    from torchvision.ops import batched_nms
except Exception:  # missing, or made for another torch
    batched_nms = None
def nms(boxes, scores, threshold, of_smaller=False):
    """`of_smaller`: facenet-pytorch's own last suppression, by the share of the smaller box, in pixels counted inclusively, on the host."""
    if batched_nms and not of_smaller: return batched_nms(boxes, scores, torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device), threshold)  # all of one picture
    b, order, keep, plus = boxes.cpu().numpy(), scores.cpu().numpy().argsort(kind="stable")[::-1], [], int(of_smaller)
    area = (b[:, 2:] - b[:, :2] + plus).prod(1)
    while len(order):
        i, rest = order[0], order[1:]
        keep.append(i)
        inter = (np.minimum(b[i, 2:], b[rest, 2:]) - np.maximum(b[i, :2], b[rest, :2]) + plus).clip(0).prod(1)
        order = rest[inter / (np.minimum(area[i], area[rest]) if of_smaller else area[i] + area[rest] - inter) <= threshold]
    return torch.as_tensor(np.array(keep, np.int64), device=boxes.device)

def normalised(x): return (x - 127.5) * .0078125
def moved(boxes, offsets, plus):
    """Each side by its offset times the box's width or height (`plus` 1: counted inclusively)."""
    return boxes + offsets * (boxes[:, 2:] - boxes[:, :2] + plus).repeat(1, 2)
def squared(boxes):
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.max(1, keepdim=True).values
    corner = boxes[:, :2] + size * .5 - side * .5
    return torch.cat([corner, corner + side], 1)

def judged(image, boxes, side, net, threshold):
    """Crops cut and resized one by one, then through the net 512 at a time: boxes, scores, offsets (and points) of those above the threshold."""
    h, w = image.shape[2:]
    b = boxes.trunc().int().cpu().numpy()
    x1, y1, x2, y2 = b[:, 0].clip(1), b[:, 1].clip(1), b[:, 2].clip(max=w), b[:, 3].clip(max=h)
    good = np.flatnonzero((x2 > x1 - 1) & (y2 > y1 - 1))
    cut = [F.interpolate(image[:, :, y1[k] - 1:y2[k], x1[k] - 1:x2[k]], size=(side, side), mode="area") for k in good]
    cut = normalised(torch.cat(cut)) if cut else image.new_zeros(0, 3, side, side)
    probabilities, *rest = [torch.cat(v) for v in zip(*[net(cut[i:i + 512]) for i in range(0, max(1, len(cut)), 512)])]
    if len(good) < len(boxes): boxes = boxes[torch.as_tensor(good, device=boxes.device)]
    passed = probabilities[:, 1] > threshold
    return [v[passed] for v in (boxes, probabilities[:, 1], *rest)]

@torch.no_grad()
def detect_faces(picture, nets, device, min_face=20, thresholds=(.6, .7, .7), factor=.709, trace=None):
    """Boxes [n, 4], scores [n], points [n, 5, 2] in host memory, of a uint8 picture [h, w, 3] there. `trace`: takes the numbers of boxes between the nets."""
    pnet, rnet, onet = nets
    image = torch.from_numpy(picture)[None].to(device).permute(0, 3, 1, 2).float()
    h, w = image.shape[2:]
    scale, smallest, found = 12 / min_face, min(h, w) * (12 / min_face), [image.new_zeros(0, 9)]
    while smallest >= 12:
        small = F.interpolate(image, size=(int(h * scale + 1), int(w * scale + 1)), mode="area")
        probabilities, offsets = pnet(normalised(small))
        mask = probabilities[0, 1] >= thresholds[0]
        cell, score = mask.nonzero().float().flip(1) * 2, probabilities[0, 1][mask]
        boxes = torch.cat([((cell + 1) / scale).floor(), ((cell + 12) / scale).floor()], 1)
        found.append(torch.cat([boxes, score[:, None], offsets[0][:, mask].T], 1)[nms(boxes, score, .5)])
        scale, smallest = scale * factor, smallest * factor
    found = torch.cat(found)
    found = found[nms(found[:, :4], found[:, 4], .7)]
    proposals = squared(moved(found[:, :4], found[:, 5:], 0))
    boxes, score, offsets = judged(image, proposals, 24, rnet, thresholds[1])
    keep = nms(boxes, score, .7)
    refined = squared(moved(boxes[keep], offsets[keep], 1))
    boxes, score, offsets, points = judged(image, refined, 48, onet, thresholds[2])
    points = points.view(len(points), 2, 5).transpose(1, 2) * (boxes[:, None, 2:] - boxes[:, None, :2] + 1) + boxes[:, None, :2] - 1
    boxes = moved(boxes, offsets, 1)
    keep = nms(boxes, score, .7, of_smaller=True)
    if trace is not None: trace.update(proposals=len(proposals), refined=len(refined))
    return tuple(v[keep].cpu().numpy() for v in (boxes, score, points))

def read_picture(path):
    try:
        from PIL import Image
        return np.array(Image.open(path).convert("RGB")), "PIL"
    except ImportError:
        from torchvision.io import ImageReadMode, read_image
        return np.ascontiguousarray(read_image(path, ImageReadMode.RGB).permute(1, 2, 0).numpy()), "torchvision"

def expected_faces(path, picture):
    """(boxes, points) of a file with {"faces": [{"box", "landmarks" or "points"}]}, as `mien detect` writes, or with such an object for each name of a picture."""
    with open(path, encoding="utf-8") as f: j = json.load(f)
    if "faces" not in j: j = j[os.path.basename(picture)] if os.path.basename(picture) in j or len(j) != 1 else next(iter(j.values()))
    return np.array([f["box"] for f in j["faces"]], float).reshape(-1, 4), np.array([f.get("landmarks", f.get("points")) for f in j["faces"]], float).reshape(-1, 5, 2)

def worst(found, boxes, points):
    """Largest difference in pixels of boxes and of points, each face with the nearest one; None when the numbers of faces differ."""
    if len(found[0]) != len(boxes): return {"faces": len(found[0]), "expected": len(boxes), "box": None, "point": None}
    nearest = [int(np.abs(found[0] - b).max(1).argmin()) for b in boxes]
    far = lambda a, b: round(float(np.abs(a - b).max()), 5) if len(a) else 0.
    return {"faces": len(boxes), "expected": len(boxes), "box": far(found[0][nearest], boxes), "point": far(found[2][nearest], points)}

def detect(a):
    device, cuda, trace, checks = set_up(a), a.device.startswith("cuda"), {}, {}
    (picture, reader), nets = read_picture(a.picture), mtcnn(a.weights, device)
    torch.backends.cudnn.benchmark = False
    found = detect_faces(picture, nets, device, a.min_face, trace=trace)
    if a.boxes: checks["stored"] = worst(found, *expected_faces(a.boxes, a.picture))
    if cuda: checks["same code on the CPU"] = worst(found, *detect_faces(picture, mtcnn(a.weights, "cpu"), torch.device("cpu"), a.min_face)[::2])
    report = Report("mtcnn detect", a, device, picture=os.path.basename(a.picture), size=[picture.shape[1], picture.shape[0]], reader=reader, min_face=a.min_face,
                    nms="torchvision.ops.batched_nms" if batched_nms else "own, on the host", faces=len(found[0]), **trace, boxes=found[0].round(3).tolist(),
                    scores=found[1].tolist(), differences_px=checks, precision="f32, TF32 off", cudnn_benchmark="as the form says",
                    timing="decoded picture in host memory to results in host memory")
    # With benchmark, cuDNN tries its algorithms for every new size: right for one picture again and again, slow for pictures of many sizes.
    for benchmark in (False, True)[:1 + cuda]:
        torch.backends.cudnn.benchmark = benchmark
        report.add(f"eager, cudnn.benchmark {'on' if benchmark else 'off'}", lambda: lambda: detect_faces(picture, nets, device, a.min_face), a.seconds / (1 + cuda))
    return report.show()

# --- all ----------------------------------------------------------------------------------------------------------------------
def everything(a):
    """Each row in a process of its own. A row starts while its least time is left, and ends with the budget: then the line that it printed last counts."""
    end, runs, skipped = time.time() + a.budget, [], []
    train_row = lambda dtype: (40, ["train", "--batch", "256", "--dtype", dtype, "--compile"])
    embed_row = lambda batch, dtype: (25, ["embed", "--batch", batch, "--dtype", dtype, "--compile"])
    rows = [train_row("bf16"), embed_row("1", "f32"), train_row("f32"), embed_row("256", "f32"), embed_row("256", "bf16"), embed_row("1", "bf16")]
    if a.picture: rows.insert(1, (20, ["detect", a.picture, "--weights", a.weights, "--min-face", str(a.min_face)] + (["--boxes", a.boxes] if a.boxes else [])))
    for least, args in rows:
        name, left, line = " ".join(args), end - time.time(), None
        if a.only and not any(part in name for part in a.only.split(",")): continue
        if a.small: args, least = ["2" if x == "256" else x for x in args if x != "--compile"] + ["--seconds", "1"], 1
        reason = f"{left:.0f} s are left, it needs {least} or more" if left < least else None
        if not reason:
            p = subprocess.Popen([sys.executable, os.path.realpath(__file__), *args, "--device", a.device], stdout=subprocess.PIPE, text=True, start_new_session=True)
            try: text, _ = p.communicate(timeout=left)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError): os.killpg(p.pid, signal.SIGKILL)  # the compiler's workers too
                text, reason = p.communicate()[0], "cut off by the budget"
            for l in text.splitlines():
                with contextlib.suppress(ValueError): line = json.loads(l) if l.startswith("{") else line
            if line: runs.append(line)
            if not reason and not (line and line["complete"]): reason = f"exit code {p.returncode}"
        if reason: skipped.append({"row": name, "reason": reason, "partly": bool(line)})
        print(f"  {name}: {line['median_ms'] if line else None} ms {reason or ''}", flush=True)
        result = {"schema": SCHEMA, "name": "all", "budget_s": a.budget, "used_s": round(a.budget - (end - time.time()), 1), "runs": runs, "skipped": skipped}
        with open(a.out, "w", encoding="utf-8") as f: json.dump(result, f, indent=1)
    print(json.dumps(result) if runs or skipped else "{}")
    return 0 if runs else 1

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="command", required=True)
    t, e, d, every = [sub.add_parser(n) for n in ("train", "embed", "detect", "all")]
    for c, run, seconds in ((t, train, 20), (e, embed, 8), (d, detect, 8), (every, everything, None)):
        c.set_defaults(run=run)
        c.add_argument("--device", default="cuda")
        if seconds: c.add_argument("--seconds", type=float, default=seconds, help="of measuring, over all forms")
    for c, batch in ((t, 256), (e, 1)):
        c.add_argument("--model", default="facenet", choices=["facenet", "inception-resnet-v1"])
        c.add_argument("--batch", type=int, default=batch)
        c.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
        c.add_argument("--compile", action="store_true"); c.add_argument("--max-autotune", action="store_true", help="compile with max-autotune-no-cudagraphs: minutes")
        c.add_argument("--layout", default="auto", choices=["auto", *LAYOUTS])
        c.add_argument("--side", type=int, default=160, help="of the pictures, in pixels")
    t.add_argument("--classes", type=int, default=10575)
    for c in (d, every):
        c.add_argument("--weights", required=c is d, help="mien's mtcnn.safetensors, or a folder with facenet-pytorch's three .pt files")
        c.add_argument("--min-face", type=float, default=20)
        c.add_argument("--boxes", help="what must be found: JSON of `mien detect`, or faces under each picture's name")
    d.add_argument("picture")
    every.add_argument("out"); every.add_argument("--picture")
    every.add_argument("--budget", type=float, default=300, help="seconds")
    every.add_argument("--only", default="", help="parts of rows' command lines, with commas between")
    every.add_argument("--small", action="store_true", help="tiny sizes, nothing compiled: to try the program itself")
    a = p.parse_args()
    if a.command == "all" and a.picture and not a.weights: p.error("all: --picture needs --weights")
    return a.run(a)

if __name__ == "__main__":
    sys.exit(main())
