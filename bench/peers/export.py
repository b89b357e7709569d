"""Writes the net of a folder as ONNX, and for ncnn: model.onnx (one for every input size: model-N.onnx) and model.ncnn.{param,bin}.  export.py FOLDER NET"""
import os, subprocess, sys, warnings
import torch
import nets
from common import load

warnings.filterwarnings("ignore")
folder, name = sys.argv[1:3]
net, _ = nets.make(name, folder)
inputs = [torch.from_numpy(x) for x in load(folder, "input")]
for i, x in enumerate(inputs):
    torch.onnx.export(net, (x,), os.path.join(folder, f"model-{i}.onnx"), input_names=["x"], dynamo=False, do_constant_folding=True)
# ncnn works on one picture at a time; its converter ships in the package pnnx. fp16=0: the weights stay f32.
one = [x[:1] for x in inputs]
traced = os.path.join(folder, "ncnn.pt")
torch.jit.trace(net, one[0]).save(traced)
shape = "[" + ",".join(map(str, one[0].shape)) + "]"
smaller = ["inputshape2=[" + ",".join(map(str, one[-1].shape)) + "]"] if len(one) > 1 else []
program = os.path.join(os.path.dirname(sys.executable), "pnnx")
if os.path.exists(program):
    subprocess.run([program, os.path.basename(traced), f"inputshape={shape}", *smaller, "fp16=0"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
print("ncnn" if os.path.exists(os.path.join(folder, "ncnn.ncnn.param")) else "no ncnn model could be made")
