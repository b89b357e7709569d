#!/usr/bin/env python3
"""The same convolutions by oneDNN through PyTorch (channels_last, siblings merged, bias; without residual and activation): peer.py irv1|mfn BATCH [mkldnn]

`mkldnn` packs the weights beforehand (torch.utils.mkldnn), as an inference engine would."""
import sys, time
import torch

torch.set_num_threads(1)
net, batch, packed = sys.argv[1], int(sys.argv[2]), len(sys.argv) > 3
IRV1 = [  # name, in, size, out, kernel, stride, padding, count
    ("1a 3x3/2 3>32 stem", 3, 160, 32, (3, 3), 2, (0, 0), 1), ("2a 3x3 32>32", 32, 79, 32, (3, 3), 1, (0, 0), 1),
    ("2b 3x3 32>64 p1", 32, 77, 64, (3, 3), 1, (1, 1), 1), ("3b 1x1 64>80", 64, 38, 80, (1, 1), 1, (0, 0), 1),
    ("4a 3x3 80>192", 80, 38, 192, (3, 3), 1, (0, 0), 1), ("4b 3x3/2 192>256", 192, 36, 256, (3, 3), 2, (0, 0), 1),
    ("35 1x1 256>3x32", 256, 17, 96, (1, 1), 1, (0, 0), 5), ("35 3x3 32>32 p1", 32, 17, 32, (3, 3), 1, (1, 1), 15),
    ("35 1x1 96>256", 96, 17, 256, (1, 1), 1, (0, 0), 5), ("6a 3x3/2 256>384", 256, 17, 384, (3, 3), 2, (0, 0), 1),
    ("6a 1x1 256>192", 256, 17, 192, (1, 1), 1, (0, 0), 1), ("6a 3x3 192>192 p1", 192, 17, 192, (3, 3), 1, (1, 1), 1),
    ("6a 3x3/2 192>256", 192, 17, 256, (3, 3), 2, (0, 0), 1), ("17 1x1 896>2x128", 896, 8, 256, (1, 1), 1, (0, 0), 10),
    ("17 1x7 128>128", 128, 8, 128, (1, 7), 1, (0, 3), 10), ("17 7x1 128>128", 128, 8, 128, (7, 1), 1, (3, 0), 10),
    ("17 1x1 256>896", 256, 8, 896, (1, 1), 1, (0, 0), 10), ("7a 1x1 896>3x256", 896, 8, 768, (1, 1), 1, (0, 0), 1),
    ("7a 3x3/2 256>384", 256, 8, 384, (3, 3), 2, (0, 0), 1), ("7a 3x3/2 256>256", 256, 8, 256, (3, 3), 2, (0, 0), 2),
    ("7a 3x3 256>256 p1", 256, 8, 256, (3, 3), 1, (1, 1), 1), ("8 1x1 1792>2x192", 1792, 3, 384, (1, 1), 1, (0, 0), 6),
    ("8 1x3 192>192", 192, 3, 192, (1, 3), 1, (0, 1), 6), ("8 3x1 192>192", 192, 3, 192, (3, 1), 1, (1, 0), 6),
    ("8 1x1 384>1792", 384, 3, 1792, (1, 1), 1, (0, 0), 6), ("fc 1792>512", 1792, 1, 512, (1, 1), 1, (0, 0), 1)]


def mobilefacenet():
    rows = [("stem 3x3/2 3>64", 3, 112, 64, (3, 3), 2, (1, 1), 1, 1), ("dw 3x3 64 @56", 64, 56, 64, (3, 3), 1, (1, 1), 1, 64)]
    for c, o, t, size, s, n in [(64, 64, 2, 56, 2, 1), (64, 64, 2, 28, 1, 4), (64, 128, 4, 28, 2, 1), (128, 128, 2, 14, 1, 6), (128, 128, 4, 14, 2, 1), (128, 128, 2, 7, 1, 2)]:
        w = c * t
        rows += [(f"1x1 {c}>{w} @{size}", c, size, w, (1, 1), 1, (0, 0), n, 1), (f"dw 3x3/{s} {w} @{size}", w, size, w, (3, 3), s, (1, 1), n, w),
                 (f"1x1 {w}>{o}", w, (size - 1) // s + 1, o, (1, 1), 1, (0, 0), n, 1)]
    return rows + [("1x1 128>512 @7", 128, 7, 512, (1, 1), 1, (0, 0), 1, 1), ("dw 7x7 512", 512, 7, 512, (7, 7), 1, (0, 0), 1, 512), ("fc 512>512", 512, 1, 512, (1, 1), 1, (0, 0), 1, 1)]


layers = mobilefacenet() if net == "mfn" else [r + (1,) for r in IRV1]
calls = []
for name, c, size, o, k, s, p, n, g in layers:
    for _ in range(n):
        conv = torch.nn.Conv2d(c, o, k, s, p, groups=g).eval()
        x = torch.rand(batch, c, size, size)
        if packed:
            from torch.utils import mkldnn
            conv, x = mkldnn.to_mkldnn(conv), x.to_mkldnn()
        else:
            conv, x = conv.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        calls.append((name, conv, x, []))
whole, flop = [], {}
with torch.no_grad():
    for rep in range(6 if batch > 8 else 10 if batch > 1 else 25):
        begin = time.thread_time()
        for name, conv, x, times in calls:
            t = time.thread_time()
            y = conv(x)
            times.append(time.thread_time() - t)
            flop[id(times)] = 2 * y.numel() * conv.weight.numel() // (conv.weight.shape[0] if not packed else y.shape[1]) if not packed else 0
        whole.append(time.thread_time() - begin)
median = lambda v: sorted(v)[len(v) // 2]
by_name = {}
for name, _, _, times in calls:
    t, f, n = by_name.get(name, (0, 0, 0))
    by_name[name] = (t + median(times), f + flop[id(times)], n + 1)
for name, (t, f, n) in by_name.items():
    print(f"{name:24} x{n:<2} {t * 1e3:8.3f} ms {f / t * 1e-9:7.1f} GFLOP/s")
print(f"batch {batch}: {median(whole) * 1e3:.2f} ms, {batch / median(whole):.1f} images/s")
