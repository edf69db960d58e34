"""Write states of ``dcp_parts.py`` with torch's own writer, from the ranks of torchrun: program, folder, files.

Each ``step-N.pt`` in the folder becomes a directory ``run/step-N``.
"""

import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

if __name__ == "__main__":
    folder, files = Path(sys.argv[1]), int(sys.argv[2])
    distributed.init_process_group("gloo")
    ranks = distributed.get_world_size()
    across = 2 if ranks % 2 == 0 else 1
    line = init_device_mesh("cpu", (ranks,))
    grid = init_device_mesh("cpu", (across, ranks // across))
    placements = {"r": (line, [Shard(0)]), "c": (line, [Shard(1)]), "g": (grid, [Shard(0), Shard(1)])}
    for path in sorted(folder.glob("step-*.pt")):
        state = torch.load(path)
        sharded = {
            name: distribute_tensor(tensor, *placements.get(name[0], (line, [Replicate()])))
            if tensor.is_floating_point() and tensor.ndim
            else tensor
            for name, tensor in state.items()
        }
        where = {name: number % files + 1 for number, name in enumerate(state)} if files > 1 else None
        writer = HuggingFaceStorageWriter(
            str(folder / "run" / path.stem), save_distributed=True, fqn_to_index_mapping=where
        )
        save(sharded, storage_writer=writer)
    distributed.destroy_process_group()
