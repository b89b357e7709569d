"""See speed.sh."""
import json, os, subprocess, sys

mien = os.path.join(os.path.abspath(sys.argv[1]), "bin", "mien")
# Share of the f32 peak by level.
LIMITS = {
    ("inception-resnet-v1",): {"avx512": .26, "avx2": .30},
    ("mobilefacenet",): {"avx512": .24, "avx2": .24},
    ("onet", "--batch", "32"): {"avx512": .34, "avx2": .36},
    ("onet", "--batch", "32", "--train"): {"avx512": .21, "avx2": .22},
}
failed = False
for work, limits in LIMITS.items():
    best = 0.
    for _ in range(5):
        done = subprocess.run([mien, "bench", "model", *work, "--threads", "1", "--runs", "5"], capture_output=True, text=True)
        if done.returncode != 0: sys.exit(f"FAILED: {work}: exit {done.returncode} {done.stderr}")
        r = json.loads(done.stdout)
        if not r["mien"]["optimised"]: sys.exit(print("MIEN-SKIP: speed: not an optimised build"))
        # Levels above the ones that have figures (tiles) do f32 work at least as fast as the one below.
        level = r["level"] if r["level"] in limits or r["level"] in ("ref", "base") else "avx512"
        if level not in limits: sys.exit(print(f"MIEN-SKIP: speed: nothing is promised for the level {level}"))
        best = max(best, r["share_of_peak"])
        if best >= limits[level]: break
    verdict = "ok" if best >= limits[level] else "TOO SLOW"
    failed = failed or verdict != "ok"
    print(f"{verdict}: {' '.join(work)}: {100 * best:.1f} % of {r['peak']['f32_gflops']:.0f} GFLOP/s, at least {100 * limits[level]:.1f} % ({level})")
sys.exit(failed)
