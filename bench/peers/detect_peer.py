"""facenet-pytorch's MTCNN.detect with the weights of mien's detector file, decoding left out.  --form torch | openvino: the latter runs its three nets by OpenVINO with
dynamic shapes.  FOLDER holds picture.png, weights.safetensors and boxes.json (mien's boxes)."""
import json, os
from common import arguments, read_safetensors, serve
args = arguments()
import numpy
import torch
import facenet_pytorch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from PIL import Image
import importlib.metadata

torch.set_num_threads(args.threads)
PNet.__init__.__defaults__ = RNet.__init__.__defaults__ = ONet.__init__.__defaults__ = (False,)  # no weights of its own
detector = MTCNN(keep_all=True, min_face_size=int(args.work), thresholds=[.6, .7, .7], factor=.709, device="cpu")
state = {n: torch.from_numpy(t) for n, t in read_safetensors(os.path.join(args.folder, "weights.safetensors")).items()}
for name in ("pnet", "rnet", "onet"): getattr(detector, name).load_state_dict({n[5:]: t for n, t in state.items() if n.startswith(name)})
detector.eval()
version = f"facenet-pytorch {importlib.metadata.version('facenet-pytorch')}"

if args.form == "openvino":
    import openvino as ov
    core = ov.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": args.threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False})

    class Compiled(torch.nn.Module):
        def __init__(self, net, side):
            super().__init__()
            shape = [1, 3, -1, -1] if side == 12 else [-1, 3, side, side]
            model = ov.convert_model(net, example_input=torch.zeros(1, 3, max(side, 24), max(side, 24)), input=shape)
            self.dtype_of_inputs = torch.nn.Parameter(torch.zeros(1))  # facenet-pytorch asks a parameter for its dtype
            self.request = core.compile_model(model, "CPU").create_infer_request()

        def forward(self, x): return tuple(torch.from_numpy(v.copy()) for v in self.request.infer([x.numpy()]).values())

    for name, side in (("pnet", 12), ("rnet", 24), ("onet", 48)): setattr(detector, name, Compiled(getattr(detector, name), side))
    version += f" on openvino {ov.__version__.split('-')[0]}"

picture = Image.open(os.path.join(args.folder, "picture.png")).convert("RGB")
with torch.inference_mode():
    boxes, _, _ = detector.detect(picture, landmarks=True)
    extra = {}
    path = os.path.join(args.folder, "boxes.json")
    if os.path.exists(path):
        with open(path) as f: mine = numpy.array(json.load(f)).reshape(-1, 4)
        theirs = numpy.zeros((0, 4)) if boxes is None else boxes
        # Both come by falling score, but near ties may swap: each box of one side against the nearest of the other.
        extra = {"faces": len(theirs), "pixels": float(max((numpy.abs(theirs - m).max(1).min() for m in mine), default=0)) if len(mine) == len(theirs) else None}
    serve(args, version, lambda: detector.detect(picture, landmarks=True), extra=extra)
