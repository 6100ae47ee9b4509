"""Golden files for the head `cosine` and for the schedule of its rate: PyTorch's cosine similarity, gradients and AdamW,
and transformers' schedule.

Writes pytorch.safetensors beside this file.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn.functional import cross_entropy, normalize
from transformers import get_cosine_schedule_with_warmup

HERE = Path(__file__).parent
STEPS = 30

random = np.random.RandomState(0)
labels = random.permutation(np.repeat(np.arange(4), [25, 15, 12, 8]))
centres = 2 * random.normal(size=(4, 20))
features = np.maximum(0, centres[labels] + 2 * random.normal(size=(60, 20)) + 1).astype(np.float32)
# A row that is all 0 has no direction.
features[7] = 0
weight = torch.nn.Parameter(torch.from_numpy(random.normal(size=(4, 20)).astype(np.float32)))
log_scale = torch.nn.Parameter(torch.tensor(2.5))
x, y = torch.from_numpy(features), torch.from_numpy(labels)

out = {"set.features": features, "set.labels": labels.astype(np.uint32)}


def put(prefix, weight, log_scale):
    out[f"{prefix}.weight"] = weight.detach().numpy().copy()
    out[f"{prefix}.log_scale"] = np.array(log_scale.detach().numpy())


def logits():
    return log_scale.exp() * normalize(x) @ normalize(weight).T


put("initial", weight, log_scale)
# Full batches, so that the order of the samples does not matter; the scale does not decay.
optimizer = torch.optim.AdamW(
    [{"params": [weight], "weight_decay": 0.1}, {"params": [log_scale], "weight_decay": 0.0}], lr=0.05
)
# Ours leaves out the first and the last rate of this schedule, which are 0.
schedule = get_cosine_schedule_with_warmup(optimizer, STEPS // 10, STEPS + 1)
losses, rates = [], []
for step in range(STEPS):
    optimizer.zero_grad()
    loss = cross_entropy(logits(), y)
    loss.backward()
    if step == 0:
        put("gradient", weight.grad, log_scale.grad)
        out["logits"] = logits().detach().numpy().copy()
    schedule.step()
    rates.append(schedule.get_last_lr()[0] / 0.05)
    optimizer.step()
    losses.append(loss.item())
put("after", weight, log_scale)
out["losses"], out["rates"] = np.array(losses), np.array(rates)

save_file(dict(sorted(out.items())), HERE / "pytorch.safetensors")
print(f"{HERE / 'pytorch.safetensors'}: {len(out)} tensors")
