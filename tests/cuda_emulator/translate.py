#!/usr/bin/env python3
"""Turns CUDA sources of kernels/cuda into C++ that g++ compiles against emulator.h. Knows the forms that those files use, not all of CUDA:

  kernel<T><<<grid, block, shared, stream>>>(a, b)    -> mien_emulator::launch(site, {grid, ...}, [=](const auto&... p) { kernel<T>(p...); }, a, b)
  third_kernel<T><<<...>>>(s, {a, b})                 -> mien_emulator::launch_as(site, {grid, ...}, third_kernel<T>)(s, {a, b})   (braces need the parameters' types)
  __global__ void __launch_bounds__(n) f(...) {       -> void f(...) { mien_emulator::bounds(n);
  __shared__ float tile[16][17];                      -> static float tile[16][17]; fresh at the first thread of every block
  extern __shared__ unsigned char raw[];              -> unsigned char* const raw = the block's dynamic shared memory
  __syncthreads(), __shfl_down_sync(...), ...         -> the same with the place of the call, for messages

Lines stay where they are, so that errors and debuggers name the original.

  translate.py SOURCE TARGET
"""
import re
import sys
from pathlib import Path

OPEN, CLOSE = "([{", ")]}"


def fail(path, text, at, why):
    sys.exit(f"{path}:{text.count(chr(10), 0, at) + 1}: {why}")


def matching(text, at):
    """The place of the bracket that closes the one at `at`."""
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] in OPEN) - (text[i] in CLOSE)
        if depth == 0:
            return i
    return -1


def arguments(text):
    """`text` cut at the commas that stand in no bracket, round, square or curly (a comma between <> cuts, which does no harm here)."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in OPEN) - (c in CLOSE)
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return parts + [text[start:]]


def kernel_start(text, end):
    """Where the kernel's name begins that ends before `end`, its template arguments included."""
    at = end
    if text[at - 1] == ">":
        depth = 0
        while True:
            at -= 1
            depth += (text[at] == ">") - (text[at] == "<")
            if depth == 0:
                break
    while re.match(r"[\w:]", text[at - 1]):
        at -= 1
    return at


def launches(path, text):
    while (at := text.find("<<<")) >= 0:
        name_end = len(text[:at].rstrip())
        start = kernel_start(text, name_end)
        close = text.find(">>>", at)
        if close < 0 or text[close + 3] != "(":
            fail(path, text, at, "a launch without >>>(")
        end = matching(text, close + 3)
        kernel, config, given = text[start:name_end], text[at + 3 : close], text[close + 4 : end]
        site = f'MIEN_EMULATOR_SITE("{kernel}")'
        if any(a.lstrip().startswith("{") for a in arguments(given)):
            call = f"::mien_emulator::launch_as({site}, {{{config}}}, {kernel})({given})"
        else:
            call = f"::mien_emulator::launch({site}, {{{config}}}, [=](const auto&... mien_given) {{ {kernel}(mien_given...); }}, {given})"
        text = text[:start] + text[name_end:at] + call + text[end + 1 :]
    return text


def bounds(path, text):
    while (at := text.find("__launch_bounds__")) >= 0:
        end = matching(text, text.index("(", at))
        limit = text[text.index("(", at) + 1 : end]
        body = text.index("{", matching(text, text.index("(", end + 1)))
        text = text[:at] + text[end + 1 : body + 1] + f" ::mien_emulator::bounds({limit});" + text[body + 1 :]
    return text


def translate(path, text):
    text = re.sub(r"^[ \t]*#pragma unroll.*$", "", text, flags=re.M)
    text = launches(path, bounds(path, text))
    text = re.sub(r"extern __shared__ (?:__align__\(\d+\) )?([\w: ]+) (\w+)\[\];", r"\1* const \2 = static_cast<\1*>(::mien_emulator::dynamic_shared());", text)

    def shared(m):
        name = m.group(2)
        return f"static {m.group(1)} {name}{m.group(3)}; MIEN_EMULATOR_FRESH({name});"

    text = re.sub(r"__shared__ ([^;\[]+?) (\w+)((?:\[[^\]]*\])*);", shared, text)
    text = re.sub(r"__syncthreads\(\)", "::mien_emulator::sync_threads(MIEN_EMULATOR_HERE)", text)
    text = re.sub(r"__(shfl_down|ballot)_sync\(", r"::mien_emulator::\1(MIEN_EMULATOR_HERE, ", text)
    for left in ("<<<", "__shared__", "__launch_bounds__", "_sync("):
        if (at := re.sub(r"//.*", lambda m: " " * len(m.group()), text).find(left)) >= 0:
            fail(path, text, at, f"{left} in a form that tests/cuda_emulator/translate.py does not know")
    return f'#line 1 "{path}"\n{text}'


if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(translate(source, source.read_text()))
