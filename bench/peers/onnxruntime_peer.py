"""ONNX Runtime, its default CPU provider with every graph optimisation; a session for each input size. Needs export.py's files."""
from common import arguments, load, serve
args = arguments()
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = args.threads, 1
inputs = load(args.folder, "input")
sessions = [ort.InferenceSession(f"{args.folder}/model-{i}.onnx", options, providers=["CPUExecutionProvider"]) for i in range(len(inputs))]


def run():
    for s, x in zip(sessions, inputs): s.run(None, {"x": x})


outputs = sessions[0].run(None, {"x": inputs[0]})
if not args.once: run()
serve(args, f"onnxruntime {ort.__version__}", run, outputs)
