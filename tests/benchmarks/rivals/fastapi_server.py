"""python fastapi_server.py PORT MODEL.onnx: the engine on a thread of its own."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from fastapi import FastAPI
from session import Session
from starlette.responses import JSONResponse

session, executor, app = Session(sys.argv[2]), ThreadPoolExecutor(1), FastAPI()


async def predict(request: Any) -> Any:
    body = await request.body()
    return JSONResponse({"predictions": await asyncio.get_running_loop().run_in_executor(executor, session, body)})


app.add_route("/predict", predict, methods=["POST"])
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
