"""A chat on FastAPI behind Usher. It has no login: a dependency reads the user from the signed header.

    uvicorn app:app --port 9000
"""

from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket, WebSocketException, status
from verify import InvalidContext, Verifier

verifier = Verifier("http://127.0.0.1:8080/.well-known/usher/jwks.json", "chat")
app = FastAPI()


# Not `async`: FastAPI calls it in a thread, where it may wait for the keys.
def verified_user(socket: WebSocket) -> str:
    """Returns the user of an upgrade. Without a valid header the upgrade gets 403."""
    try:
        return verifier.verify(socket.headers.get("X-User-Context"))["sub"]
    except (InvalidContext, OSError) as error:
        print(f"refused: {error}", flush=True)
        raise WebSocketException(status.WS_1008_POLICY_VIOLATION) from None


@app.websocket("/ws")
async def chat(socket: WebSocket, user: Annotated[str, Depends(verified_user)]):
    await socket.accept()
    print(f"{user} connected", flush=True)
    await socket.send_json({"user": user})
    async for text in socket.iter_text():
        await socket.send_text(f"{user}: {text}")
