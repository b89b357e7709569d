"""Drives `mien` as scripts do: exit codes, stdout, one line on stderr for each mistake, nothing lost."""
import json, os, shutil, struct, subprocess, sys, tempfile

build, source = map(os.path.abspath, sys.argv[1:3])
MIEN = os.path.join(build, "bin", "mien")
PHOTOS = os.path.join(source, "demo", "photos", "images")
WEIGHTS = os.path.join(source, "weights", "mtcnn.safetensors")
photos = [os.path.join(PHOTOS, n) for n in sorted(os.listdir(PHOTOS))]
work = tempfile.mkdtemp(prefix="mien-program-")
path = lambda *parts: os.path.join(work, *parts)
checks = 0


def mien(*args, env=None, timeout=120):
    e = {k: v for k, v in os.environ.items() if k not in ("MIEN_WEIGHTS", "MIEN_MODEL")}
    return subprocess.run([MIEN, *args], capture_output=True, text=True, env={**e, **(env or {})}, timeout=timeout)


def expect(condition, what, run=None):
    global checks
    checks += 1
    if not condition:
        sys.exit(f"FAILED: {what}" + (f"\n  exit {run.returncode}\n  stdout {run.stdout[:600]!r}\n  stderr {run.stderr[:600]!r}" if run else ""))


def fails(code, words, *args, **more):
    """Exit code, one line on stderr with all the words, and nothing but it."""
    r = mien(*args, **more)
    expect(r.returncode == code, f"{args} ends with {code}", r)
    expect(r.stderr.count("\n") == 1, f"{args} gives one line", r)
    for w in words:
        expect(w in r.stderr, f"{args} says {w!r}", r)
    return r


def write(name, data):
    os.makedirs(os.path.dirname(path(name)), exist_ok=True)
    with open(path(name), "wb") as f: f.write(data)
    return path(name)


# --- results
r = mien("detect", photos[0], photos[1], "--format", "json")
expect(r.returncode == 0 and r.stderr == "", "two photographs", r)
rows = [json.loads(l) for l in r.stdout.splitlines()]
expect([x["file"] for x in rows] == photos[:2], "a line a picture, in order", r)
for row in rows:
    expect(list(row) == ["schema", "file", "width", "height", "faces"] and row["schema"] == "mien.detect/1", "the schema", r)
    scores = [f["score"] for f in row["faces"]]
    expect(scores == sorted(scores, reverse=True), "faces by falling score", r)
    for f in row["faces"]:
        expect(len(f["box"]) == 4 and len(f["points"]) == 5 and all(len(p) == 2 for p in f["points"]), "a face's shape", r)
        left, right, nose, mouth_left, mouth_right = f["points"]
        expect(left[0] < right[0] and mouth_left[0] < mouth_right[0] and left[1] < mouth_left[1], "points as the viewer sees them", r)
expect(sum(len(x["faces"]) for x in rows) > 0, "faces were found", r)
same = mien("detect", photos[0], photos[1], "--format", "json", "--weights", WEIGHTS, "--threads", "1")
expect(same.stdout == r.stdout, "the same bits for one thread and given weights", same)
listed = write("list.txt", (photos[0] + "\n" + photos[1] + "\n").encode())
expect(mien("detect", "@" + listed, "--format", "json").stdout == r.stdout, "@LIST")
folder = mien("detect", PHOTOS, "--format", "json")
expect([json.loads(l)["file"] for l in folder.stdout.splitlines()] == photos, "a folder, sorted", folder)
csv = mien("detect", photos[0], "--format", "csv").stdout.splitlines()
expect(csv[0].startswith("file,x1,y1,x2,y2,score,left_eye_x") and len(csv) == 1 + len(rows[0]["faces"]) and all(len(l.split(",")) == 16 for l in csv), "csv")
text = mien("detect", photos[0])
expect(text.stdout.startswith(photos[0] + ": "), "text", text)
drawn = mien("detect", photos[0], "--draw", path("drawn"), "--save-crops", path("crops"))
expect(drawn.returncode == 0 and len(os.listdir(path("drawn"))) == 1 and len(os.listdir(path("crops"))) == len(rows[0]["faces"]), "drawings and crops", drawn)
again = mien("detect", path("drawn"), "--format", "json")
expect(again.returncode == 0 and json.loads(again.stdout)["width"] == rows[0]["width"], "a drawing is a picture of the same size", again)
fewer = mien("detect", photos[0], "--format", "json", "--min-face", "400")
expect(fewer.returncode == 0 and json.loads(fewer.stdout)["faces"] == [], "no face is a result", fewer)

# --- unreadable pictures: the others are done
good = open(photos[0], "rb").read()
broken = write("mixed/b.jpg", good[: len(good) // 2])
write("mixed/a.jpg", good)
write("mixed/c.png", b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", 60000, 60000) + b"\x08\x02\0\0\0" + b"\0\0\0\0")
shutil.copy(photos[1], path("mixed", "d e\n\"f'.jpg"))
r = mien("detect", path("mixed"), "--format", "json")
expect(r.returncode == 65, "two of four are unreadable", r)
expect(len(r.stdout.splitlines()) == 2 and r.stderr.count("\n") == 2 and broken in r.stderr and "c.png" in r.stderr, "one line each on stderr", r)
expect(mien("detect", path("mixed"), "--max-bad", "2").returncode == 0, "--max-bad 2")
expect(mien("detect", path("mixed"), "--max-bad", "1").returncode == 65, "--max-bad 1")
expect(mien("detect", path("mixed"), "--max-bad", "50%").returncode == 0, "--max-bad 50%")
expect(mien("detect", path("mixed"), "--max-bad", "49%").returncode == 65, "--max-bad 49%")
os.mkfifo(path("fifo.jpg"))
fails(65, ["fifo.jpg", "regular file"], "detect", path("fifo.jpg"))
for i in range(200): write(f"bad200/{i:03d}.jpg", good[: 100 + i])
r = mien("detect", path("bad200"))
expect(r.returncode == 65 and r.stderr.count("\n") == 200 and r.stdout == "", "200 bad files, 200 lines", r)

# --- pictures to read are never written over
os.makedirs(path("own", "below"))
for n in ("own/a.png", "own/below/a.png", "own/x-2-face.png"): shutil.copy(path("drawn", os.listdir(path("drawn"))[0]), path(n))
shutil.copy(photos[0], path("own", "x.jpg"))
before = {n: open(path(n), "rb").read() for n in ("own/a.png", "own/below/a.png", "own/x-2-face.png")}
os.symlink(path("own"), path("other-name"))
fails(2, ["--draw", "own/a.png", "overwritten"], "detect", path("own"), "--draw", path("own"))
fails(2, ["--draw", "a.png", "overwritten"], "detect", path("own"), "--draw", path("other-name"))
fails(2, ["--save-crops", "x-2-face.png"], "detect", path("own"), "--save-crops", path("own"))
expect(all(open(path(n), "rb").read() == b for n, b in before.items()) and len(os.listdir(path("own"))) == 4, "nothing was written")

# --- folders that can't be listed, links that lead nowhere
os.makedirs(path("dangling"))
os.symlink(path("gone.jpg"), path("dangling", "a.jpg"))
fails(65, ["dangling/a.jpg", "No such file"], "detect", path("dangling"))
if os.geteuid() == 0:  # another user has to ask: root may read everything
    os.chmod(work, 0o755)
    os.makedirs(path("closed", "in"))
    shutil.copy(photos[0], path("closed", "in"))
    shutil.copy(photos[0], path("closed", "b.jpg"))
    shutil.copy(photos[0], path("closed", "c.jpg"))
    os.chmod(path("closed", "c.jpg"), 0)
    os.chmod(path("closed", "in"), 0)
    nobody = lambda *args: subprocess.run([MIEN, *args], capture_output=True, text=True, user=65534, group=65534, extra_groups=[])
    r = nobody("detect", path("closed"))
    expect(r.returncode == 65 and "b.jpg" in r.stdout and r.stderr.count("\n") == 2 and "closed/in: can't be listed: Permission denied" in r.stderr, "a closed folder is said, the rest is done", r)
    expect(nobody("detect", path("closed"), "--max-bad", "2").returncode == 0, "a closed folder is one bad picture")
    for p in (path("closed", "in"), path("closed", "in", "x.jpg")):
        r = nobody("detect", p)
        expect(r.returncode == 66 and "Permission denied" in r.stderr and "no picture (" not in r.stderr, "nothing else was readable", r)
    os.makedirs(path("open"))
    os.chmod(path("open"), 0o777)
    for name, *more in (("train_mtcnn", "--voc", os.path.join(source, "demo", "photos"), "--negatives", path("closed")), ("train_facenet", "--data", path("closed"))):
        r = subprocess.run([os.path.join(build, "bin", name), *more, "--out", path("open", name), "--progress", "off"], capture_output=True, text=True,
                           env={**os.environ, "MIEN_WEIGHTS": WEIGHTS}, user=65534, group=65534, extra_groups=[])
        expect(r.returncode == 66 and path("closed", "in") in r.stderr and "Permission denied" in r.stderr and r.stderr.count("\n") == 1, "a training does not leave out what it can't list", r)
    os.chmod(write("closed/w.safetensors", b""), 0)
    r = nobody("detect", photos[0], "--weights", path("closed", "w.safetensors"))
    expect(r.returncode == 66 and "Permission denied" in r.stderr, "weights that may not be read", r)
    r = nobody("detect", photos[0], "--draw", path("closed"))
    expect(r.returncode == 73 and r.stdout == "" and path("closed") in r.stderr, "a folder that may not be written, before the work", r)

# --- mistakes
fails(2, ["unknown option --min-fase", "--min-face"], "detect", photos[0], "--min-fase", "20")
fails(2, ["unknown command detcet", "detect"], "detcet")
fails(2, ["unknown option --verson", "--version"], "--verson")
fails(2, ["min_face", "12"], "detect", photos[0], "--min-face", "3")
fails(2, ["factor"], "detect", photos[0], "--factor", "1.5")
fails(2, ["below .99"], "detect", photos[0], "--factor", ".99")
for n in ("0", "-1", "abc"): fails(2, ["--threads", "whole number of at least 1", n], "detect", photos[0], "--threads", n)
r = fails(65, ["0.jpg", "is empty"], "detect", write("0.jpg", b""))
expect("Convert" not in r.stderr, "nothing to convert in an empty file", r)
fails(65, ["c.png", "too large" if "libspng" in mien("--version").stdout else "limit", "16384"], "detect", path("mixed", "c.png"))
fails(2, ["thresholds", "three"], "detect", photos[0], "--thresholds", ".6,.7")
fails(2, ["thresholds"], "detect", photos[0], "--thresholds", ".6,.7,7")
fails(2, ["format"], "detect", photos[0], "--format", "xml")
fails(2, ["--max-bad"], "detect", photos[0], "--max-bad", "some")
fails(2, ["PATH"], "detect")
fails(66, ["absent.jpg"], "detect", path("absent.jpg"))
fails(66, ["absent"], "detect", "@" + path("absent"))
os.mkdir(path("empty"))
fails(66, [path("empty"), "no picture"], "detect", path("empty"))
fails(66, ["nowhere.safetensors"], "detect", photos[0], "--weights", path("nowhere.safetensors"))
fails(66, ["gone.safetensors"], "detect", photos[0], env={"MIEN_WEIGHTS": path("gone.safetensors")})
if "GPU: cuda" not in mien("doctor").stdout:  # asked for and absent: the reason, never the CPU instead
    fails(69, ["cuda"], "detect", photos[0], "--device", "cuda")
    fails(69, ["cuda"], "bench", "model", "lenet", "--device", "cuda:0")
fails(69, ["cuda"], "detect", photos[0], "--device", "cuda:99")
write("file", b"")
fails(73, [path("file")], "detect", photos[0], "--draw", path("file", "sub"))
moved = path("moved", "bin")
os.makedirs(moved)
shutil.copy(MIEN, moved)
lone = subprocess.run([os.path.join(moved, "mien"), "detect", photos[0]], capture_output=True, text=True, env={k: v for k, v in os.environ.items() if k != "MIEN_WEIGHTS"})
expect(lone.returncode == 66 and "MIEN_WEIGHTS" in lone.stderr and "share/mien/weights" in lone.stderr, "no weights: both places are named", lone)
if os.path.exists("/dev/full"):
    full = subprocess.run([MIEN, "detect", photos[0]], stdout=open("/dev/full", "w"), stderr=subprocess.PIPE, text=True)
    expect(full.returncode == 74, "a full disk on stdout", None)

# --- weights
raw = open(WEIGHTS, "rb").read()
fails(65, ["cut.safetensors"], "detect", photos[0], "--weights", write("cut.safetensors", raw[:-1]))
flipped = bytearray(raw)
flipped[len(raw) // 2] ^= 4
fails(65, ["flip.safetensors"], "detect", photos[0], "--weights", write("flip.safetensors", bytes(flipped)))
fails(65, ["text.safetensors"], "detect", photos[0], "--weights", write("text.safetensors", b"hello, I am not a model"))
n = struct.unpack("<Q", raw[:8])[0]
header = {k: v for k, v in json.loads(raw[8:8 + n]).items() if k != "__metadata__"}


def model(change):
    h, body = json.loads(json.dumps(header)), bytearray(raw[8 + n:])
    change(h, body)
    t = json.dumps(h).encode()
    return struct.pack("<Q", len(t)) + t + bytes(body)


def nan(h, body): body[0:4] = struct.pack("<f", float("nan"))
def rename(h, body): h["pnet.conv9.weight"] = h.pop("pnet.conv1.weight")
def reshape(h, body): h["pnet.conv1.weight"]["shape"] = [30, 3, 3, 1]


first = min(header, key=lambda k: header[k]["data_offsets"][0])
fails(65, ["nan.safetensors", first], "detect", photos[0], "--weights", write("nan.safetensors", model(nan)))
fails(65, ["names.safetensors", "pnet.conv9.weight", "pnet.conv1.weight"], "detect", photos[0], "--weights", write("names.safetensors", model(rename)))
fails(65, ["shape.safetensors", "pnet.conv1.weight"], "detect", photos[0], "--weights", write("shape.safetensors", model(reshape)))

# --- convert and inspect
out = path("round.safetensors")
r = mien("convert", WEIGHTS, "--model", "mtcnn", "--out", out)
expect(r.returncode == 0 and os.path.exists(out), "convert", r)
expect(mien("detect", photos[0], "--format", "json", "--weights", out).stdout == mien("detect", photos[0], "--format", "json").stdout, "converted weights give the same")
os.makedirs(path("far"))
os.symlink("far/w.safetensors", path("link"))
r = mien("convert", WEIGHTS, "--model", "mtcnn", "--out", path("link"))
expect(r.returncode == 0 and os.path.islink(path("link")) and open(path("far", "w.safetensors"), "rb").read() == open(out, "rb").read(), "a link stays, its file is written", r)
os.mkfifo(path("fifo"))
reader = subprocess.Popen(["cat", path("fifo")], stdout=open(path("from-fifo"), "wb"))
r = mien("convert", WEIGHTS, "--model", "mtcnn", "--out", path("fifo"))
expect(r.returncode == 0 and reader.wait(timeout=60) == 0 and open(path("from-fifo"), "rb").read() == open(out, "rb").read() and not os.path.isfile(path("fifo")), "a FIFO is written into", r)
piped = subprocess.run([MIEN, "convert", WEIGHTS, "--model", "mtcnn", "--out", "/dev/stdout"], capture_output=True)
expect(piped.returncode == 0 and piped.stdout.startswith(open(out, "rb").read()), "/dev/stdout")
if os.path.exists("/dev/full"):
    fails(74, ["/dev/full", "No space left"], "convert", WEIGHTS, "--model", "mtcnn", "--out", "/dev/full")
    expect(not os.path.isfile("/dev/full"), "a device stays a device")
r = mien("inspect", WEIGHTS)
for words in ("pnet: 6632 parameters", "rnet: 100178 parameters", "onet: 389040 parameters", "sha256", "MACs"):
    expect(words in r.stdout, f"inspect says {words}", r)
fails(65, ["names.safetensors", "pnet.conv9.weight", "pnet.conv1.weight"], "convert", path("names.safetensors"), "--model", "mtcnn", "--out", path("x.safetensors"))
expect(not os.path.exists(path("x.safetensors")), "nothing is written when names are missing")
fails(2, ["mtcnn"], "convert", WEIGHTS, "--model", "resnet", "--out", path("x.safetensors"))
object_array = b"\x93NUMPY\x01\x00" + struct.pack("<H", 70) + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(69) + b"\n" + b"\x80\x04N."
fails(65, ["o.npy", "object"], "convert", write("o.npy", object_array), "--model", "mtcnn", "--out", path("x.safetensors"))
evil = b"\x80\x02cos\nsystem\nq\0X\x04\0\0\0echoq\x01\x85q\x02Rq\x03."
fails(65, ["evil.pt"], "convert", write("evil.pt", evil), "--model", "mtcnn", "--out", path("x.safetensors"))

# --- embed, align, verify with a net of random weights: the contracts, not the quality
train = os.path.join(build, "bin", "train_facenet")
for i, f in enumerate(photos[:6]):
    os.makedirs(path("people", f"p{i % 3}"), exist_ok=True)
    shutil.copy(f, path("people", f"p{i % 3}"))
def train_facenet(*args):
    return subprocess.run([train, *args, "--progress", "off"], capture_output=True, text=True, timeout=300)
r = train_facenet("--data", path("people"), "--size", "32,32", "--embedding", "16", "--min-face", "20", "--batch", "4", "--epochs", "1", "--scale", "16", "--out", path("run"))
expect(r.returncode == 0 and os.path.exists(path("run", "samples.png")) and os.path.exists(path("run", "metrics.csv")), "train_facenet", r)
MODEL = path("run", "mobilefacenet.safetensors")
faces = ["--model", MODEL, "--min-face", "20"]
r = mien("embed", *photos[:3], path("mixed"), *faces)
rows = [json.loads(l) for l in r.stdout.splitlines()]
expect(r.returncode == 65 and [x["file"] for x in rows][:3] == photos[:3] and len(rows) == 7, "a line a picture, also for those that can't be read", r)
expect(all(list(x) == ["schema", "file", "box", "score", "points", "embedding"] and x["schema"] == "mien.embed/1" for x in rows), "embed's schema", r)
expect(len(rows[0]["embedding"]) == 16 and abs(sum(v * v for v in rows[0]["embedding"]) - 1) < 1e-5, "a unit vector", r)
expect(all(x["embedding"] is None for x in rows if x["box"] is None) and sum(x["box"] is None for x in rows) >= 2, "no face, no embedding", r)
r = mien("embed", *photos[:3], path("mixed"), *faces, "--format", "npy", "--out", path("e.npy"))
raw_npy = open(path("e.npy"), "rb").read()
expect(r.returncode == 65 and b"(7,16,)" in raw_npy[:128], "one row a picture", r)
matrix = struct.unpack("<112f", raw_npy[-448:])
expect(all((matrix[16 * i] != matrix[16 * i]) == (x["embedding"] is None) for i, x in enumerate(rows)), "NaN exactly where there is no embedding")
expect(all(abs(a - b) < 1e-6 for a, b in zip(matrix[:16], rows[0]["embedding"])), "the same values in both formats")
r = mien("embed", photos[0], *faces, "--format", "csv")
lines = r.stdout.splitlines()
expect(len(lines) == 2 and lines[0].startswith("file,x1") and lines[0].endswith("e15") and len(lines[1].split(",")) == 32, "csv of embeddings", r)
everyone = mien("embed", PHOTOS, *faces, "--face", "all")
expect(everyone.returncode == 0 and len(everyone.stdout.splitlines()) > len(photos), "every face of every picture", everyone)
r = mien("align", path("people"), "--out", path("crops2"), *faces)
expect(r.returncode == 0 and sorted(os.listdir(path("crops2"))) == ["p0", "p1", "p2"], "align keeps the folders of people", r)
crop = path("crops2", "p0", sorted(os.listdir(path("crops2", "p0")))[0])
direct, aligned = (json.loads(mien("embed", f, *faces, *more).stdout)["embedding"] for f, more in ((path("people", "p0", os.path.basename(crop)[:-4] + ".jpg"), []), (crop, ["--aligned"])))
expect(direct == aligned, "an aligned crop has the embedding of its picture")
fails(65, ["must have 32x32"], "embed", photos[0], *faces, "--aligned")
r = mien("align", photos[0], crop, "--out", path("crops3"), *faces, "--aligned")
expect(r.returncode == 65 and photos[0] + ": " in r.stderr and "32x32" in r.stderr and len(os.listdir(path("crops3"))) == 1, "no crop: named, the others are done", r)
fails(2, ["--out", crop, "overwritten"], "align", path("crops2"), "--out", path("crops2"), *faces, "--aligned")
fails(2, ["--out", crop, "overwritten"], "embed", crop, "--out", crop, *faces, "--aligned")
fails(73, [path("nowhere", "e.json")], "embed", *photos, *faces, "--out", path("nowhere", "e.json"))
fails(73, [path("crops2"), "folder"], "embed", *photos, *faces, "--out", path("crops2"))
fails(73, [path("file")], "align", *photos, *faces, "--out", path("file"))
r = mien("verify", photos[0], photos[0], *faces, "--threshold", ".5", "--format", "json")
j = json.loads(r.stdout)
expect(r.returncode == 0 and j["verdict"] == "same" and j["distance"] == 0 and j["margin"] == .5 and j["threshold_source"] == "--threshold" and len(j["a"]["box"]) == 4, "verify a picture with itself", r)
r = mien("verify", photos[0], photos[1], *faces, "--threshold", "1e-9", "--format", "json")
expect(r.returncode == 1 and json.loads(r.stdout)["verdict"] == "different", "different people", r)
r = mien("verify", photos[0], photos[1], "--model", MODEL, "--min-face", "900", "--threshold", "1", "--format", "json")
expect(r.returncode == 3 and json.loads(r.stdout)["verdict"] == "no face" and photos[0] in r.stderr and photos[1] in r.stderr, "no face: which picture", r)
fails(2, ["mobilefacenet.safetensors", "--threshold"], "verify", photos[0], photos[1], *faces)
fails(2, ["--threshold", "0 and 4"], "verify", photos[0], photos[1], *faces, "--threshold", "9")
fails(65, ["mtcnn"], "embed", photos[0], "--model", WEIGHTS)
fails(65, ["metadata has no mien.architecture"], "embed", photos[0], "--model", write("bare.safetensors", model(lambda h, b: None)))
fails(66, ["none.safetensors"], "embed", photos[0], "--model", path("none.safetensors"))
fails(2, ["--face", "all"], "embed", photos[0], *faces, "--face", "all", "--format", "npy", "--out", path("x.npy"))
fails(2, ["npy", "--out"], "embed", photos[0], *faces, "--format", "npy")

# --- train_facenet's mistakes
def train_fails(code, words, *args):
    r = train_facenet(*args)
    expect(r.returncode == code, f"train_facenet {args} ends with {code}", r)
    for w in words: expect(w in r.stderr, f"train_facenet {args} says {w!r}", r)
small = ["--size", "16,16", "--embedding", "8", "--min-face", "20", "--epochs", "1"]
train_fails(66, ["is no folder"], "--data", path("nobody"), *small, "--out", path("r1"))
train_fails(65, ["holds pictures but no folder"], "--data", path("mixed"), *small, "--out", path("r2"))
train_fails(73, ["already holds a run"], "--data", path("people"), *small, "--batch", "4", "--out", path("run"))
shutil.copytree(path("people"), path("twice"))
shutil.copytree(path("people", "p0"), path("twice", "P_0"))
train_fails(2, ["'P_0' and 'p0'", "one person twice"], "--data", path("twice"), *small, "--out", path("r3"))
shutil.copytree(path("people"), path("spoilt"))
for i in range(3): shutil.copy(path("bad200", f"{i:03d}.jpg"), path("spoilt", "p0"))
train_fails(65, ["3 of 9 pictures can't be read", "--max-bad"], "--data", path("spoilt"), *small, "--out", path("r4"))
os.makedirs(path("alone", "one"))
shutil.copy(photos[0], path("alone", "one"))
train_fails(65, ["needs two or more"], "--data", path("alone"), *small, "--out", path("r5"))
os.makedirs(path("singles", "a")); os.makedirs(path("singles", "b"))
shutil.copy(photos[0], path("singles", "a")); shutil.copy(photos[1], path("singles", "b"))
train_fails(2, ["PkSampler"], "--data", path("singles"), *small, "--triplets", "hard", "--pk", "2x2", "--out", path("r6"))
train_fails(2, ["--embedding", "16"], "--data", path("people"), "--init", MODEL, "--embedding", "32", "--out", path("r7"))
train_fails(76, ["not finite", "the last batch was", "people/p"], "--data", path("people"), *small[:-2], "--batch", "4", "--lr", "1e30", "--warm-up", "0", "--epochs", "60", "--out", path("r8"))
if "GPU: cuda" not in mien("doctor").stdout:
    train_fails(69, ["cuda"], "--data", path("people"), *small, "--device", "cuda", "--out", path("r8"))
train_fails(2, ["--autocast", "f16", "CPU", "--device cuda"], "--data", path("people"), *small, "--device", "cpu", "--autocast", "f16", "--out", path("r8"))
if "amx" not in mien("doctor").stdout:
    train_fails(2, ["--autocast", "AMX", "--device cuda"], "--data", path("people"), *small, "--device", "cpu", "--autocast", "bf16", "--out", path("r8"))
train_fails(2, ["--autocast", "f64"], "--data", path("people"), *small, "--autocast", "f64", "--out", path("r8"))
train_fails(2, ["device"], "--data", path("people"), *small, "--device", "gpu", "--out", path("r8"))
r = train_facenet("--data", path("people"), *small, "--batch", "4", "--dry-run", "--out", path("r9"))
expect(r.returncode == 0 and all(w in r.stdout for w in ("parameters", "estimated_minutes", "peak_memory_MiB", "disk_needed_MiB")) and not os.path.exists(path("r9", "checkpoint")), "a dry run trains nothing", r)
r = train_facenet("--data", path("people"), "--init", MODEL, "--min-face", "20", "--batch", "4", "--epochs", "1", "--lr", "1e-4", "--head-lr", "10", "--out", path("r10"))
expect(r.returncode == 0, "fine-tuning", r)

# --- bench: the document and the mistakes, not the speed
r = mien("bench", "model", "lenet", "--batch", "4", "--threads", "1", "--runs", "3", "--train")
j = json.loads(r.stdout)
expect(r.returncode == 0 and r.stderr == "" and r.stdout.count("\n") == 1, "bench model", r)
expect(list(j) == ["schema", "command", "net", "mode", "dtype", "inputs", "items", "parameters", "device", "threads", "level", "runs", "wall_ms", "cpu_ms", "rated_by", "items_per_s", "gflop_per_item",
                   "gflops", "share_of_peak", "loss", "peak", "memory", "foreign_cpus", "machine", "mien"] and j["schema"] == "mien.bench/1", "bench's schema", r)
expect(j["mode"] == "train" and j["items"] == 4 and j["inputs"] == [[4, 1, 28, 28]] and j["runs"] == 3 and j["rated_by"] == "cpu_ms" and 2 < j["loss"] < 3, "what was measured", r)
expect(j["wall_ms"]["p10"] <= j["wall_ms"]["median"] <= j["wall_ms"]["p90"] and j["peak"]["f32_gflops"] > 0 and 0 < j["share_of_peak"] < 1.1, "figures that can be", r)
# 28x28 -> 6 maps by 5x5, 16 by 5x5x6 on 10x10, 400-120-84-10: known multiply-adds of the forward pass.
r = mien("bench", "model", "lenet", "--batch", "2", "--runs", "1")
expect(abs(json.loads(r.stdout)["gflop_per_item"] * 1e9 / (2 * (28 * 28 * 6 * 25 + 100 * 16 * 150 + 400 * 120 + 120 * 84 + 84 * 10)) - 1) < 1e-3, "arithmetic is counted", r)
r = mien("bench", "model", "pnet", "--pyramid", "60x45", "--runs", "1")
expect(r.returncode == 0 and json.loads(r.stdout)["inputs"] == [[1, 3, 28, 37], [1, 3, 20, 26], [1, 3, 14, 19]], "a pyramid's scales", r)
r = mien("bench", "model", MODEL, "--batch", "2", "--runs", "1")
expect(r.returncode == 0 and json.loads(r.stdout)["net"] == "mobilefacenet" and json.loads(r.stdout)["inputs"] == [[2, 3, 32, 32]], "bench of a model file", r)
r = mien("bench", "model", "lenet", "--update", "--runs", "2")
expect(r.returncode == 0 and json.loads(r.stdout)["mode"] == "update" and json.loads(r.stdout)["gflops"] is None, "the optimizer's step", r)
r = mien("bench", "detect", photos[0], "--runs", "1", "--threads", "1", "--min-face", "40")
expect(r.returncode == 0 and json.loads(r.stdout)["command"] == "detect" and json.loads(r.stdout)["gflops"] > 0, "bench detect", r)
r = mien("bench", "model", "rnet", "--batch", "3", "--runs", "1", "--dump", path("dump"))
expect(r.returncode == 0 and sorted(os.listdir(path("dump"))) == ["input-0.npy", "output-0.npy", "output-1.npy", "weights.safetensors"], "a dump for other programs", r)
fails(66, ["resnet", "no such model file", "inception-resnet-v1"], "bench", "model", "resnet")
fails(65, ["mtcnn"], "bench", "model", WEIGHTS)
fails(2, ["--pyramid", "640x480"], "bench", "model", "pnet", "--pyramid", "640")
fails(2, ["--pyramid", "pnet"], "bench", "model", "onet", "--pyramid", "640x480")
fails(2, ["--min-face"], "bench", "model", "pnet", "--pyramid", "16x9")
fails(2, ["--batch"], "bench", "model", "lenet", "--batch", "0")
fails(2, ["unknown bench command modle", "model"], "bench", "modle")
fails(2, ["unknown option --bach", "--batch"], "bench", "model", "lenet", "--bach", "4")
fails(66, ["absent.jpg"], "bench", "detect", path("absent.jpg"))
fails(66, ["nowhere.safetensors"], "bench", "detect", photos[0], "--weights", path("nowhere.safetensors"))
fails(73, [path("file")], "bench", "model", "lenet", "--dump", path("file", "sub"))

# --- about itself
r = mien("--version")
for words in ("0.1.0", "cpu levels", "threads", "cuda: ", "decoders"):
    expect(words in r.stdout, f"--version says {words}", r)
expect(mien("doctor").returncode == 0, "doctor")
for topic in ("detect", "embed", "verify", "align", "eval", "convert", "inspect", "bench", "doctor", "exit-codes"):
    expect(mien("help", topic).returncode == 0, f"help {topic}")
r = mien("help", "eval", "lfw")
expect(r.returncode == 0 and "lfw [OPTIONS]" in r.stdout and "--pairs" in r.stdout, "help on a command within a command", r)
fails(2, ["eval lfww", "Did you mean lfw?"], "help", "eval", "lfww")
if os.path.exists("/dev/full"):
    for args in (["--help"], ["detect", "--help"], ["--version"], ["help"], []):
        expect(subprocess.run([MIEN, *args], stdout=open("/dev/full", "w"), stderr=subprocess.DEVNULL).returncode == 74, f"{args} on a full disk")
expect(all(str(c) in mien("help", "exit-codes").stdout for c in (65, 66, 69, 70, 71, 73, 74, 75, 76, 130)), "the table of exit codes")
piped = subprocess.run(f"'{MIEN}' detect '{PHOTOS}' --format json | head -1", shell=True, capture_output=True, text=True)
expect(piped.returncode == 0 and piped.stderr == "", "a closed pipe is no error", piped)

shutil.rmtree(work)
print(f"{checks} checks")
