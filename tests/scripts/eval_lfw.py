"""`mien eval lfw` on a small made-up LFW: every figure equals that of the plain computation below (double precision, no numpy) and, where a Python with
numpy ($MIEN_ORACLE or python3) and the script $MIEN_DATA/../checks/lfw_verify.py are there, what that prints; files, pictures and mistakes besides."""
import csv, json, math, os, random, shutil, struct, subprocess, sys, tempfile, xml.dom.minidom

build, source = map(os.path.abspath, sys.argv[1:3])
MIEN = os.path.join(build, "bin", "mien")
work = tempfile.mkdtemp(prefix="mien-eval-lfw-")
path = lambda *parts: os.path.join(work, *parts)
checks = 0


def expect(condition, what, run=None):
    global checks
    checks += 1
    if not condition: sys.exit(f"FAILED: {what}" + (f"\n  exit {run.returncode}\n  stdout {run.stdout[:900]!r}\n  stderr {run.stderr[:900]!r}" if run else ""))


def mien(*args): return subprocess.run([MIEN, "eval", *args], capture_output=True, text=True, timeout=120)


def fails(code, words, *args):
    r = mien(*args)
    expect(r.returncode == code, f"{args} ends with {code}", r)
    expect(r.stderr.count("\n") == 1 and r.stdout == "", f"{args} gives one line", r)
    for w in words: expect(w in r.stderr, f"{args} says {w!r}", r)


def write(name, data):
    os.makedirs(os.path.dirname(path(name)), exist_ok=True)
    with open(path(name), "wb") as f: f.write(data if isinstance(data, bytes) else data.encode())
    return path(name)


# --- people, pictures, pairs, embeddings
FOLDS, PER, WIDTH = 4, 12, 20
rng = random.Random(11)
names = [f"Person_{k:02d}" for k in range(24)]
lines, pairs = [f"{FOLDS}\t{PER}"], []
for f in range(FOLDS):
    mine = names[6 * f:6 * f + 6]
    for k in range(PER):
        n, (i, j) = mine[k % 6], rng.sample(range(1, 6), 2)
        lines.append(f"{n}\t{i}\t{j}"); pairs.append(((n, i), (n, j), True, f))
    for k in range(PER):
        (n, m), i, j = rng.sample(mine, 2), rng.randint(1, 5), rng.randint(1, 5)
        lines.append(f"{n}\t{i}\t{m}\t{j}"); pairs.append(((n, i), (m, j), False, f))
pairs_file = write("pairs.txt", "\n".join(lines) + "\n")
leaf = lambda p: f"{p[0]}/{p[0]}_{p[1]:04d}.jpg"
photos = sorted(os.listdir(os.path.join(source, "demo", "photos", "images")))
pictures = sorted({leaf(p) for pair in pairs for p in pair[:2]})
os.makedirs(path("lfw"))
for k, p in enumerate(pictures):
    os.makedirs(os.path.dirname(path("lfw", p)), exist_ok=True)
    os.symlink(os.path.join(source, "demo", "photos", "images", photos[k % len(photos)]), path("lfw", p))
f32 = lambda v: struct.unpack("<f", struct.pack("<f", v))[0]
centre = {n: [rng.gauss(0, 1) for _ in range(WIDTH)] for n in names}
rows = [[f32(c + rng.gauss(0, 1.1)) for c in centre[p.split("/")[0]]] for p in pictures]
rows[7] = list(rows[8])                  # equal distances
rows[3] = rows[20] = [math.nan] * WIDTH  # no face


def npy(descr, shape, data):
    h = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    h += " " * (-(len(h) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(h)) + h.encode() + data


def archive(name, texts, values):
    import zipfile
    long = max(map(len, texts))
    with zipfile.ZipFile(path(name), "w") as z:
        z.writestr("paths.npy", npy(f"<U{long}", f"({len(texts)},)", b"".join(t.ljust(long, "\0").encode("utf-32-le") for t in texts)))
        z.writestr("rows.npy", npy("<f4", f"({len(values)}, {WIDTH})", b"".join(struct.pack(f"<{WIDTH}f", *v) for v in values)))
    return path(name)


npz = archive("e.npz", pictures, rows)
rows_file = write("e.npy", npy("<f4", f"({len(rows)}, {WIDTH})", b"".join(struct.pack(f"<{WIDTH}f", *v) for v in rows)))
list_file = write("e.list", "".join(path("lfw", p) + "\n" for p in pictures))


# --- the protocol in plain Python
def plain(ask, inner):
    at = {p: k for k, p in enumerate(pictures)}
    unit = [[v / math.sqrt(sum(w * w for w in r)) for v in r] for r in rows]
    d = [sum((a - b) ** 2 for a, b in zip(unit[at[leaf(p)]], unit[at[leaf(q)]])) for p, q, _, _ in pairs]
    same, fold = [p[2] for p in pairs], [p[3] for p in pairs]
    right = lambda sel, t: sum(not math.isnan(d[i]) and (d[i] < t) == same[i] for i in sel) / len(sel)
    wanted = [i for i in range(len(pairs)) if fold[i] in ask]
    part, pool = (ask, range(len(pairs))) if not inner else (range(inner), wanted)
    if inner: fold = [i % inner if fold[i] in ask else -1 for i in range(len(pairs))]
    acc, used = [], []
    for f in part:
        train = [i for i in pool if fold[i] != f]
        used.append(max((k * .01 for k in range(400)), key=lambda t: right(train, t)))  # the first of the best
        acc.append(right([i for i in range(len(pairs)) if fold[i] == f], used[-1]))
    mean = sum(acc) / len(acc)
    seen = sorted((i for i in wanted if not math.isnan(d[i])), key=lambda i: d[i])
    yes, no = sum(same[i] for i in seen), sum(not same[i] for i in seen)
    tpr, fpr = [0.], [0.]
    for k in range(1, len(seen) + 1):
        tpr.append(sum(same[i] for i in seen[:k]) / yes); fpr.append(sum(not same[i] for i in seen[:k]) / no)
    nearest = min(range(len(fpr)), key=lambda k: abs(fpr[k] - (1 - tpr[k])))
    tar = lambda x: [t for t, f in zip(tpr, fpr) if f <= x][-1]
    return {"pairs": len(wanted), "no_face": len(wanted) - len(seen), "accuracy": mean, "std": math.sqrt(sum((a - mean) ** 2 for a in acc) / len(acc)), "folds": acc, "thresholds": used,
            "auc": sum((fpr[k] - fpr[k - 1]) * (tpr[k] + tpr[k - 1]) / 2 for k in range(1, len(fpr))), "eer": (fpr[nearest] + 1 - tpr[nearest]) / 2,
            "tar@far0.01": tar(1e-2), "tar@far0.001": tar(1e-3)}


DIGITS = {"accuracy": 5, "std": 5, "folds": 4, "thresholds": 2, "auc": 5, "eer": 5, "tar@far0.01": 4, "tar@far0.001": 4}
rounded = lambda j: {k: [round(v, DIGITS[k]) for v in j[k]] if isinstance(j[k], list) else round(j[k], DIGITS.get(k, 0)) if isinstance(j[k], float) else j[k]
                     for k in ("pairs", "no_face", *DIGITS)}
peer = os.path.join(os.environ.get("MIEN_DATA", os.path.join(source, "..", "shared", "data")), "..", "checks", "lfw_verify.py")
pythons = [p for p in (os.environ.get("MIEN_ORACLE"), "python3") if p and subprocess.run([p, "-c", "import numpy"], capture_output=True).returncode == 0] if os.path.exists(peer) else []
for more, ask, inner in (([], [0, 1, 2, 3], 0), (["--folds", "4", "--inner", "10"], [3], 10), (["--folds", "2,4"], [1, 3], 0), (["--inner", "5"], [0, 1, 2, 3], 5)):
    r = mien("lfw", "--images", path("lfw"), "--pairs", pairs_file, "--embeddings", npz, "--format", "json", *more)
    expect(r.returncode == 0 and r.stderr == "", f"eval lfw {more}", r)
    j, p = json.loads(r.stdout), plain(ask, inner)
    expect(j["schema"] == "mien.eval_lfw/1", "the schema", r)
    for k, v in p.items():
        for a, b in zip(j[k], v) if isinstance(v, list) else [(j[k], v)]: expect(abs(a - b) < 1e-12, f"{more} {k}: {a!r} and plainly {b!r}")
    expect(rounded(j) == rounded(p), f"{more}: rounded figures")
    if pythons:
        theirs = subprocess.run([pythons[0], peer, "--images", path("lfw"), "--pairs", pairs_file, "--embeddings", npz, *more], capture_output=True, text=True)
        expect(theirs.returncode == 0, "the peer runs", theirs)
        expect(json.loads(theirs.stdout) == rounded(j), f"{more}: {theirs.stdout} and ours {rounded(j)}")
expect(any(a[0] == b[0] for a in pairs for b in pairs), "pairs")
r = mien("lfw", "--images", path("lfw"), "--pairs", pairs_file, "--embeddings", npz, "--format", "json")
j = json.loads(r.stdout)
expect(0 < j["no_face"] < 20 and .6 < j["accuracy"] < 1, "the made-up set is neither trivial nor hopeless", r)
listed = mien("lfw", "--images", path("lfw"), "--pairs", pairs_file, "--embeddings", rows_file, "--list", list_file, "--format", "json")
expect({**json.loads(listed.stdout), "model": ""} == {**j, "model": ""}, ".npy with a list gives the same", listed)
text = mien("lfw", "--pairs", pairs_file, "--embeddings", npz)
expect(text.returncode == 0 and f"{j['accuracy']:.5f} +- {j['std']:.5f}" in text.stdout and f"{j['auc']:.5f}" in text.stdout, "text", text)

# --- the folder of results
r = mien("lfw", "--images", path("lfw"), "--pairs", pairs_file, "--embeddings", npz, "--out", path("out", "deep"))
expect(r.returncode == 0, "--out", r)
expect(json.load(open(path("out", "deep", "summary.json"))) == j, "summary.json is the result")
table = list(csv.DictReader(open(path("out", "deep", "pairs.csv"))))
expect(len(table) == len(pairs) and [x["verdict"] for x in table].count("no_face") == j["no_face"], "pairs.csv")
right = sum((x["verdict"] == "same") == (x["same"] == "1") for x in table if x["verdict"] != "no_face")
expect(abs(right / len(table) - j["accuracy"]) < 1e-12, "its verdicts have the accuracy that was printed")
expect(all((x["verdict"] == "same") == (float(x["distance"]) < float(x["threshold"])) for x in table if x["distance"]), "its verdicts follow from distance and threshold")
roc = list(csv.DictReader(open(path("out", "deep", "roc.csv"))))
expect(float(roc[-1]["far"]) == 1 and float(roc[-1]["tar"]) == 1 and all(float(a["distance"]) < float(b["distance"]) for a, b in zip(roc, roc[1:])), "roc.csv")
for name in ("roc", "roc_linear", "distances", "accuracy"):
    svg = xml.dom.minidom.parse(path("out", "deep", name + ".svg")).documentElement
    expect(svg.tagName == "svg" and svg.getAttribute("width") == "800", f"{name}.svg is XML")
    expect(open(path("out", "deep", name + ".png"), "rb").read(8) == b"\x89PNG\r\n\x1a\n", f"{name}.png")
expect(os.path.getsize(path("out", "deep", "worst_pairs.png")) > 20000, "worst_pairs.png holds pictures")

# --- mistakes
given = ["lfw", "--images", path("lfw"), "--pairs", pairs_file, "--embeddings", npz]
fails(2, ["unknown option --imges", "--images"], "lfw", "--imges", "x")
fails(2, ["unknown eval command lfww", "Did you mean lfw?"], "lfww")
fails(2, ["subcommand"])
fails(2, ["--pairs"], "lfw")
fails(2, ["--images"], "lfw", "--pairs", pairs_file)
fails(2, ["--images"], "lfw", "--pairs", pairs_file, "--model", "m")
fails(2, ["--calibrated", "model"], *given, "--calibrated", path("x.safetensors"))
fails(2, ["--embeddings"], "lfw", "--pairs", pairs_file, "--list", list_file)
fails(2, ["1..4", "got 5"], *given, "--folds", "5")
fails(2, ["fold 2 twice"], *given, "--folds", "2,2")
fails(2, ["inner"], *given, "--inner", "1")
fails(2, ["format"], *given, "--format", "xml")
one = write("one.txt", "2\n" + "\n".join(lines[1:3] + lines[PER + 1:PER + 3]) + "\n")
fails(2, ["one.txt", "--inner"], "lfw", "--images", path("lfw"), "--pairs", one, "--embeddings", npz)
expect(mien("lfw", "--images", path("lfw"), "--pairs", one, "--embeddings", npz, "--inner", "2").returncode == 0, "one fold in two parts")
fails(66, ["absent.txt"], "lfw", "--pairs", path("absent.txt"), "--embeddings", npz)
fails(66, ["absent.npz"], "lfw", "--pairs", pairs_file, "--embeddings", path("absent.npz"))
fails(65, ["line 3", "two.txt"], "lfw", "--pairs", write("two.txt", "1 1\nA 1 2\nA 1\n"), "--embeddings", npz)
fails(65, ["less.npz", "no row for 1 of", pictures[5]], "lfw", "--pairs", pairs_file, "--embeddings", archive("less.npz", pictures[:5] + pictures[6:], rows[:5] + rows[6:]))
fails(65, ["e.npy", "--list"], "lfw", "--pairs", pairs_file, "--embeddings", rows_file)
fails(65, ["short.list", "1 pictures for"], "lfw", "--pairs", pairs_file, "--embeddings", rows_file, "--list", write("short.list", pictures[0] + "\n"))
fails(66, ["lacks", pictures[0]], "lfw", "--images", path("out"), "--pairs", pairs_file, "--model", "m")
fails(73, [path("pairs.txt")], *given, "--out", path("pairs.txt", "sub"))
# before the pictures are embedded: not even the model, which is not there, is looked at
for words, *more in ((["1..4", "got 6"], "--folds", "6"), (["got 0"], "--folds", "0"), (["fold 1 twice"], "--folds", "1,1"), (["--inner", "96 of 1000"], "--inner", "1000"), (["--inner", "24 of 40"], "--folds", "1", "--inner", "40")):
    fails(2, words, "lfw", "--images", path("lfw"), "--pairs", pairs_file, "--model", "m", *more)
fails(73, [path("nowhere", "m.safetensors")], "lfw", "--images", path("lfw"), "--pairs", pairs_file, "--model", "m", "--calibrated", path("nowhere", "m.safetensors"))
# --- a threshold for mirrored crops is for mirrored crops
SHIPPED = os.path.join(source, "weights", "mobilefacenet.safetensors")
pair = [os.path.join(source, "demo", "photos", "images", p) for p in photos[:2]]
def verify(*args):
    r = subprocess.run([MIEN, "verify", *pair, "--format", "json", "--min-face", "20", *args], capture_output=True, text=True, timeout=120)
    return r, json.loads(r.stdout)["distance"] if r.stdout else None
distance = {flip: verify("--model", SHIPPED, "--threshold", "1", *flip)[1] for flip in ((), ("--flip",))}
expect(distance[()] != distance[("--flip",)], "mirrored crops move the distance")
for flip in distance:
    found = ("--model", path(f"flip{len(flip)}.safetensors"))
    r = mien("lfw", "--images", path("lfw"), "--pairs", one, "--inner", "2", "--model", SHIPPED, "--min-face", "20", "--calibrated", found[1], *flip)
    expect(r.returncode == 0, "a model with a threshold", r)
    r, d = verify(*found)
    expect(d == distance[flip] and ("mirrored" in r.stdout) == bool(flip) and r.stderr == "", "verify asks as the threshold was found", r)
    expect(verify(*found, "--threshold", "1")[1] == distance[()] and verify(*found, "--threshold", "1", "--flip")[1] == distance[("--flip",)], "and with another threshold as it is told")
    r, d = verify(*found, "--flip")
    expect(d == distance[flip] if flip else r.returncode == 2 and "found without mirrored crops" in r.stderr, "never the other way", r)
    for also in distance:
        r = subprocess.run([MIEN, "embed", pair[0], "--min-face", "20", *found, *also], capture_output=True, text=True, timeout=120)
        expect(r.returncode == 0 and ("the threshold in " + found[1] in r.stderr) == (also != flip), "embed says what the threshold is not for", r)
r, d = verify("--model", SHIPPED, "--flip")
expect(d == distance[("--flip",)] and "does not say" in r.stderr, "a file from before that was written into it", r)

if os.path.exists("/dev/full"):
    os.makedirs(path("full"))
    os.symlink("/dev/full", path("full", "summary.json"))
    r = mien(*given, "--out", path("full"))
    expect(r.returncode == 74 and "summary.json" in r.stderr and f"{j['accuracy']:.5f}" in r.stdout, "a full disk does not take the table along", r)

shutil.rmtree(work)
print(f"{checks} checks, beside lfw_verify.py: {'yes' if pythons else 'no (needs numpy and the script)'}")
