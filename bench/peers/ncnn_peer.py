"""ncnn in f32, one picture at a time (it has no batches), its other options as they come. Needs export.py's files."""
import os
from common import arguments, load, serve
args = arguments()
import importlib.metadata
import ncnn
import numpy
net = ncnn.Net()
net.opt.num_threads = args.threads
net.opt.use_vulkan_compute = net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
net.load_param(os.path.join(args.folder, "ncnn.ncnn.param"))
net.load_model(os.path.join(args.folder, "ncnn.ncnn.bin"))
inputs = load(args.folder, "input")
pictures = [ncnn.Mat(one).clone() for x in inputs for one in x]
names = list(net.output_names())


def one(picture):
    ex = net.create_extractor()
    ex.input("in0", picture)
    return [ex.extract(n)[1] for n in names]


def run():
    for p in pictures: one(p)


first = [[numpy.array(m) for m in one(p)] for p in pictures[:len(inputs[0])]]
outputs = [numpy.stack([row[k] for row in first]) for k in range(len(names))]
if not args.once: run()
serve(args, f"ncnn {importlib.metadata.version('ncnn')}", run, outputs)
