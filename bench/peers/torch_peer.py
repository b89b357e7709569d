"""PyTorch: inference, training steps and optimizer steps. --form eager | compile | optimize (jit.optimize_for_inference); channels_last throughout, NCHW with "-nchw".
WORK: a net, NET:train or NET:update."""
from common import arguments, load, serve
args = arguments()
import torch
import nets
torch.set_num_threads(args.threads)
net_name, _, mode = args.work.partition(":")
net, head = nets.make(net_name, args.folder)
inputs = [torch.from_numpy(x) for x in load(args.folder, "input")]
form = args.form or "eager"
if not form.endswith("-nchw"):
    net = net.to(memory_format=torch.channels_last)
    inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
name = f"torch {torch.__version__} {form}" + (" bf16" if args.dtype == "bf16" else "")
autocast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16")

if mode == "update":
    for p in net.parameters(): p.grad = torch.randn_like(p)
    optimizer = torch.optim.SGD(net.parameters(), lr=.001, momentum=.9, weight_decay=5e-4, fused=True)
    optimizer.step()
    serve(args, f"torch {torch.__version__} fused", optimizer.step)
elif mode == "train":
    net.train()
    targets = nets.targets(args.folder)
    parameters = list(net.parameters()) + (list(head.parameters()) if head else [])
    optimizer = torch.optim.SGD(parameters, lr=.001, momentum=.9, weight_decay=5e-4, fused=True)

    def value(x):
        out = net(x)
        return torch.nn.functional.cross_entropy(head(out), targets[0]) if head else nets.three_task_loss(out, targets[0], targets[1], targets[2] if len(targets) > 2 else None)

    if form.startswith("compile"): value = torch.compile(value)

    def step():
        with autocast(): loss = value(inputs[0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    first = float(step().detach())
    step()
    serve(args, name, step, loss=first)
else:
    with torch.inference_mode() if form != "optimize" else torch.no_grad():
        if form == "optimize": net = torch.jit.optimize_for_inference(torch.jit.trace(net, inputs[0]))
        elif form.startswith("compile"): net = torch.compile(net, dynamic=False)

        def run():
            with autocast():
                for x in inputs: net(x)

        with autocast(): out = net(inputs[0])
        if not args.once: run()
        serve(args, name, run, [t.float().numpy() for t in (out if isinstance(out, (tuple, list)) else (out,))])
