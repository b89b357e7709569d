"""The nets in PyTorch with mien's names of parameters, made from a folder of `mien bench model --dump`. Outputs as mien's: embeddings before normalisation; logits, boxes,
points. Sources: facenet-pytorch for Inception-ResNet-v1, P-, R- and O-Net; MobileFaceNet after Chen et al. (2018), table 1."""
import os
import torch
from torch import nn
from common import load, read_safetensors


class Unit(nn.Module):
    def __init__(self, cin, cout, kernel=1, stride=1, padding=0, groups=1, linear=False):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout)
        self.prelu = nn.Identity() if linear else nn.PReLU(cout)

    def forward(self, x): return self.prelu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, cin, cout, stride, expansion):
        super().__init__()
        mid = cin * expansion
        self.conv = nn.Sequential(nn.Conv2d(cin, mid, 1, bias=False), nn.BatchNorm2d(mid), nn.PReLU(mid), nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False),
                                  nn.BatchNorm2d(mid), nn.PReLU(mid), nn.Conv2d(mid, cout, 1, bias=False), nn.BatchNorm2d(cout))
        self.shortcut = stride == 1 and cin == cout

    def forward(self, x): return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileFaceNet(nn.Module):
    def __init__(self, height=112, width=112, size=512):
        super().__init__()
        self.conv1 = Unit(3, 64, 3, 2, 1)
        self.dw_conv1 = Unit(64, 64, 3, 1, 1, groups=64)
        blocks, cin = [], 64
        for t, c, n, s in ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)):
            for i in range(n):
                blocks.append(Bottleneck(cin, c, s if i == 0 else 1, t))
                cin = c
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = Unit(128, 512)
        self.linear7 = Unit(512, 512, (height // 16, width // 16), groups=512, linear=True)
        self.linear1 = Unit(512, size, linear=True)

    def forward(self, x): return self.linear1(self.linear7(self.conv2(self.blocks(self.dw_conv1(self.conv1(x)))))).flatten(1)


class Ordered(nn.Module):
    """facenet-pytorch's nets give boxes, (points,) probabilities."""
    def __init__(self, net, softmax):
        super().__init__()
        setattr(net, softmax, nn.Identity())
        self.net = net

    def forward(self, x):
        out = self.net(x)
        return (out[-1], *out[:-1])


def make(work, folder):
    """(net in eval mode, head to the people or None)."""
    from facenet_pytorch import InceptionResnetV1
    from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
    if work == "inception-resnet-v1":
        inner = net = InceptionResnetV1(pretrained=None, classify=True, num_classes=2, dropout_prob=0)
        net.logits = nn.Identity()  # what forward gives then is the embedding, not normalised
    elif work == "mobilefacenet": inner = net = MobileFaceNet()
    else:
        inner, softmax = {"pnet": (PNet, "softmax4_1"), "rnet": (RNet, "softmax5_1"), "onet": (ONet, "softmax6_1")}[work]
        inner = inner(pretrained=False)
        net = Ordered(inner, softmax)
    state = {n: torch.from_numpy(t) for n, t in read_safetensors(os.path.join(folder, "weights.safetensors")).items()}
    head = None
    if "head.weight" in state:
        head = nn.Linear(state["head.weight"].shape[1], state["head.weight"].shape[0])
        head.load_state_dict({n: state.pop(f"head.{n}") for n in ("weight", "bias")})
    missing, unexpected = inner.load_state_dict(state, strict=False)
    missing = [m for m in missing if not m.endswith("num_batches_tracked")]
    if missing or unexpected: raise SystemExit(f"{work}: missing {missing[:5]}, unexpected {unexpected[:5]}")
    return net.eval(), head


def three_task_loss(out, labels, boxes, points):
    """As mien::mtcnn::three_task_loss: cross-entropy of the hardest 70 %, half the squared error of boxes, that of landmarks (all of it for O-Net)."""
    logits, box = out[0].flatten(1), out[1].flatten(1)
    judged = labels >= 0
    losses = nn.functional.cross_entropy(logits[judged], labels[judged], reduction="none")
    total = losses.topk(max(1, int(.7 * len(losses))))[0].mean()
    sided = (labels == 1) | (labels == -1)
    total = total + .5 * ((box[sided] - boxes[sided]) ** 2).sum(1).mean()
    if len(out) > 2:
        marked = labels == -2
        total = total + ((out[2][marked] - points[marked]) ** 2).sum(1).mean()
    return total


def targets(folder): return [torch.from_numpy(t) for t in load(folder, "target")]
