"""A stock list: typed bodies, a lifespan that opens and closes it, and a WebSocket that echoes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from pydantic import BaseModel


class Item(BaseModel):
    name: str
    count: int = 1


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, dict[str, int]]]:
    print("stock opened")
    yield {"stock": {"apples": 3}}
    print("stock closed")


app = FastAPI(title="Stock", lifespan=lifespan)


@app.get("/items/{name}")
async def read(name: str, request: Request) -> Item:
    stock = request.state.stock
    if name not in stock:
        raise HTTPException(404, f"no {name}")
    return Item(name=name, count=stock[name])


@app.post("/items", status_code=201)
async def add(item: Item, request: Request) -> Item:
    stock = request.state.stock
    stock[item.name] = stock.get(item.name, 0) + item.count
    return Item(name=item.name, count=stock[item.name])


@app.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            await socket.send_text(f"echo: {await socket.receive_text()}")
    except WebSocketDisconnect:
        print("socket closed")
