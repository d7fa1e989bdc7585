"""python kserve_server.py PORT [NETWORK [DEVICE]]: KServe's custom-model example, torch eager, work on the event loop."""

from __future__ import annotations

import sys
from typing import Any


def main(port: int, name: str = "densenet121", device: str = "cpu") -> None:
    sys.argv = sys.argv[:1]  # KServe parses the command line at import
    import kserve
    import torch
    import torchvision
    from session import pixels

    torch.set_num_threads(2)
    network = getattr(torchvision.models, name)(num_classes=2).eval().to(device)

    class Plain(kserve.Model):
        def __init__(self) -> None:
            super().__init__("plain")
            self.ready = True

        def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
            with torch.no_grad():
                return {"predictions": network(torch.from_numpy(pixels(payload)).to(device)).tolist()}

    kserve.ModelServer(http_port=port, enable_grpc=False, workers=1).start([Plain()])


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
