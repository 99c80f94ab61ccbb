"""When passes are captured and replayed; a graph on a CPU is stood in for by a function that tells."""

import pytest
import torch
from torch import nn

from densenet_suite import cuda_graphs
from densenet_suite.cuda_graphs import replay_


@pytest.fixture
def captured(monkeypatch):
    """Return the shapes that were captured, and how often each was replayed."""
    replays = {}

    def capture(forward, images):
        shape = tuple(images.shape)
        replays[shape] = 0

        def replay(images):
            assert tuple(images.shape) == shape
            replays[shape] += 1
            return forward(images)

        return replay

    monkeypatch.setattr(cuda_graphs, "capture", capture)
    return replays


def test_the_second_batch_of_a_shape_is_captured(captured):
    network = nn.Conv2d(1, 2, 1)
    images = torch.randn(2, 1, 4, 4)
    expected = network(images)
    assert replay_(network) is network
    for replayed in (None, 1, 2):
        assert torch.equal(network(images), expected)
        assert captured.get((2, 1, 4, 4)) == replayed
    assert torch.equal(network(images[:1]), expected[:1])
    assert list(captured) == [(2, 1, 4, 4)]


def test_no_more_graphs_than_memory_is_for(captured):
    network = replay_(nn.Identity())
    for _ in range(3):
        for side in range(1, 13):
            assert network(torch.zeros(1, 1, side, side)).shape[2] == side
    assert len(captured) == cuda_graphs._MOST
    assert set(captured.values()) == {2}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
def test_a_graph_answers_as_the_network():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU()).cuda().eval()
    batches = torch.randn(4, 2, 3, 16, 16, device="cuda")
    with torch.inference_mode():
        expected = [network(images) for images in batches]
        replay_(network)
        for images, answer in zip(batches, expected, strict=True):
            torch.testing.assert_close(network(images), answer)
