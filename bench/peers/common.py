"""What every peer shares. bench/compare starts one process for each engine and piece of work and asks it for runs in turn with mien:

  NAME_peer.py FOLDER WORK [--threads 1] [--dtype f32|bf16] [--form FORM] [--once]

FOLDER holds what `mien bench model --dump` wrote (weights.safetensors, input-N.npy, target-N.npy, output-N.npy). The process first prints one JSON line (name, version,
agreement with mien's outputs); then every line on stdin with a number makes it run so often and print the times. --once: one run, then the end (cold start).
"""
import argparse, glob, json, os, struct, sys, time


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("work")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--form", default="")
    parser.add_argument("--once", action="store_true")
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"): os.environ[name] = str(args.threads)  # before the engine is imported
    return args


def load(folder, kind):
    """The arrays input-0.npy, input-1.npy, ... of a folder."""
    import numpy
    names = sorted(glob.glob(os.path.join(folder, f"{kind}-*.npy")), key=lambda n: int(n.rsplit("-", 1)[1][:-4]))
    return [numpy.load(n) for n in names]


def read_safetensors(path):
    import numpy
    with open(path, "rb") as f: data = f.read()
    size = struct.unpack("<Q", data[:8])[0]
    kinds = {"F32": "<f4", "F64": "<f8", "I64": "<i8"}
    result = {}
    for name, t in json.loads(data[8:8 + size]).items():
        if name == "__metadata__": continue
        begin, end = t["data_offsets"]
        result[name] = numpy.frombuffer(data[8 + size + begin:8 + size + end], kinds[t["dtype"]]).reshape(t["shape"]).copy()
    return result


def difference(folder, outputs):
    """Largest difference from mien's outputs, relative to the largest value of each; None when mien wrote none."""
    import numpy
    expected = load(folder, "output")
    if not expected or outputs is None: return None
    worst = 0.
    for a, b in zip(expected, outputs):
        b = numpy.asarray(b)
        if a.shape != b.shape: return float("inf")
        worst = max(worst, float(numpy.abs(a - b).max() / max(numpy.abs(a).max(), 1e-30)))
    return worst


def busy():
    """Seconds of CPU that all processes took since the machine started."""
    with open("/proc/stat") as f: v = [int(x) for x in f.readline().split()[1:8]]
    return (sum(v) - v[3] - v[4]) / os.sysconf("SC_CLK_TCK")


def peak_resident():
    with open("/proc/self/status") as f: return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmHWM"))


def serve(args, name, run, outputs=None, loss=None, extra=None):
    """`run` does the work once; `outputs` are arrays to compare with mien's, `loss` the first step's."""
    if args.once: return
    print(json.dumps({"peer": name, "difference": difference(args.folder, outputs), "loss": loss, **(extra or {})}), flush=True)
    for line in sys.stdin:
        all_before, own_before, start = busy(), time.process_time(), time.perf_counter()
        wall, cpu = [], []
        for _ in range(int(line)):
            w, c = time.perf_counter(), time.process_time()
            run()
            cpu.append(1e3 * (time.process_time() - c))
            wall.append(1e3 * (time.perf_counter() - w))
        took = time.perf_counter() - start
        foreign = max(0., (busy() - all_before - (time.process_time() - own_before)) / max(took, 1e-9))
        print(json.dumps({"wall_ms": wall, "cpu_ms": cpu, "foreign_cpus": foreign, "resident_MiB": peak_resident()}), flush=True)
