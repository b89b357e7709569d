"""A training that runs out of memory, 20 times: exit code 71, what would fit, the checkpoint as it was, and --resume to the bits of a run with enough memory."""
import hashlib, os, random, re, shutil, struct, subprocess, sys, tempfile

build = os.path.abspath(sys.argv[1])
work = tempfile.mkdtemp(prefix="mien-memory-")
path = lambda *parts: os.path.join(work, *parts)
checks = 0


def expect(condition, what, run=None):
    global checks
    checks += 1
    if not condition:
        sys.exit(f"FAILED: {what}" + (f"\n  exit {run.returncode}\n  stdout {run.stdout[:600]!r}\n  stderr {run.stderr[:600]!r}" if run else ""))


def train(*args, limit=None):
    env = {k: v for k, v in os.environ.items() if k != "MIEN_MEMORY_LIMIT"}
    if limit: env["MIEN_MEMORY_LIMIT"] = limit
    return subprocess.run([os.path.join(build, "bin", "train_lenet"), "--data", path("data"), "--device", "cpu", "--threads", "1", "--workers", "0", "--seed", "3", "--progress", "off", *args],
                          capture_output=True, text=True, env=env, timeout=120)


def sha(*parts):
    return hashlib.sha256(open(path(*parts), "rb").read()).hexdigest()


def checkpoint(folder):
    files = sorted(f for f in os.listdir(path(folder, "checkpoint")) if f.endswith(".safetensors"))
    return [(f, sha(folder, "checkpoint", f)) for f in files]


# Pictures of noise: 5 batches of 128.
random.seed(1)
os.makedirs(path("data"))
for name, n in (("train", 640), ("t10k", 20)):
    with open(path("data", f"{name}-images-idx3-ubyte"), "wb") as f: f.write(struct.pack(">IIII", 2051, n, 28, 28) + random.randbytes(n * 784))
    with open(path("data", f"{name}-labels-idx1-ubyte"), "wb") as f: f.write(struct.pack(">II", 2049, n) + bytes(random.randrange(10) for _ in range(n)))

r = train("--batch", "128", "--max-steps", "8", "--out", path("whole"))
expect(r.returncode == 0, "the run with enough memory", r)
r = train("--batch", "128", "--max-steps", "3", "--out", path("cut"))
expect(r.returncode == 0, "its first three steps", r)
before = checkpoint("cut")
expect(len(before) > 0, "a checkpoint was written")

suggested = []
for k in range(20):
    limit = f"{2500 + 270 * k}KiB"
    r = train("--batch", "128", "--max-steps", "8", "--out", path("cut"), "--resume", limit=limit)
    expect(r.returncode == 71, f"limit {limit}", r)
    expect(r.stderr.count("\n") == 1, "one line", r)
    for words in ("wanted", "in use", "kept for reuse", "limit", "a batch of 128", "checkpoint of step 3", "is intact", path("cut"), "--resume"):
        expect(words in r.stderr, f"limit {limit} says {words!r}", r)
    expect(checkpoint("cut") == before, "the checkpoint is as it was", r)
    if m := re.search(r"--batch (\d+)\.$", r.stderr.strip()): suggested.append((limit, int(m.group(1))))
r = subprocess.run([os.path.join(build, "bin", "mien"), "inspect", path("cut", "checkpoint", before[0][0])], capture_output=True, text=True)
expect(r.returncode == 0, "the checkpoint loads", r)
r = train("--batch", "128", "--max-steps", "8", "--out", path("cut"), "--resume")
expect(r.returncode == 0, "resumed with enough memory", r)
expect(sha("cut", "lenet.safetensors") == sha("whole", "lenet.safetensors"), "the weights' bytes of the run that never was short")

# What is suggested fits, and more under a higher limit. (Without workers: batches that they hold ready need memory too, now more, now less.)
expect(len(suggested) >= 15 and suggested[-1][1] > 3 * suggested[0][1], f"suggestions {suggested}")
for limit, batch in suggested[::5]:
    r = train("--batch", str(batch), "--max-steps", "2", "--out", path(f"batch{batch}-{limit}"), limit=limit)
    expect(r.returncode == 0, f"a batch of {batch} under {limit}", r)

r = train("--batch", "128", "--out", path("new"), limit="3MiB")
expect(r.returncode == 71 and "nothing had been saved yet" in r.stderr, "before the first checkpoint", r)
r = train("--batch", "128", "--out", path("new"), limit="lots")
expect(r.returncode == 2 and "'lots'" in r.stderr, "a limit that is none", r)
shutil.rmtree(work)
print(f"{checks} checks")
