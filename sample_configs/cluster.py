"""Graphs like those of CLUSTER, and a graph convolutional network in plain torch; nothing here knows of swa-cli.

V. P. Dwivedi et al., "Benchmarking Graph Neural Networks", 2020 (arXiv:2003.00982): find the community of each node,
from the edges and from one node in each community that carries its label.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

N_COMMUNITIES = 6
P_INSIDE, P_BETWEEN = 0.55, 0.25

Graph = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class ClusterGcn(nn.Module):
    """Convolutions over graphs with BatchNorm and residuals; gives (nodes, 6) logits for the nodes of all graphs."""

    def __init__(self, width: int = 48, depth: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_COMMUNITIES + 1, width, padding_idx=0)
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth))
        self.head = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, N_COMMUNITIES))

    def forward(self, marks: torch.Tensor, adjacency: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        """Of the nodes of several graphs, one graph after the other.

        ``marks`` (nodes,) are 0, or the label + 1 of a node that carries it; ``adjacency`` (graphs, m, m) is that of
        each, padded with zeros; ``graph`` (nodes,) says of which graph a node is.
        """
        with_loops = adjacency + torch.eye(adjacency.shape[-1], device=adjacency.device)
        scale = with_loops.sum(dim=-1).rsqrt()
        spread = scale[:, :, None] * with_loops * scale[:, None, :]
        sizes = graph.bincount(minlength=len(adjacency))
        real = torch.arange(adjacency.shape[-1], device=graph.device) < sizes[:, None]
        nodes = self.embedding(marks)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            padded = nodes.new_zeros(*real.shape, nodes.shape[1])
            padded[real] = layer(nodes)
            nodes = nodes + norm((spread @ padded)[real]).relu()  # padding does not enter the statistics
        return self.head(nodes)


class ClusterData:
    """Graphs as the paper generates them; it has 10,000 to train on and 1,000 each to validate and test on."""

    def __init__(
        self, n_train: int = 1000, n_val: int = 200, n_test: int = 500, batch_size: int = 32, seed: int = 0
    ) -> None:
        self.sizes, self.batch_size, self.seed = (n_train, n_val, n_test), batch_size, seed

    def setup(self, stage: str) -> None:
        del stage
        rng = np.random.default_rng(self.seed)
        self.parts: list[Any] = [[cluster_graph(rng) for _ in range(size)] for size in self.sizes]

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(self.parts[0], self.batch_size, shuffle=True, generator=generator, collate_fn=together)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[1], self.batch_size, collate_fn=together)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[2], self.batch_size, collate_fn=together)


def cluster_graph(rng: np.random.Generator) -> Graph:
    """Marks (n,), adjacency (n, n) and communities (n,): six communities of 5 to 34 nodes in random order."""
    community = rng.permutation(np.repeat(np.arange(N_COMMUNITIES), rng.integers(5, 35, size=N_COMMUNITIES)))
    n = len(community)
    chance = np.where(community[:, None] == community, P_INSIDE, P_BETWEEN)
    edges = np.triu(rng.random((n, n)) < chance, k=1)
    marks = np.zeros(n, dtype=np.int64)
    for label in range(N_COMMUNITIES):
        marks[rng.choice(np.flatnonzero(community == label))] = label + 1
    return torch.from_numpy(marks), torch.from_numpy(edges | edges.T).float(), torch.from_numpy(community)


def together(graphs: list[Graph]) -> dict[str, torch.Tensor]:
    """One batch of several graphs."""
    sizes = torch.tensor([len(marks) for marks, _, _ in graphs])
    adjacency = torch.zeros(len(graphs), int(sizes.max()), int(sizes.max()))
    for place, (_, edges, _) in enumerate(graphs):
        adjacency[place, : len(edges), : len(edges)] = edges
    return {
        "marks": torch.cat([marks for marks, _, _ in graphs]),
        "adjacency": adjacency,
        "graph": torch.arange(len(graphs)).repeat_interleave(sizes),
        "labels": torch.cat([communities for _, _, communities in graphs]),
    }
