"""OpenVINO's CPU plugin, one stream, true f32 unless --dtype bf16 (its default where the CPU has AMX); a model for each input size. Needs export.py's files."""
from common import arguments, load, serve
args = arguments()
import openvino as ov
core = ov.Core()
core.set_property("CPU", {"INFERENCE_NUM_THREADS": args.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": args.dtype,
                          "ENABLE_CPU_PINNING": False})
inputs = load(args.folder, "input")
requests = [core.compile_model(f"{args.folder}/model-{i}.onnx", "CPU").create_infer_request() for i in range(len(inputs))]


def run():
    for r, x in zip(requests, inputs): r.infer([x], share_inputs=True, share_outputs=True)


outputs = [v.copy() for v in requests[0].infer([inputs[0]]).values()]
if not args.once: run()
serve(args, f"openvino {ov.__version__.split('-')[0]}" + (" bf16" if args.dtype == "bf16" else ""), run, outputs)
